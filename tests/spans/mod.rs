//! The spans and warnings of the library on this thread, field by field.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};

pub type Fields = BTreeMap<&'static str, String>;

#[derive(Clone, Debug)]
pub struct Span {
    pub name: &'static str,
    pub level: Level,
    pub fields: Fields,
    pub closed: bool,
}

impl Span {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// One that holds a number of seconds.
    pub fn seconds(&self, name: &str) -> f64 {
        self.field(name).unwrap().parse().unwrap()
    }
}

#[derive(Clone, Debug)]
pub struct Warning {
    pub fields: Fields,
    /// The operation of the span that it was said in.
    pub inside: Option<String>,
}

#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    warnings: Vec<Warning>,
    entered: Vec<usize>,
}

/// Listens as long as it lives.
pub struct Spans {
    seen: Arc<Mutex<Seen>>,
    _guard: DefaultGuard,
}

impl Spans {
    pub fn listen() -> Spans {
        let seen = Arc::<Mutex<Seen>>::default();
        let listener = Listener(Arc::clone(&seen));
        Spans {
            seen,
            _guard: tracing::subscriber::set_default(listener),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.seen().spans)
    }

    /// The only one.
    pub fn take_one(&self) -> Span {
        let mut spans = self.take();
        assert_eq!(spans.len(), 1, "{spans:#?}");
        spans.remove(0)
    }

    pub fn warnings(&self) -> Vec<Warning> {
        std::mem::take(&mut self.seen().warnings)
    }
}

struct Listener(Arc<Mutex<Seen>>);

impl Listener {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

fn index(id: &Id) -> usize {
    usize::try_from(id.into_u64() - 1).unwrap()
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("motorpool") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Collected::default();
        span.record(&mut fields);
        let mut seen = self.seen();
        seen.spans.push(Span {
            name: span.metadata().name(),
            level: *span.metadata().level(),
            fields: fields.0,
            closed: false,
        });
        Id::from_u64(seen.spans.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut fields = Collected::default();
        values.record(&mut fields);
        if let Some(span) = self.seen().spans.get_mut(index(id)) {
            span.fields.extend(fields.0);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Collected::default();
        event.record(&mut fields);
        let mut seen = self.seen();
        if *event.metadata().level() == Level::WARN {
            let inside = seen.entered.last().and_then(|index| seen.spans.get(*index));
            let inside = inside.and_then(|span| span.field("db.operation.name"));
            let inside = inside.map(str::to_owned);
            let fields = fields.0;
            seen.warnings.push(Warning { fields, inside });
        }
    }

    fn enter(&self, id: &Id) {
        self.seen().entered.push(index(id));
    }

    fn exit(&self, id: &Id) {
        let left = self.seen().entered.pop();
        assert_eq!(left, Some(index(id)), "spans are left in order");
    }

    fn try_close(&self, id: Id) -> bool {
        if let Some(span) = self.seen().spans.get_mut(index(&id)) {
            span.closed = true;
        }
        true
    }
}

#[derive(Default)]
struct Collected(Fields);

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

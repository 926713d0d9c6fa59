//! Everything that any crate writes to either log, at the finest level, and all that an error can
//! print.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::cell::RefCell;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Metadata, Subscriber};

/// Listens as long as it lives, to the thread that it was made on: the tests of a program run
/// beside each other.
pub struct Record(Arc<Mutex<String>>);

/// The one that listens to all threads.
static ALL: Mutex<Option<Arc<Mutex<String>>>> = Mutex::new(None);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Mutex<String>>>> = const { RefCell::new(None) };
}

impl Record {
    pub fn start() -> Record {
        let record = Record::listen();
        CURRENT.set(Some(Arc::clone(&record.0)));
        record
    }

    /// Listens to every thread, for a program with one test.
    pub fn of_all_threads() -> Record {
        let record = Record::listen();
        *ALL.lock().unwrap() = Some(Arc::clone(&record.0));
        record
    }

    fn listen() -> Record {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| {
            tracing::subscriber::set_global_default(Everything).unwrap();
            log::set_logger(&Everything).unwrap();
            log::set_max_level(log::LevelFilter::Trace);
        });
        Record(Arc::default())
    }

    fn text(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self, words: &str) -> usize {
        self.text().matches(words).count()
    }

    /// The lines with these words.
    pub fn lines(&self, words: &str) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(words));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

fn write(line: fmt::Arguments<'_>) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let current = CURRENT.with_borrow(Clone::clone);
    for text in [all, current].into_iter().flatten() {
        let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(text, "{line}");
    }
}

struct Everything;

impl log::Log for Everything {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        write(format_args!("{}: {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        write(format_args!("{}:{}", span.metadata().target(), fields.0));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Values<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        write(format_args!("{}", fields.0));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        write(format_args!("{}:{}", event.metadata().target(), fields.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

/// Everything that an error and its causes can print.
pub fn everything_said(error: &(dyn Error + 'static)) -> String {
    let mut said = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        writeln!(said, "{error}\n{error:?}\n{error:#?}").unwrap();
        next = error.source();
    }
    said
}

//! A recorder that keeps what it is told, by name and labels.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// What was told under each name with its labels: every increment, value or sample.
#[derive(Clone, Default)]
pub struct Meter {
    told: Arc<Mutex<BTreeMap<String, Vec<f64>>>>,
    described: Arc<Mutex<BTreeMap<String, Option<Unit>>>>,
}

/// One name with its labels.
struct Slot {
    name: String,
    meter: Meter,
}

impl Meter {
    /// What was told under this name and these labels.
    pub fn told(&self, key: &str) -> Vec<f64> {
        self.told
            .lock()
            .unwrap()
            .get(key)
            .cloned()
            .unwrap_or_default()
    }

    /// Everything, as a text.
    pub fn text(&self) -> String {
        format!("{:?}", self.told.lock().unwrap())
    }

    pub fn described(&self) -> BTreeMap<String, Option<Unit>> {
        self.described.lock().unwrap().clone()
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut labels: Vec<_> = (key.labels())
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        Arc::new(Slot {
            name: format!("{}{{{}}}", key.name(), labels.join(",")),
            meter: self.clone(),
        })
    }

    fn describe(&self, name: &KeyName, unit: Option<Unit>) {
        let mut described = self.described.lock().unwrap();
        described.insert(name.as_str().to_owned(), unit);
    }
}

impl Slot {
    fn tell(&self, value: f64) {
        let mut told = self.meter.told.lock().unwrap();
        told.entry(self.name.clone()).or_default().push(value);
    }
}

impl CounterFn for Slot {
    fn increment(&self, value: u64) {
        self.tell(value as f64);
    }

    fn absolute(&self, _: u64) {
        panic!("{} is not counted by the library", self.name);
    }
}

impl GaugeFn for Slot {
    fn increment(&self, _: f64) {
        panic!("{} is set", self.name);
    }

    fn decrement(&self, _: f64) {
        panic!("{} is set", self.name);
    }

    fn set(&self, value: f64) {
        self.tell(value);
    }
}

impl HistogramFn for Slot {
    fn record(&self, value: f64) {
        self.tell(value);
    }
}

impl Recorder for Meter {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&name, unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.slot(key))
    }
}

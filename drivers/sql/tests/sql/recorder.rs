//! What is measured, as it stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::time::{sleep, timeout};

/// Counters and gauges of one thread: install it with `metrics::set_default_local_recorder`. That of
/// `metrics-util` sets all to 0 when they are read.
#[derive(Default)]
pub(crate) struct Recorded(Mutex<BTreeMap<Key, Value>>);

#[derive(Clone)]
enum Value {
    Count(Arc<AtomicU64>),
    Level(Arc<AtomicU64>),
}

impl Recorded {
    /// Each value by its name, and the name of its label.
    pub(crate) fn read(&self) -> BTreeMap<(String, String), f64> {
        let values = self.0.lock().unwrap();
        let read = |(key, value): (&Key, &Value)| {
            let labels: Vec<_> = key.labels().map(metrics::Label::key).collect();
            let value = match value {
                Value::Count(count) => {
                    f64::from(u32::try_from(count.load(Ordering::SeqCst)).unwrap())
                }
                Value::Level(bits) => f64::from_bits(bits.load(Ordering::SeqCst)),
            };
            ((key.name().to_owned(), labels.join(", ")), value)
        };
        values.iter().map(read).collect()
    }

    /// One value; not a number if there is none.
    pub(crate) fn value(&self, name: &str, label: &str) -> f64 {
        let values = self.read();
        let value = values.get(&(name.to_owned(), label.to_owned()));
        value.copied().unwrap_or(f64::NAN)
    }

    /// Waits until a value is as it should be.
    pub(crate) async fn until(&self, name: &str, label: &str, good: impl Fn(f64) -> bool) {
        let waiting = async {
            while !good(self.value(name, label)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("{name} never came to that: {:?}", self.read()));
    }

    fn register(&self, key: &Key, new: fn(Arc<AtomicU64>) -> Value) -> Arc<AtomicU64> {
        let mut values = self.0.lock().unwrap();
        let value = values
            .entry(key.clone())
            .or_insert_with(|| new(Arc::default()));
        match value {
            Value::Count(value) | Value::Level(value) => value.clone(),
        }
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register(key, Value::Count))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register(key, Value::Level))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

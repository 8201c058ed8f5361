//! Metrics of a relay, through the `metrics` facade, each with the label `table`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Gauge, SharedString, gauge};
use streams_outbox::{Counts, Pass, RelayReport};

pub use streams_outbox::metrics::{ACTIVE, DEFERRED, FAILURES, LAG, MESSAGES, ROWS, SET_ASIDE};

/// The metrics of one relay.
pub(crate) struct Metrics {
    counts: Counts,
    deferred: Gauge,
    lag: Gauge,
    active: Gauge,
    /// Of each part that this relay is at: rows that wait, and the age of the oldest.
    parts: Mutex<HashMap<String, (usize, Duration)>>,
    report: Mutex<RelayReport>,
}

impl Metrics {
    pub(crate) fn new(table: impl Into<SharedString>) -> Self {
        let table = table.into();
        Self {
            counts: Counts::new(table.clone()),
            deferred: gauge!(DEFERRED, "table" => table.clone()),
            lag: gauge!(LAG, "table" => table.clone()),
            active: gauge!(ACTIVE, "table" => table),
            parts: Mutex::default(),
            report: Mutex::default(),
        }
    }

    /// Counts what a pass has done.
    pub(crate) fn count(&self, pass: &Pass) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        self.counts.count(pass, &mut report);
    }

    /// What was done so far.
    pub(crate) fn report(&self) -> RelayReport {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is with a part.
    pub(crate) fn part(&self, part: &str, deferred: usize, lag: Option<Duration>) {
        self.change(|parts| {
            let known = parts.entry(part.to_owned()).or_default();
            known.0 = deferred;
            if let Some(lag) = lag {
                known.1 = lag;
            }
        });
    }

    /// The relay is at this part no more.
    pub(crate) fn left(&self, part: &str) {
        self.change(|parts| {
            parts.remove(part);
        });
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, (usize, Duration)>)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.active.set(count(parts.len()));
        self.deferred
            .set(count(parts.values().map(|(deferred, _)| deferred).sum()));
        let lag = parts.values().map(|(_, lag)| *lag).max();
        self.lag.set(lag.unwrap_or_default().as_secs_f64());
    }
}

/// What is dropped measures nothing any more.
impl Drop for Metrics {
    fn drop(&mut self) {
        self.change(HashMap::clear);
    }
}

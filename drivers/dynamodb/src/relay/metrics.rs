//! Metrics of a relay, through the `metrics` facade, each with the label `table`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, SharedString, counter, gauge};
use streams_outbox::{Pass, Verdict};

use super::RelayReport;

/// Messages that were written to the destination; a counter.
pub const MESSAGES: &str = "streams_relay_messages_total";
/// Rows of which all was written; a counter.
pub const ROWS: &str = "streams_relay_rows_total";
/// Messages that the destination did not take, each time it did not; a counter.
pub const FAILURES: &str = "streams_relay_failures_total";
/// Rows that were set aside; a counter.
pub const SET_ASIDE: &str = "streams_relay_set_aside_total";
/// Rows that wait to be tried again; a gauge.
pub const DEFERRED: &str = "streams_relay_deferred";
/// How old the oldest row is that was found ready, in seconds; a gauge. 0 if there is none.
pub const LAG: &str = "streams_relay_lag_seconds";
/// At how many partitions or shards this relay is; a gauge. 0 while it stands by.
pub const ACTIVE: &str = "streams_relay_active";

/// The metrics of one relay.
pub(crate) struct Metrics {
    messages: Counter,
    rows: Counter,
    failures: Counter,
    set_aside: Counter,
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
            messages: counter!(MESSAGES, "table" => table.clone()),
            rows: counter!(ROWS, "table" => table.clone()),
            failures: counter!(FAILURES, "table" => table.clone()),
            set_aside: counter!(SET_ASIDE, "table" => table.clone()),
            deferred: gauge!(DEFERRED, "table" => table.clone()),
            lag: gauge!(LAG, "table" => table.clone()),
            active: gauge!(ACTIVE, "table" => table),
            parts: Mutex::default(),
            report: Mutex::default(),
        }
    }

    /// Counts what a pass has done.
    pub(crate) fn count(&self, pass: &Pass) {
        let rows = |of: fn(&Verdict) -> bool| {
            let count = pass.rows.iter().filter(|(_, verdict)| of(verdict)).count();
            count as u64
        };
        let done = rows(|verdict| matches!(verdict, Verdict::Done));
        let set_aside = rows(|verdict| matches!(verdict, Verdict::SetAside { .. }));
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.messages += pass.written;
        report.rows += done;
        report.failures += pass.failures;
        report.set_aside += set_aside;
        self.messages.increment(pass.written);
        self.rows.increment(done);
        self.failures.increment(pass.failures);
        self.set_aside.increment(set_aside);
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

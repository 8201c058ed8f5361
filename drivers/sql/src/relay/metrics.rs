//! Metrics of a relay, through the `metrics` facade, each with the label `table`.

use std::sync::atomic::{AtomicBool, Ordering};
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
/// 1 while this relay is the active one, 0 while it stands by; a gauge.
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
    is_active: AtomicBool,
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
            is_active: AtomicBool::new(false),
        }
    }

    /// Counts what a pass has done, here and in the report.
    pub(crate) fn count(&self, pass: &Pass, report: &mut RelayReport) {
        let rows = |of: fn(&Verdict) -> bool| {
            let count = pass.rows.iter().filter(|(_, verdict)| of(verdict)).count();
            count as u64
        };
        let done = rows(|verdict| matches!(verdict, Verdict::Done));
        let set_aside = rows(|verdict| matches!(verdict, Verdict::SetAside { .. }));
        report.messages += pass.written;
        report.rows += done;
        report.failures += pass.failures;
        report.set_aside += set_aside;
        self.messages.increment(pass.written);
        self.rows.increment(done);
        self.failures.increment(pass.failures);
        self.set_aside.increment(set_aside);
    }

    pub(crate) fn deferred(&self, rows: usize) {
        self.deferred.set(u32::try_from(rows).unwrap_or(u32::MAX));
    }

    pub(crate) fn lag(&self, oldest: Option<Duration>) {
        self.lag.set(oldest.unwrap_or_default().as_secs_f64());
    }

    /// What only the active one measures is nothing when it is not that any more. One that was not
    /// leaves alone what another one in this process measures.
    pub(crate) fn active(&self, active: bool) {
        if self.is_active.swap(active, Ordering::Relaxed) == active {
            return;
        }
        self.active.set(u32::from(active));
        if !active {
            self.deferred(0);
            self.lag(None);
        }
    }
}

/// What is dropped measures nothing any more.
impl Drop for Metrics {
    fn drop(&mut self) {
        self.active(false);
    }
}

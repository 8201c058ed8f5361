//! Metrics of a relay, through the `metrics` facade, each with the label `table`.

use std::sync::atomic::{AtomicBool, Ordering};
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
    is_active: AtomicBool,
}

impl Metrics {
    pub(crate) fn new(table: impl Into<SharedString>) -> Self {
        let table = table.into();
        Self {
            counts: Counts::new(table.clone()),
            deferred: gauge!(DEFERRED, "table" => table.clone()),
            lag: gauge!(LAG, "table" => table.clone()),
            active: gauge!(ACTIVE, "table" => table),
            is_active: AtomicBool::new(false),
        }
    }

    /// Counts what a pass has done, here and in the report.
    pub(crate) fn count(&self, pass: &Pass, report: &mut RelayReport) {
        self.counts.count(pass, report);
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

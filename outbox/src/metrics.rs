//! Metrics of a relay, through the `metrics` facade, each with the label `table`.

use metrics::{Counter, SharedString, counter};

use crate::pass::{Pass, Verdict};

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
/// At how many parts of the outbox this relay is; a gauge. An outbox in SQL is one part: 1 while the relay
/// is the active one. In DynamoDB the parts are partitions or shards. 0 while it stands by.
pub const ACTIVE: &str = "streams_relay_active";

/// What a relay has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayReport {
    /// How many messages were written to the destination; those written again count again.
    pub messages: u64,
    /// How many rows were written, all of their messages.
    pub rows: u64,
    /// How many messages the destination did not take; each time it did not counts.
    pub failures: u64,
    /// How many rows were set aside.
    pub set_aside: u64,
}

/// Counts what passes do. What the relay measures beside is the driver's.
pub struct Counts {
    messages: Counter,
    rows: Counter,
    failures: Counter,
    set_aside: Counter,
}

impl Counts {
    /// Those of an outbox.
    pub fn new(table: impl Into<SharedString>) -> Self {
        let table = table.into();
        Self {
            messages: counter!(MESSAGES, "table" => table.clone()),
            rows: counter!(ROWS, "table" => table.clone()),
            failures: counter!(FAILURES, "table" => table.clone()),
            set_aside: counter!(SET_ASIDE, "table" => table),
        }
    }

    /// Counts what a pass has done, here and in the report.
    pub fn count(&self, pass: &Pass, report: &mut RelayReport) {
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
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counts").finish_non_exhaustive()
    }
}

//! The SQL outbox, relay and queue on PostgreSQL against the client's own statements: same server, same
//! client, same rows, in one run. `cargo xtask bench sql` runs it.

mod latency;
mod queue;
mod relay;
mod setup;
mod write;

use std::process::ExitCode;

use streams_bench::report::{Report, Target};

use setup::Setup;

fn main() -> ExitCode {
    Report::run(|report| {
        let setup = Setup::new();
        report.measure(
            "sql/relay, against DELETE .. RETURNING",
            Target::AtLeast(0.7),
            || relay::measure(&setup),
        );
        report.measure(
            "sql/relay, 1,000,000 rows kept behind against 1,000",
            Target::AtLeast(0.9),
            || relay::behind(&setup),
        );
        report.measure(
            "sql/write_in, time against INSERT",
            Target::AtMost(1.1),
            || write::measure(&setup),
        );
        report.measure(
            "sql/p99 commit to handled, NOTIFY, ms",
            Target::AtMost(20.0),
            || latency::poll(&setup).p99(),
        );
        report.measure(
            "sql/p99 commit to handled, WAL, ms",
            Target::AtMost(20.0),
            || latency::wal(&setup).p99(),
        );
        report.measure(
            "sql/queue, 8 workers, messages/s",
            Target::AtLeast(3000.0),
            || queue::measure(&setup),
        );
    })
}

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
    let mut report = match Report::from_arguments() {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let setup = Setup::new();
    let name = "sql/relay, against DELETE .. RETURNING";
    if report.wants(name) {
        let (ratio, note) = relay::measure(&setup);
        report.figure(name, ratio, Target::AtLeast(0.7), &note);
    }
    let name = "sql/relay, 1,000,000 rows kept behind against 1,000";
    if report.wants(name) {
        let (ratio, note) = relay::behind(&setup);
        report.figure(name, ratio, Target::AtLeast(0.9), &note);
    }
    let name = "sql/write_in, time against INSERT";
    if report.wants(name) {
        let (ratio, note) = write::measure(&setup);
        report.figure(name, ratio, Target::AtMost(1.1), &note);
    }
    let name = "sql/p99 commit to handled, NOTIFY, ms";
    if report.wants(name) {
        let measured = latency::poll(&setup);
        report.figure(name, measured.p99, Target::AtMost(20.0), &measured.note());
    }
    let name = "sql/p99 commit to handled, WAL, ms";
    if report.wants(name) {
        let measured = latency::wal(&setup);
        report.figure(name, measured.p99, Target::AtMost(20.0), &measured.note());
    }
    let name = "sql/queue, 8 workers, messages/s";
    if report.wants(name) {
        let (rate, note) = queue::measure(&setup);
        report.figure(name, rate, Target::AtLeast(3000.0), &note);
    }
    report.finish()
}

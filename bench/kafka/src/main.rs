//! The Kafka driver against the raw client, rdkafka: same broker, same settings, same records, in one
//! run. `cargo xtask bench kafka` runs it.
//!
//! Ratios of throughput are medians of interleaved pairs, as in the benchmarks of the core.

mod consume;
mod latency;
mod memory;
mod produce;
mod setup;

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
    for partitions in [1, 12] {
        let name = format!("kafka/produce, batches of 500, {partitions} partitions");
        if report.wants(&name) {
            let made = produce::measure(&setup, partitions);
            report.figure(&name, made.ratio, Target::AtLeast(0.95), &made.note);
        }
    }
    for partitions in [1, 12] {
        let name = format!("kafka/consume, {partitions} partitions");
        if report.wants(&name) {
            let read = consume::measure(&setup, partitions);
            report.figure(&name, read.ratio, Target::AtLeast(0.9), &read.note);
        }
    }
    let name = "kafka/p99 latency beyond raw, ms";
    if report.wants(name) {
        let measured = latency::measure(&setup);
        report.figure(name, measured.beyond, Target::AtMost(2.0), &measured.note);
    }
    memory(&setup, &mut report);
    report.finish()
}

fn memory(setup: &Setup, report: &mut Report) {
    let name = |prefetch| format!("kafka/memory, MiB, prefetch {prefetch} MiB");
    let wanted: Vec<_> = [1, 8]
        .into_iter()
        .filter(|p| report.wants(&name(*p)))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let topic = memory::backlog(setup);
    for prefetch in wanted {
        let measured = memory::measure(setup, &topic, prefetch);
        let bound = Target::AtMost(measured.bound);
        report.figure(&name(prefetch), measured.mebibytes, bound, &measured.note);
    }
    setup.delete(&topic);
}

/// A ratio of times and what it is made of.
struct Measured {
    ratio: f64,
    note: String,
}

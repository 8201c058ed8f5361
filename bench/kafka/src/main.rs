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
    Report::run(|report| {
        let setup = Setup::new();
        for partitions in [1, 12] {
            let name = format!("kafka/produce, batches of 500, {partitions} partitions");
            report.measure(&name, Target::AtLeast(0.95), || {
                produce::measure(&setup, partitions)
            });
        }
        for partitions in [1, 12] {
            let name = format!("kafka/consume, {partitions} partitions");
            report.measure(&name, Target::AtLeast(0.9), || {
                consume::measure(&setup, partitions)
            });
        }
        report.measure(
            "kafka/p99 latency beyond raw, ms",
            Target::AtMost(2.0),
            || latency::measure(&setup),
        );
        memory(&setup, report);
    })
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

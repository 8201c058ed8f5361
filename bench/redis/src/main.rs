//! The Redis driver against the client's own commands: same server, same client, same entries, in one
//! run. `cargo xtask bench redis` runs it.

mod delayed;
mod publish;
mod read;
mod setup;

use std::process::ExitCode;

use streams_bench::report::{Report, Target};

use setup::Setup;

fn main() -> ExitCode {
    Report::run(|report| {
        let setup = Setup::new();
        report.measure(
            "redis/publish 100 at a time, against pipelined XADD",
            Target::AtLeast(0.9),
            || publish::measure(&setup),
        );
        report.measure(
            "redis/read and acknowledge, against XREADGROUP and XACK",
            Target::AtLeast(0.85),
            || read::measure(&setup),
        );
        report.measure(
            "redis/100,000 due at once, 4 movers, time against scripts",
            Target::AtMost(1.5),
            || delayed::measure(&setup),
        );
    })
}

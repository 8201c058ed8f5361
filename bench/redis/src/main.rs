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
    let mut report = match Report::from_arguments() {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let setup = Setup::new();
    let name = "redis/publish 100 at a time, against pipelined XADD";
    if report.wants(name) {
        let (ratio, note) = publish::measure(&setup);
        report.figure(name, ratio, Target::AtLeast(0.9), &note);
    }
    let name = "redis/read and acknowledge, against XREADGROUP and XACK";
    if report.wants(name) {
        let (ratio, note) = read::measure(&setup);
        report.figure(name, ratio, Target::AtLeast(0.85), &note);
    }
    let name = "redis/100,000 due at once, 4 movers, time against scripts";
    if report.wants(name) {
        let (ratio, note) = delayed::measure(&setup);
        report.figure(name, ratio, Target::AtMost(1.5), &note);
    }
    report.finish()
}

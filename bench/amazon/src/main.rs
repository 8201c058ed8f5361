//! The SQS driver: how many requests it makes, which is what AWS bills, and how fast it is against the
//! raw client: same server, same messages, in one run. `cargo xtask bench amazon` runs it.

mod raw;
mod read;
mod requests;
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
    // Before the others: requests that wait when their queue is deleted are tried again, and count.
    let name = "amazon/requests of an idle reader, a minute";
    if report.wants(name) {
        let (count, note) = requests::idle(&setup);
        report.figure(name, count, Target::AtMost(3.0), &note);
    }
    let name = "amazon/requests per 1,000 messages";
    if report.wants(name) {
        let (count, note) = requests::of_messages(&setup);
        report.figure(name, count, Target::AtMost(330.0), &note);
    }
    let name = "amazon/write, against the raw client";
    if report.wants(name) {
        let (ratio, note) = write::measure(&setup);
        report.figure(name, ratio, Target::AtLeast(0.9), &note);
    }
    let name = "amazon/read, against the raw client";
    if report.wants(name) {
        let (ratio, note) = read::measure(&setup);
        report.figure(name, ratio, Target::AtLeast(0.9), &note);
    }
    report.finish()
}

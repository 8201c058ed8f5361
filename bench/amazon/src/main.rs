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
    Report::run(|report| {
        let setup = Setup::new();
        // Before the others: requests that wait when their queue is deleted are tried again, and count.
        report.measure(
            "amazon/requests of an idle reader, a minute",
            Target::AtMost(3.0),
            || requests::idle(&setup),
        );
        report.measure(
            "amazon/requests per 1,000 messages",
            Target::AtMost(330.0),
            || requests::of_messages(&setup),
        );
        report.measure(
            "amazon/write, against the raw client",
            Target::AtLeast(0.9),
            || write::measure(&setup),
        );
        report.measure(
            "amazon/read, against the raw client",
            Target::AtLeast(0.9),
            || read::measure(&setup),
        );
    })
}

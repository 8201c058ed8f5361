//! The DynamoDB outbox, its relay and the inbox, each against requests that somebody writes by hand: same
//! client, same server, in one run. `cargo xtask bench dynamodb` runs it.

mod commit;
mod deduplicate;
mod relay;
mod setup;

use std::process::ExitCode;

use streams_bench::report::{Report, Target};

use setup::Setup;

fn main() -> ExitCode {
    Report::run(|report| {
        let setup = Setup::new();
        report.measure(
            "dynamodb/commit with a message, time against TransactWriteItems",
            Target::AtMost(1.1),
            || commit::measure(&setup),
        );
        report.measure(
            "dynamodb/relay by query, against Query and BatchWriteItem",
            Target::AtLeast(0.7),
            || relay::measure(&setup),
        );
        report.measure(
            "dynamodb/claim and commit, against PutItem and UpdateItem",
            Target::AtLeast(0.9),
            || deduplicate::measure(&setup),
        );
    })
}

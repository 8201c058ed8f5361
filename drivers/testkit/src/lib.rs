#![doc = include_str!("../README.md")]

mod cases;
mod failure;
mod harness;
mod kit;
mod layers;
mod ledger;
mod lock;
mod macros;
mod need;
mod options;
mod process;
mod report;
mod run;
mod table;
mod tap;

pub use cases::{Case, cases};
pub use harness::{ForeignProducer, Harness, Network, Profile, Server};
pub use need::Need;
pub use options::{RunOptions, Scale};
pub use process::{ReaderProcess, this_test};
pub use report::{CaseReport, Report, Verdict};
pub use run::{run, run_case, run_with};
pub use table::{cases_table, guarantees_table};

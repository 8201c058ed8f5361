//! The conformance kit: does a driver keep what it promises?
//!
//! Every driver of the Streams workspace runs these cases against its real server. To run them on a
//! driver of your own, implement [`Harness`] (one method is required) and call [`run`]:
//!
//! ```no_run
//! use streams_core::{AnyDriver, Result, async_trait};
//! use streams_testkit::Harness;
//!
//! struct MyHarness;
//!
//! #[async_trait]
//! impl Harness for MyHarness {
//!     async fn open(&self) -> Result<AnyDriver> {
//!         # use std::sync::Arc;
//!         # fn my_driver() -> AnyDriver { unimplemented!() }
//!         Ok(my_driver())
//!     }
//! }
//!
//! # async fn example() {
//! streams_testkit::run(MyHarness).await.assert_passed();
//! # }
//! ```
//!
//! or have each case as a test of its own with [`conformance!`]. The guide
//! `docs/writing-a-driver.md` builds a driver from nothing and runs the kit on it.
//!
//! # What a case is
//! - It is chosen by the driver's [`Capabilities`](streams_core::Capabilities) and by the harness's
//!   hooks. A stronger capability only ever adds cases; a case that is left out says why.
//! - It has a budget for loss, duplicates and reordering, and checks all three. Loss is always 0.
//! - It publishes before it subscribes, unless the driver says that it does not
//!   [keep messages](streams_core::Capabilities#structfield.keeps_before_group) for groups to come.
//! - It has a timeout: what hangs fails, by name.
//!
//! # Environment
//! | variable | effect |
//! | --- | --- |
//! | `STREAMS_KIT_CASE=order` | runs only the cases whose name contains the text; several separated by commas |
//! | `STREAMS_KIT_QUICK=1` | divides message counts by ten |

mod cases;
mod failure;
mod harness;
mod kit;
mod layers;
mod ledger;
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

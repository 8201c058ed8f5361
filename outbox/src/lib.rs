#![doc = include_str!("../README.md")]

mod deferred;
mod message;
pub mod metrics;
mod pass;
mod poll;
mod settings;
pub mod stop;
#[cfg(feature = "testing")]
pub mod testing;

pub use deferred::{Deferred, Lane};
pub use message::{decode, encode};
pub use metrics::{Counts, RelayReport};
pub use pass::{Pass, Rest, Row, Terms, Verdict, pass};
pub use poll::Poll;
pub use settings::{Cleanup, Settings};

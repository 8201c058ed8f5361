#![doc = include_str!("../README.md")]

mod deferred;
mod message;
mod pass;
pub mod stop;

pub use deferred::{Deferred, Lane};
pub use message::{decode, encode};
pub use pass::{Pass, Rest, Row, Terms, Verdict, pass};

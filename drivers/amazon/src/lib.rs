#![doc = include_str!("../README.md")]

#[cfg(not(any(feature = "sqs", feature = "sns")))]
compile_error!("streams-amazon has a driver for each feature; switch on `sqs`, `sns` or both");

// What both clients have.
#[cfg(not(feature = "sqs"))]
use aws_sdk_sns as sdk;
#[cfg(feature = "sqs")]
use aws_sdk_sqs as sdk;

mod batches;
mod connection;
mod error;
mod limits;
mod message;
mod names;
mod text;
mod writer;

#[cfg(feature = "sqs")]
mod config;
#[cfg(feature = "sqs")]
mod options;
#[cfg(feature = "sqs")]
mod poll;
#[cfg(feature = "sqs")]
mod queues;
#[cfg(feature = "sqs")]
mod reader;
#[cfg(feature = "sqs")]
mod send;
#[cfg(feature = "sqs")]
mod settle;
#[cfg(feature = "sns")]
mod sns;
#[cfg(feature = "sqs")]
mod sqs;
#[cfg(feature = "sqs")]
mod url;

#[cfg(feature = "sqs")]
pub use config::SqsBuilder;
#[cfg(feature = "sqs")]
pub use options::SqsOptions;
#[cfg(feature = "sqs")]
pub use queues::NewQueues;
#[cfg(all(feature = "sqs", feature = "sns"))]
pub use sns::{NewSubscription, SnsOptions};
#[cfg(feature = "sns")]
pub use sns::{Sns, SnsBuilder};
#[cfg(feature = "sqs")]
pub use sqs::Sqs;

//! Streams: services publish and subscribe to events; a driver crate for each backend carries them.
//!
//! - [`Bus`] ties it together: publish events, subscribe handlers, run, shut down.
//! - [`Writer`] and [`Reader`] are what a driver implements; the runner does the rest: concurrency,
//!   order per key, retries, leases, commits, shutdown.
//! - [`Handler`] is what an application implements, mostly as a closure; middleware are
//!   [`tower_layer::Layer`]s around it.
//! - [`EventRegistry`] says which event goes to which stream, in which codec.
//!
//! The project's guide to the design is `docs/architecture.md`.

mod bus;
mod capabilities;
mod clock;
mod codec;
pub mod dead_letter;
mod dedup;
mod delivery;
mod driver;
mod error;
mod event;
mod failure;
mod handler;
mod headers;
mod id;
mod key;
mod message;
mod names;
mod options;
mod partitions;
mod publisher;
mod reader;
mod registry;
mod runner;
#[cfg(feature = "tower")]
pub mod tower;
mod url;
mod writer;

pub use bus::{
    Activity, BatchHandling, Bus, BusBuilder, RunReport, SingleHandling, SubscriptionBuilder,
    SubscriptionReport,
};
pub use capabilities::{Acknowledgement, Capabilities, Order, StartPositions};
pub use clock::Clock;
pub use codec::{Codec, Json, Protobuf};
pub use dedup::{Claim, ClaimId, DeduplicationStorage};
pub use delivery::{
    AckToken, Assignment, Delivery, ExtendReport, Metadata, Received, SettleAction, SettleReport,
    Settlement, TokenId, TransactionPart,
};
pub use driver::{AnyDriver, Driver};
pub use error::{Error, ErrorKind, Result, WriteError};
pub use event::{Event, Schema};
pub use failure::{Backoff, FailurePolicy};
pub use handler::{
    Batch, BatchFn, BatchOutcome, Cancelled, Context, EventFn, Handler, HandlerError,
    HandlerResult, Input, IntoHandlerResult, MessageFn, Outcome, batch_fn, event_fn, message_fn,
};
pub use headers::{Headers, IntoHeaderValue};
pub use id::{IdentifierFactory, MessageId, ksuid, uuid_v7};
pub use key::Key;
pub use message::{Message, MessageBuilder, from_unix_millis, unix_millis, unix_millis_not_before};
pub use names::{ContentType, DEAD_LETTER_SUFFIX, IntoStreamName, StreamName};
pub use options::{DriverArguments, DriverOptions, OptionFor};
pub use partitions::PartitionListener;
pub use publisher::{Publisher, PublisherBuilder};
pub use reader::{ReadOptions, Reader, StartFrom, Subscription};
pub use registry::{EventInfo, EventRegistry};
pub use runner::Ordering;
#[cfg(feature = "derive")]
pub use streams_macros::Event;
pub use tower_layer::Layer;
pub use url::{DriverRegistry, DriverUrl, OpenDriver};
pub use writer::{NoopWriter, Scheduled, Writer};

// Driver authors implement the traits with the same macro the core uses.
pub use async_trait::async_trait;

#![doc = include_str!("../README.md")]

mod database;
mod error;
mod inbox;
mod outbox;
mod queue;
mod relay;
mod schema;
mod table;
mod transaction;
#[cfg(feature = "wal")]
pub mod wal;

pub use database::Database;
#[cfg(feature = "mysql")]
pub use database::MySql;
#[cfg(feature = "postgres")]
pub use database::Postgres;
#[cfg(feature = "sqlite")]
pub use database::Sqlite;
pub use inbox::{Inbox, InboxBuilder, InboxEventFn, InboxMessageFn};
pub use outbox::{Outbox, OutboxBuilder, OutboxTransaction, SetAside};
pub use queue::{SqlQueue, SqlQueueBuilder, SqlQueueOptions};
pub use relay::{Cleanup, Relay, RelayBuilder, RelayReport, metrics};
pub use transaction::{Connection, Transaction};
#[cfg(feature = "wal")]
pub use wal::{WalRelay, WalRelayBuilder};

/// The driver's name in errors and capabilities.
pub(crate) const DRIVER: &str = "sql";

#![doc = include_str!("../README.md")]

mod clock;
mod config;
mod error;
mod inbox;
mod item;
mod outbox;
mod relay;
mod table;
mod url;

use std::fmt;

use aws_sdk_dynamodb::Client;

pub use config::DynamoDbBuilder;
pub use inbox::{Inbox, InboxBuilder};
pub use outbox::{NewTables, Outbox, OutboxBuilder, OutboxTransaction, SetAside};
pub use relay::{Cleanup, Mode, Relay, RelayBuilder, RelayReport, metrics};

use clock::Clock;

/// The driver's name in errors and capabilities.
pub(crate) const DRIVER: &str = "dynamodb";

/// A connection to DynamoDB and its streams. Cheap to clone; clones share connections.
///
/// ```no_run
/// use streams_dynamodb::{DynamoDb, Outbox};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> streams_core::Result<()> {
/// let dynamodb = DynamoDb::builder().region("eu-west-1").build().await?;
/// let outbox = Outbox::builder(dynamodb).build()?;
/// # let _ = outbox;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DynamoDb {
    pub(crate) client: Client,
    pub(crate) streams: aws_sdk_dynamodbstreams::Client,
    pub(crate) clock: Clock,
}

impl DynamoDb {
    /// Starts a connection.
    pub fn builder() -> DynamoDbBuilder {
        DynamoDbBuilder::new()
    }

    /// The client of the SDK, for requests of your own.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl fmt::Debug for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb").finish_non_exhaustive()
    }
}

//! The transactional outbox: messages are written in the transaction of the change they tell of, and a
//! relay moves them on once it is committed.

mod items;
mod operate;
pub(crate) mod row;
mod transaction;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::types::TableDescription;
use streams_core::{Error, ErrorKind, Result};
use tokio::sync::{OnceCell, watch};

use crate::error::{code, error};
use crate::item::{get_number, item, number};
use crate::table::{Table, streams};
use crate::{DRIVER, DynamoDb};

pub use self::operate::SetAside;
use self::row::{PARTITION, PARTITIONS, SEQUENCE, SETTINGS};
pub use self::transaction::OutboxTransaction;

/// How `Outbox::migrate` makes tables that are missing.
///
/// ```
/// use streams_dynamodb::NewTables;
///
/// let tables = NewTables::new().partitions(32).stream(false);
/// # let _ = tables;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until it is given to `migrate`"]
pub struct NewTables {
    partitions: u32,
    stream: bool,
}

impl NewTables {
    /// Eight partitions, with a stream.
    pub fn new() -> Self {
        Self {
            partitions: 8,
            stream: true,
        }
    }

    /// Sets among how many partitions the messages are spread by their keys: 1 to 1,024; the default is
    /// 8. DynamoDB takes some 300 messages of up to 1 KB a second in each, and so many relays can share
    /// the work of a relay by query, which looks at each in turn. It is kept in the table, and cannot
    /// be changed while messages wait.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets whether the table has a stream, for relays in [`Mode::Streams`](crate::Mode::Streams); the
    /// default is yes. A table that is there without one gets it.
    pub fn stream(mut self, stream: bool) -> Self {
        self.stream = stream;
        self
    }
}

impl Default for NewTables {
    fn default() -> Self {
        Self::new()
    }
}

/// An outbox table. Cheap to clone; clones are one outbox.
///
/// ```no_run
/// use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
/// use streams_core::Message;
/// use streams_dynamodb::{DynamoDb, NewTables, Outbox};
///
/// # async fn pay(dynamodb: DynamoDb) -> Result<(), Box<dyn std::error::Error>> {
/// let outbox = Outbox::builder(dynamodb.clone()).build()?;
/// outbox.migrate(&NewTables::new()).await?;
///
/// let payment = Put::builder()
///     .table_name("payments")
///     .item("id", AttributeValue::S("17".into()))
///     .build()?;
/// let message = Message::builder("payment.made").key("17").data("{}").build()?;
///
/// let mut tx = outbox.begin();
/// tx.add(TransactWriteItem::builder().put(payment).build())?;
/// tx.writer().write(&[message]).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
///
/// # Order
/// The messages of a key in a stream are relayed in the order of the commits. For that each
/// transaction has one more item for each key in it, which says how far the key has come, by the clock
/// of DynamoDB. A transaction that comes too late for its place in the order is cancelled, gets a later
/// place, and is sent again. [`ordered(false)`](OutboxBuilder::ordered) saves those items where keys
/// need no order.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    dynamodb: DynamoDb,
    table: Table,
    leases: Table,
    ordered: bool,
    partitions: OnceCell<u32>,
    /// The latest place in the order that was given out, or seen: microseconds since 1970.
    last: Mutex<u64>,
    written: watch::Sender<()>,
}

/// Builds an [`Outbox`].
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct OutboxBuilder {
    dynamodb: DynamoDb,
    table: String,
    leases: String,
    ordered: bool,
}

impl OutboxBuilder {
    /// Sets the table; the default is `streams_egress`.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Sets the table of the relays' leases and checkpoints; the default is `streams_relay`. Outboxes
    /// may share it.
    pub fn leases_table(mut self, table: impl Into<String>) -> Self {
        self.leases = table.into();
        self
    }

    /// Sets whether the messages of a key keep the order of the commits; the default is yes. Without,
    /// a key is in order as long as one process writes it, and messages that several write within
    /// about a second may change places.
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// The outbox. Nothing is asked of DynamoDB yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a name that no table can have, or one for both.
    pub fn build(self) -> Result<Outbox> {
        if self.table == self.leases {
            return Err(Error::invalid_config(
                "outbox and leases are one table; give each its own",
            )
            .driver(DRIVER));
        }
        Ok(Outbox(Arc::new(Inner {
            dynamodb: self.dynamodb,
            table: Table::new(&self.table, PARTITION, SEQUENCE)?,
            leases: Table::new(&self.leases, "relay_name", "part_id")?,
            ordered: self.ordered,
            partitions: OnceCell::new(),
            last: Mutex::new(0),
            written: watch::Sender::new(()),
        })))
    }
}

impl Outbox {
    /// Starts an outbox.
    pub fn builder(dynamodb: DynamoDb) -> OutboxBuilder {
        OutboxBuilder {
            dynamodb,
            table: "streams_egress".to_owned(),
            leases: "streams_relay".to_owned(),
            ordered: true,
        }
    }

    /// Makes the tables of outbox and leases where they are missing, billed by request, and lets
    /// DynamoDB delete what has expired in them. Several processes may do so at once.
    ///
    /// # Errors
    /// - [`InvalidConfig`](ErrorKind::InvalidConfig) when a table of that name has another schema.
    /// - [`Permission`](ErrorKind::Permission) when the caller may not make tables.
    pub async fn migrate(&self, new: &NewTables) -> Result<()> {
        if !(1..=1024).contains(&new.partitions) {
            return Err(
                Error::invalid_config("`partitions` must be between 1 and 1,024").driver(DRIVER),
            );
        }
        let Inner {
            dynamodb,
            table,
            leases,
            ..
        } = &*self.0;
        table.create(dynamodb, new.stream).await?;
        leases.create(dynamodb, false).await?;
        let mut settings = settings();
        settings.insert(PARTITIONS.to_owned(), number(new.partitions));
        let put = dynamodb.client.put_item().table_name(&table.name);
        let put = put.set_item(Some(settings));
        let put = put.condition_expression(format!("attribute_not_exists({PARTITION})"));
        match put.send().await {
            Ok(_) => Ok(()),
            Err(source) if code(&source) == Some("ConditionalCheckFailedException") => Ok(()),
            Err(source) => Err(error(&source, "migrate").with("table", table)),
        }
    }

    /// Checks that the tables are there, with the keys that they should have.
    ///
    /// # Errors
    /// - [`NotFound`](ErrorKind::NotFound) when one is not there.
    /// - [`InvalidConfig`](ErrorKind::InvalidConfig) when one has another schema.
    pub async fn check(&self) -> Result<()> {
        self.0.leases.check(&self.0.dynamodb).await?;
        self.described().await?;
        self.read_partitions().await.map(drop)
    }

    /// The ARN of the table's stream.
    ///
    /// # Errors
    /// `InvalidConfig` if it has none, or one without what was written.
    pub(crate) async fn stream(&self) -> Result<String> {
        let table = self.described().await?;
        let arn = table.latest_stream_arn.clone().filter(|_| streams(&table));
        arn.ok_or_else(|| {
            Error::invalid_config(
                "the outbox table has no stream of new images; call `migrate`, enable one \
                 (`NEW_IMAGE`), or relay by query",
            )
            .driver(DRIVER)
            .with("table", &self.0.table)
        })
    }

    async fn described(&self) -> Result<TableDescription> {
        self.0.table.check(&self.0.dynamodb).await
    }

    /// Deletes the tables and all that waits in them. Where outboxes share the table of the leases, do
    /// not.
    ///
    /// # Errors
    /// When DynamoDB refuses.
    pub async fn delete_tables(&self) -> Result<()> {
        self.0.table.delete(&self.0.dynamodb).await?;
        self.0.leases.delete(&self.0.dynamodb).await.map(drop)
    }

    /// Wakes the relays of this process that work on this outbox or a clone of it. Call it after a
    /// request of your own with [`items`](Outbox::items). Without it the messages go out all the same,
    /// at the relay's next look.
    pub fn notify(&self) {
        self.0.written.send_replace(());
    }

    /// Tells of [`notify`](Outbox::notify).
    pub(crate) fn notified(&self) -> watch::Receiver<()> {
        self.0.written.subscribe()
    }

    pub(crate) fn dynamodb(&self) -> &DynamoDb {
        &self.0.dynamodb
    }

    pub(crate) fn table(&self) -> &Table {
        &self.0.table
    }

    pub(crate) fn leases(&self) -> &Table {
        &self.0.leases
    }

    /// Among how many partitions the messages are spread. The table says it, so that writers and relays
    /// agree.
    pub(crate) async fn partitions(&self) -> Result<u32> {
        let partitions = self.0.partitions.get_or_try_init(|| self.read_partitions());
        partitions.await.copied()
    }

    async fn read_partitions(&self) -> Result<u32> {
        let table = &self.0.table;
        let get = self.0.dynamodb.client.get_item().table_name(&table.name);
        let get = get.set_key(Some(settings())).consistent_read(true);
        let got = match get.send().await {
            Ok(got) => got,
            // Keys that are not those of the table. It can say better what is wrong.
            Err(source) if code(&source) == Some("ValidationException") => {
                table.check(&self.0.dynamodb).await?;
                return Err(error(&source, "check").with("table", table));
            }
            Err(source) => return Err(error(&source, "check").with("table", table)),
        };
        let partitions = got.item.and_then(|item| get_number(&item, PARTITIONS));
        partitions
            .filter(|partitions| *partitions > 0)
            .ok_or_else(|| {
                let problem =
                    "the outbox table does not say how many partitions it has; call `migrate`";
                Error::new(ErrorKind::InvalidConfig, problem)
                    .operation("check")
                    .driver(DRIVER)
                    .with("table", table)
            })
    }

    /// The next place in the order: later than all that were given out or seen, and than the time now.
    fn place(&self) -> u64 {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = self.0.dynamodb.clock.micros().max(*last + 1);
        *last
    }

    /// Somebody else has come so far.
    fn seen(&self, place: u64) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = place.max(*last);
    }
}

/// The key of the item that has the settings of the table.
fn settings() -> crate::item::Item {
    item([
        (PARTITION, crate::item::text(SETTINGS)),
        (SEQUENCE, crate::item::text(SETTINGS)),
    ])
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("table", &self.0.table)
            .field("leases", &self.0.leases)
            .field("ordered", &self.0.ordered)
            .finish_non_exhaustive()
    }
}

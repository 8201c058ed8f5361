//! The transactional outbox: messages are written to a table in the transaction of the change they
//! tell of, and a relay moves them on once it is committed.

mod operate;
mod transaction;
mod write;

use std::fmt;
use std::sync::Arc;

use sqlx::Pool;
use streams_core::{Error, Result};
use tokio::sync::watch;

use crate::DRIVER;
use crate::database::{Database, Dialect, Sql};
use crate::error::error;
use crate::schema::{self, PerDialect, Schema};
use crate::table::TableName;

pub use self::operate::SetAside;
pub use self::transaction::OutboxTransaction;

/// The tables of outbox and relay.
static SCHEMA: Schema = Schema {
    version: 1,
    name: "streams_egress",
    tables: &[],
    create: PerDialect {
        postgres: include_str!("../sql/postgres/outbox.sql"),
        mysql: include_str!("../sql/mysql/outbox.sql"),
        sqlite: include_str!("../sql/sqlite/outbox.sql"),
    },
    columns: Some(PerDialect {
        postgres: include_str!("../sql/postgres/outbox_columns.sql"),
        mysql: include_str!("../sql/mysql/outbox_columns.sql"),
        sqlite: include_str!("../sql/sqlite/outbox_columns.sql"),
    }),
};

/// The default of [`OutboxBuilder::largest_row`]. MariaDB takes statements of 16 MiB by default.
const LARGEST_ROW: usize = 8 * 1024 * 1024;

/// Largest that can be set: a bound well below what protobuf (2 GiB) and the databases (1 GiB) take.
const LARGEST_ROW_EVER: usize = 512 * 1024 * 1024;

/// An outbox table. Cheap to clone; clones are one outbox.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use sqlx::sqlite::SqlitePoolOptions;
/// use streams_core::Message;
/// use streams_sql::Outbox;
///
/// let pool = SqlitePoolOptions::new()
///     .max_connections(1)
///     .connect("sqlite::memory:")
///     .await?;
/// sqlx::query("CREATE TABLE payments (id INTEGER)").execute(&pool).await?;
///
/// let outbox = Outbox::builder(pool.clone()).build()?;
/// outbox.migrate().await?;
///
/// let message = Message::builder("payment.made").key("17").data("{}").build()?;
/// let mut tx = pool.begin().await?;
/// sqlx::query("INSERT INTO payments VALUES (17)").execute(&mut *tx).await?;
/// outbox.write_in(&mut tx, &[message]).await?;
/// tx.commit().await?;
/// outbox.notify(); // a relay of this process need not wait for its next look
///
/// assert_eq!(outbox.pending().await?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
pub struct Outbox<DB: Database>(Arc<Inner<DB>>);

struct Inner<DB: Database> {
    pool: Pool<DB>,
    table: TableName,
    quoted: String,
    sequence: &'static str,
    largest_row: usize,
    insert: Sql,
    written: watch::Sender<()>,
}

/// Builds an [`Outbox`].
#[must_use = "a builder makes nothing until `build`"]
pub struct OutboxBuilder<DB: Database> {
    pool: Pool<DB>,
    table: String,
    largest_row: usize,
}

impl<DB: Database> OutboxBuilder<DB> {
    /// Sets the table, with its schema if it is not in the default one (SQLite has none); the default
    /// is `streams_egress`. Letters, digits and underscores, not beginning with a digit.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Sets the most bytes of messages in one row; the default is 8 MiB. A larger batch becomes
    /// several rows. A message larger than this by itself is
    /// [`TooLarge`](streams_core::ErrorKind::TooLarge). The database takes what is set here plus the
    /// overhead of the format: see `max_allowed_packet` of MariaDB and MySQL.
    pub fn largest_row(mut self, bytes: usize) -> Self {
        self.largest_row = bytes;
        self
    }

    /// The outbox. Nothing is asked of the database yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a name that is none of a table,
    /// or a largest row of 0 or above 512 MiB.
    pub fn build(self) -> Result<Outbox<DB>> {
        let table = TableName::of(&self.table, DB::DIALECT)?;
        if !(1..=LARGEST_ROW_EVER).contains(&self.largest_row) {
            return Err(Error::invalid_config(
                "the largest row must be between 1 byte and 512 MiB",
            )
            .driver(DRIVER)
            .with("largest_row", self.largest_row));
        }
        let quoted = table.quoted(DB::DIALECT);
        let insert =
            format!("INSERT INTO {quoted} (batch_id, message_count, raw_data) VALUES (?, ?, ?)");
        Ok(Outbox(Arc::new(Inner {
            pool: self.pool,
            table,
            quoted,
            sequence: match DB::DIALECT {
                Dialect::Postgres | Dialect::MySql => "sequence",
                Dialect::Sqlite => "rowid",
            },
            largest_row: self.largest_row,
            insert: Sql::new(DB::DIALECT, &insert),
            written: watch::Sender::new(()),
        })))
    }
}

impl<DB: Database> Outbox<DB> {
    /// Starts an outbox in the database of a pool.
    pub fn builder(pool: Pool<DB>) -> OutboxBuilder<DB> {
        OutboxBuilder {
            pool,
            table: SCHEMA.name.to_owned(),
            largest_row: LARGEST_ROW,
        }
    }

    /// Makes the tables: the outbox, `streams_relay` and `streams_schema`. A table that the Go library
    /// made is upgraded, and its rows stay; the Go library goes on working with it. Does nothing where
    /// they are there already. Several processes may do so at once.
    ///
    /// The SQL is in the folder `sql` of this crate, to be run by hand where the service may not.
    ///
    /// # Errors
    /// - [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) when the tables are of a newer
    ///   version.
    /// - [`Permission`](streams_core::ErrorKind::Permission) when the user may not make tables.
    pub async fn migrate(&self) -> Result<()> {
        schema::migrate(&self.0.pool, &self.0.table, &SCHEMA).await
    }

    /// Checks that the tables are there, in the version that this crate works with.
    ///
    /// # Errors
    /// - [`NotFound`](streams_core::ErrorKind::NotFound) when they are not there.
    /// - [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) when they are of another version.
    pub async fn check(&self) -> Result<()> {
        let connection = self.0.pool.acquire().await;
        let mut connection = connection.map_err(|source| error(source, "check"))?;
        schema::check::<DB>(&mut connection, &self.0.table, &SCHEMA).await
    }

    /// Wakes the relays of this process that work on this outbox or a clone of it. Call it after you
    /// have committed what was written with [`write_in`](Outbox::write_in). Without it the messages go
    /// out all the same, at the relay's next look.
    pub fn notify(&self) {
        self.0.written.send_replace(());
    }

    /// Tells of [`notify`](Outbox::notify).
    pub(crate) fn notified(&self) -> watch::Receiver<()> {
        self.0.written.subscribe()
    }

    /// Where the database is reached.
    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.0.pool
    }

    /// The table, for errors, logs and the lease.
    pub(crate) fn table(&self) -> &TableName {
        &self.0.table
    }

    /// The table, as it stands in a statement.
    pub(crate) fn quoted(&self) -> &str {
        &self.0.quoted
    }

    /// The table of the leases, as it stands in a statement.
    pub(crate) fn quoted_leases(&self) -> String {
        self.0.table.sibling("streams_relay").quoted(DB::DIALECT)
    }

    /// The most bytes of messages in one row.
    pub(crate) fn largest_row(&self) -> usize {
        self.0.largest_row
    }

    /// Whether this is a clone of the other.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The channel that PostgreSQL notifies on.
    #[cfg(feature = "postgres")]
    pub(crate) fn channel(&self) -> &str {
        self.0.table.base()
    }

    /// The column that has the order of insertion.
    pub(crate) fn sequence(&self) -> &'static str {
        self.0.sequence
    }
}

impl<DB: Database> Clone for Outbox<DB> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<DB: Database> fmt::Debug for Outbox<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("table", &self.0.table)
            .field("largest_row", &self.0.largest_row)
            .finish_non_exhaustive()
    }
}

impl<DB: Database> fmt::Debug for OutboxBuilder<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxBuilder")
            .field("table", &self.table)
            .field("largest_row", &self.largest_row)
            .finish_non_exhaustive()
    }
}

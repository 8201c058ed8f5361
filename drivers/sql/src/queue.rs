//! A queue in tables, for those who have a database and no broker: see [`SqlQueue`].

mod claim;
mod config;
mod insert;
mod reader;
mod rows;
mod settle;
mod store;
mod streams;
mod wake;
mod writer;

use std::fmt;
use std::sync::Arc;

use sqlx::Pool;
use streams_core::{
    Driver, IntoStreamName, ReadOptions, Reader, Result, StartFrom, StreamName, Writer,
};

pub use self::config::{SqlQueueBuilder, SqlQueueOptions};
use self::reader::QueueReader;
use self::store::Store;
use self::writer::QueueWriter;
use crate::database::Database;

/// A driver on the tables of a database, with no broker beside it. Cheap to clone; clones share the
/// pool.
///
/// ```
/// use streams_core::{Bus, Event};
/// use streams_sql::SqlQueue;
///
/// # #[cfg(feature = "sqlite")]
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::SqlitePool::connect("sqlite:queue.db?mode=rwc").await?;
/// let queue = SqlQueue::builder(pool).build()?;
/// queue.migrate().await?;
///
/// let bus = Bus::builder(queue).build()?;
/// bus.subscribe_stream("user.created", |message, _context| async move {
///     println!("{} bytes", message.data().len());
/// })
/// .group("mailer")
/// .register()?;
/// bus.start().await?;
/// # Ok(())
/// # }
/// ```
///
/// # What it does
/// - Each group has a row of its own for each message, which goes when the group is done with it. So
///   cost does not grow with what was done; a message for many groups is stored as often.
/// - A stream without any group keeps its messages until the first group takes them. Groups to come
///   later get only what is written after them, unless [`retention`](SqlQueueBuilder::retention) is
///   set: then they may start from the [earliest](StartFrom::Earliest), at a
///   [time](StartFrom::Time), or at a [position](StartFrom::Position), which is the id of a message.
/// - Deliveries are leased, counted and settled one by one. A crashed reader's come again when its
///   lease has run out, those of one that was closed at once.
/// - Messages of a key come in the order in which they were written, one reader having them at a time,
///   also when they are retried or released, and when readers crash. It is the order of the numbers
///   the database gave them: for writers that do not wait for each other, any.
/// - No message is passed over that is committed late: readers look for rows, not past a position.
/// - Messages [scheduled](Writer::write_at) for later wait in a table of their own, by the clock of the
///   database.
/// - [`write_in_transaction`](Writer::write_in_transaction) and `exactly_once` are transactions of the
///   database: settling a message and writing what came of it are one.
///
/// # What it costs
/// Writing a batch is 4 round trips to the database, taking one 5 or 6, settling one 4 to 6, however
/// many messages they have: so let handlers have many in flight. An idle reader asks once in each
/// [`poll_interval`](SqlQueueBuilder::poll_interval) for the first entry of an index; that is how late
/// it may be where it is not told of a message. It is told in the process that writes, and on
/// PostgreSQL in others too, by `LISTEN`, for which each process keeps a connection of its pool.
/// Notifications are sent after commits, many at once, for PostgreSQL lets notifying transactions
/// commit only one after another.
///
/// The pool is yours. Give it a few connections more than there are readers;
/// `test_before_acquire(false)` saves a round trip for each operation. On PostgreSQL, transactions that
/// stay open for long keep old versions of rows in the indexes, and reading slows down. SQLite has one
/// writer at a time: use WAL mode (`journal_mode`), and a `busy_timeout` of some seconds.
pub struct SqlQueue<DB: Database> {
    store: Arc<Store<DB>>,
}

impl<DB: Database> SqlQueue<DB> {
    /// Starts a queue on a pool of connections.
    pub fn builder(pool: Pool<DB>) -> SqlQueueBuilder<DB> {
        SqlQueueBuilder::new(pool)
    }

    fn with(pool: Pool<DB>, table: crate::table::TableName, config: config::Config) -> Self {
        Self {
            store: Arc::new(Store::new(pool, table, config)),
        }
    }

    /// Makes the tables, or brings them to the version of this crate. Many processes may do so at
    /// once, and again. The statements are in `sql/` of this crate, to be run by hand instead.
    ///
    /// # Errors
    /// - [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) when the tables are of a newer
    ///   version.
    /// - [`Permission`](streams_core::ErrorKind::Permission) when the user may not make tables.
    pub async fn migrate(&self) -> Result<()> {
        self.store.migrate().await
    }

    /// Makes a stream. One that exists is left as it is.
    ///
    /// # Errors
    /// [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad name, and when the
    /// database cannot be reached.
    pub async fn create_stream(&self, stream: impl IntoStreamName + Send) -> Result<()> {
        let stream = stream.into_stream_name()?;
        self.store.create(&stream).await.map(drop)
    }

    /// Deletes a stream with its groups and all that is kept of it; readers of it fail. `false` says
    /// that there was none.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream).
    pub async fn delete_stream(&self, stream: impl IntoStreamName + Send) -> Result<bool> {
        let stream = stream.into_stream_name()?;
        self.store.delete_stream(&stream).await
    }

    /// Makes a group before anybody reads as part of it, so that what is written from now on waits
    /// for its members. A group that exists keeps its messages.
    ///
    /// # Errors
    /// - [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad name.
    /// - [`Unsupported`](streams_core::ErrorKind::Unsupported) for a start that needs `retention`.
    /// - [`NotFound`](streams_core::ErrorKind::NotFound) when the stream does not exist and is not to
    ///   be created, or no message at the position is kept.
    pub async fn create_group(
        &self,
        stream: impl IntoStreamName + Send,
        group: &str,
        start: &StartFrom,
    ) -> Result<()> {
        let options = ReadOptions::new(stream)?.group(group)?;
        config::check_start(start, &self.store.config.capabilities())?;
        let stream = self.store.stream(&options.stream).await?;
        self.store.group(stream, group, start).await.map(drop)
    }

    /// Deletes a group and what waits for it; its members fail. `false` says that there was none.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream).
    pub async fn delete_group(
        &self,
        stream: impl IntoStreamName + Send,
        group: &str,
    ) -> Result<bool> {
        let stream: StreamName = stream.into_stream_name()?;
        self.store.delete_group(&stream, group).await
    }
}

impl<DB: Database> Clone for SqlQueue<DB> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
        }
    }
}

impl<DB: Database> fmt::Debug for SqlQueue<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlQueue")
            .field("config", &self.store.config)
            .finish_non_exhaustive()
    }
}

impl<DB: Database> Driver for SqlQueue<DB> {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(QueueReader::new(self.store.clone()))
    }

    /// Each writer is closed on its own; the pool stays open.
    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(QueueWriter::new(self.store.clone()))
    }
}

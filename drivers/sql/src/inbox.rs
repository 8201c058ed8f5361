//! The inbox: which messages a group has handled, in the database that its handlers work in.

mod exactly_once;
mod storage;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::Pool;
use streams_core::{Error, MessageId, Result};

use crate::DRIVER;
use crate::database::{Database, Dialect, Sql, Value};
use crate::error::error;
use crate::schema::{self, PerDialect, Schema};
use crate::table::TableName;

pub use self::exactly_once::{InboxEventFn, InboxMessageFn};

static SCHEMA: Schema = Schema {
    version: 1,
    name: "streams_inbox",
    tables: &[],
    create: PerDialect {
        postgres: include_str!("../sql/postgres/inbox.sql"),
        mysql: include_str!("../sql/mysql/inbox.sql"),
        sqlite: include_str!("../sql/sqlite/inbox.sql"),
    },
    columns: None,
};

/// Rows that one statement of the cleanup deletes: few enough to be in nobody's way for long.
const CHUNK: u64 = 1000;

/// Most bytes of a group's name that the table takes.
const LONGEST_GROUP: usize = 512;

/// Remembers which messages a group has handled. Cheap to clone; clones are one inbox.
///
/// It serves in two ways; take one for a group:
/// - **Exactly once**: [`event_fn`](Inbox::event_fn) and [`message_fn`](Inbox::message_fn) make
///   handlers whose own work in the database and the mark "handled" are one transaction.
///   [`first_time_in`](Inbox::first_time_in) is the mark alone.
/// - As a [`DeduplicationStorage`](streams_core::DeduplicationStorage) for the middleware of that
///   name, where the handler's work is not in this database.
///
/// All times are by the clock of the database.
pub struct Inbox<DB: Database>(Arc<Inner<DB>>);

struct Inner<DB: Database> {
    pool: Pool<DB>,
    table: TableName,
    retention: Duration,
    sql: Statements,
    cleanup: Option<Duration>,
    cleaned: std::sync::Mutex<Instant>,
    cleaning: AtomicBool,
}

struct Statements {
    insert: Sql,
    mark_over: Sql,
    look: Sql,
    take_over: Sql,
    commit: Sql,
    release: Sql,
    clean_up: Sql,
}

impl Statements {
    fn new(table: &TableName, dialect: Dialect) -> Self {
        let (now, table) = (dialect.now(), table.quoted(dialect));
        let this = "group_name = ? AND message_id = ?";
        let (insert, nothing) = match dialect {
            Dialect::MySql => ("INSERT IGNORE INTO", ""),
            Dialect::Postgres | Dialect::Sqlite => ("INSERT INTO", " ON CONFLICT DO NOTHING"),
        };
        let clean_up = match dialect {
            Dialect::Postgres => format!(
                "DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} \
                 WHERE expires <= {now} LIMIT {CHUNK} FOR UPDATE SKIP LOCKED))"
            ),
            Dialect::MySql => {
                format!("DELETE FROM {table} WHERE expires <= {now} ORDER BY expires LIMIT {CHUNK}")
            }
            Dialect::Sqlite => format!(
                "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} \
                 WHERE expires <= {now} LIMIT {CHUNK})"
            ),
        };
        let sql = |text: String| Sql::new(dialect, &text);
        Self {
            insert: sql(format!(
                "{insert} {table} (claim, expires, group_name, message_id) \
                 VALUES (?, {now} + ?, ?, ?){nothing}"
            )),
            mark_over: sql(format!(
                "UPDATE {table} SET claim = NULL, expires = {now} + ? \
                 WHERE {this} AND (expires <= {now} OR claim IS NOT NULL)"
            )),
            look: sql(format!(
                "SELECT CASE WHEN expires <= {now} THEN 1 ELSE 0 END, claim FROM {table} WHERE {this}"
            )),
            take_over: sql(format!(
                "UPDATE {table} SET claim = ?, expires = {now} + ? \
                 WHERE {this} AND expires <= {now}"
            )),
            commit: sql(format!(
                "UPDATE {table} SET claim = NULL, expires = {now} + ? WHERE {this} AND claim = ?"
            )),
            release: sql(format!("DELETE FROM {table} WHERE {this} AND claim = ?")),
            clean_up: sql(clean_up),
        }
    }
}

/// Builds an [`Inbox`].
#[must_use = "a builder makes nothing until `build`"]
pub struct InboxBuilder<DB: Database> {
    pool: Pool<DB>,
    table: String,
    retention: Duration,
    cleanup: Option<Duration>,
}

impl<DB: Database> InboxBuilder<DB> {
    /// Sets the table, with its schema if it is not in the default one (SQLite has none); the default
    /// is `streams_inbox`. Letters, digits and underscores, not beginning with a digit.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Sets for how long handled messages are remembered in the exactly-once mode; the default is 7
    /// days. Longer than the time in which the backend may bring a message again. (As a
    /// [`DeduplicationStorage`](streams_core::DeduplicationStorage) it is told each time.)
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Sets how often this inbox deletes what has expired, in the background, while it is used; the
    /// default is each minute. `None` leaves it to you: see [`clean_up`](Inbox::clean_up).
    pub fn cleanup_interval(mut self, interval: Option<Duration>) -> Self {
        self.cleanup = interval;
        self
    }

    /// The inbox. Nothing is asked of the database yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a name that is none of a table,
    /// or a retention or interval of zero.
    pub fn build(self) -> Result<Inbox<DB>> {
        let table = TableName::of(&self.table, DB::DIALECT)?;
        let problem = if self.retention.is_zero() {
            "retention is 0, so nothing would be remembered; make it as long as duplicates may come"
        } else if self.cleanup.is_some_and(|interval| interval.is_zero()) {
            "cleanup interval is 0, so it would do nothing else; leave it out or make it longer"
        } else {
            return Ok(Inbox(Arc::new(Inner {
                sql: Statements::new(&table, DB::DIALECT),
                pool: self.pool,
                table,
                retention: self.retention,
                cleanup: self.cleanup,
                cleaned: std::sync::Mutex::new(Instant::now()),
                cleaning: AtomicBool::new(false),
            })));
        };
        Err(Error::invalid_config(format!("the inbox's {problem}")).driver(DRIVER))
    }
}

impl<DB: Database> Inbox<DB> {
    /// Starts an inbox in the database of a pool.
    pub fn builder(pool: Pool<DB>) -> InboxBuilder<DB> {
        InboxBuilder {
            pool,
            table: SCHEMA.name.to_owned(),
            retention: Duration::from_secs(7 * 24 * 60 * 60),
            cleanup: Some(Duration::from_secs(60)),
        }
    }

    /// Makes the tables: the inbox and `streams_schema`. Does nothing where they are there already.
    /// Several processes may do so at once.
    ///
    /// # Errors
    /// As [`Outbox::migrate`](crate::Outbox::migrate).
    pub async fn migrate(&self) -> Result<()> {
        schema::migrate(&self.0.pool, &self.0.table, &SCHEMA).await
    }

    /// Checks that the tables are there, in the version that this crate works with.
    ///
    /// # Errors
    /// As [`Outbox::check`](crate::Outbox::check).
    pub async fn check(&self) -> Result<()> {
        let connection = self.0.pool.acquire().await;
        let mut connection = connection.map_err(|source| self.failed(source, "check"))?;
        schema::check::<DB>(&mut connection, &self.0.table, &SCHEMA).await
    }

    /// Marks a message as handled by a group, in the transaction that the connection is in. `false`
    /// says that it was handled before: leave the work, and acknowledge it.
    ///
    /// Another transaction that marks the same message waits until this one ends. If this one is rolled
    /// back, the mark is gone with all the rest, and the other goes on with `true`.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use sqlx::sqlite::SqlitePoolOptions;
    /// # use streams_core::MessageId;
    /// # let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    /// let inbox = streams_sql::Inbox::builder(pool.clone()).build()?;
    /// inbox.migrate().await?;
    ///
    /// let id = MessageId::new("order-17")?;
    /// for first_time in [true, false] {
    ///     let mut tx = pool.begin().await?;
    ///     assert_eq!(inbox.first_time_in(&mut tx, "billing", &id).await?, first_time);
    ///     tx.commit().await?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`Conflict`](streams_core::ErrorKind::Conflict) when the other did not end in time, or both
    ///   were in each other's way: roll back and try again.
    /// - [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a group's name above 512 bytes.
    /// - When the database fails.
    pub async fn first_time_in(
        &self,
        connection: &mut DB::Connection,
        group: &str,
        id: &MessageId,
    ) -> Result<bool> {
        let failed = |source| self.failed(source, "mark");
        let this = key(group, id)?;
        let retention = Value::Int(millis(self.0.retention));
        let sql = &self.0.sql;
        let insert = [Value::MaybeText(None), retention, this[0], this[1]];
        let inserted = DB::execute(connection, &sql.insert, &insert).await;
        if inserted.map_err(failed)? > 0 {
            return Ok(true);
        }
        // One that has expired and was not deleted yet, or was left by the other mode.
        let over = [retention, this[0], this[1]];
        let over = DB::execute(connection, &sql.mark_over, &over).await;
        Ok(over.map_err(failed)? > 0)
    }

    /// Deletes what has expired, in chunks, and says how many there were. The inbox does so by itself,
    /// unless it was [told not to](InboxBuilder::cleanup_interval).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn clean_up(&self) -> Result<u64> {
        let failed = |source| self.failed(source, "clean_up");
        let mut connection = self.0.pool.acquire().await.map_err(failed)?;
        let mut deleted = 0;
        loop {
            let sql = &self.0.sql.clean_up;
            let chunk = DB::execute(&mut connection, sql, &[])
                .await
                .map_err(failed)?;
            deleted += chunk;
            if chunk < CHUNK {
                return Ok(deleted);
            }
        }
    }

    /// Starts the cleanup if it is time.
    fn clean_up_now_and_then(&self) {
        let due = self.0.cleanup.is_some_and(|interval| {
            let cleaned = self.0.cleaned.lock();
            cleaned.is_ok_and(|cleaned| cleaned.elapsed() >= interval)
        });
        if !due || self.0.cleaning.swap(true, Ordering::AcqRel) {
            return;
        }
        let inbox = self.clone();
        tokio::spawn(async move {
            if let Err(error) = inbox.clean_up().await {
                tracing::warn!(table = %inbox.0.table, ?error, "the inbox's cleanup failed; it is tried again");
            }
            if let Ok(mut cleaned) = inbox.0.cleaned.lock() {
                *cleaned = Instant::now();
            }
            inbox.0.cleaning.store(false, Ordering::Release);
        });
    }

    fn failed(&self, source: sqlx::Error, doing: &'static str) -> Error {
        error(source, doing).with("table", &self.0.table)
    }
}

/// What names a message of a group in the table.
fn key<'a>(group: &'a str, id: &'a MessageId) -> Result<[Value<'a>; 2]> {
    if group.len() > LONGEST_GROUP {
        return Err(Error::invalid_config(
            "the name of the group is longer than the inbox takes; shorten it",
        )
        .driver(DRIVER)
        .with("bytes", group.len())
        .with("limit", LONGEST_GROUP));
    }
    Ok([Value::Text(group), Value::Text(id.as_str())])
}

/// At least one; so far ahead as the clock goes.
fn millis(duration: Duration) -> i64 {
    // Added to the time, it must not overflow.
    const LONGEST: i64 = i64::MAX / 4;
    i64::try_from(duration.as_millis()).map_or(LONGEST, |millis| millis.clamp(1, LONGEST))
}

impl<DB: Database> Clone for Inbox<DB> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<DB: Database> fmt::Debug for Inbox<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("table", &self.0.table)
            .field("retention", &self.0.retention)
            .finish_non_exhaustive()
    }
}

impl<DB: Database> fmt::Debug for InboxBuilder<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxBuilder")
            .field("table", &self.table)
            .field("retention", &self.retention)
            .field("cleanup", &self.cleanup)
            .finish_non_exhaustive()
    }
}

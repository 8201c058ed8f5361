//! The tables, and what every operation on them needs: transactions, tries, statements of any length.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Pool, Transaction};
use streams_core::{Error, ErrorKind, Result, StreamName};
use tokio::sync::{OnceCell, OwnedMutexGuard};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::config::Config;
use super::wake::Wake;
use crate::DRIVER;
use crate::database::{Database, Dialect, Sql, Value};
use crate::error::error;
use crate::schema::{self, PerDialect, Schema};
use crate::table::TableName;

static SCHEMA: Schema = Schema {
    version: 1,
    name: "streams_queue",
    tables: &[
        "streams_queue_streams",
        "streams_queue_groups",
        "streams_queue_messages",
        "streams_queue_scheduled",
    ],
    create: PerDialect {
        postgres: include_str!("../../sql/postgres/queue.sql"),
        mysql: include_str!("../../sql/mysql/queue.sql"),
        sqlite: include_str!("../../sql/sqlite/queue.sql"),
    },
    columns: None,
};

/// A queue's tables in one database.
#[derive(Debug)]
pub(crate) struct Store<DB: Database> {
    pub(crate) pool: Pool<DB>,
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) wake: Arc<Wake>,
    /// The ids of streams that were looked up.
    pub(crate) known: Mutex<HashMap<StreamName, i64>>,
    checked: OnceCell<()>,
    table: TableName,
    /// SQLite has one writer at a time. Those of this process wait for their turn here, in order and
    /// woken at once, where SQLite itself would have them try now and again.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Tells this process from others that read and write the same queue.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "others do not notify")
    )]
    process: u64,
    listener: OnceLock<AbortHandle>,
}

/// The names of the tables, as they stand in statements.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) streams: String,
    pub(crate) groups: String,
    pub(crate) messages: String,
    pub(crate) scheduled: String,
    /// Tells the queues of one PostgreSQL apart, where they lock and notify.
    pub(crate) number: i32,
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "others do not notify")
    )]
    pub(crate) channel: String,
}

impl<DB: Database> Store<DB> {
    pub(crate) fn new(pool: Pool<DB>, table: TableName, config: Config) -> Self {
        let name = |ending| table.with_ending(ending).quoted(DB::DIALECT);
        let hash = super::rows::hash(table.to_string().as_bytes());
        let names = Names {
            streams: name("_streams"),
            groups: name("_groups"),
            messages: name("_messages"),
            scheduled: name("_scheduled"),
            number: (hash >> 32) as i32,
            channel: table.base().to_owned(),
        };
        Self {
            wake: Arc::new(Wake::new()),
            pool,
            config,
            names,
            known: Mutex::default(),
            checked: OnceCell::new(),
            table,
            turn: Arc::default(),
            process: fastrand::u64(..),
            listener: OnceLock::new(),
        }
    }

    /// The pool, if it is one of PostgreSQL whose readers listen.
    #[cfg(feature = "postgres")]
    fn listening(&self) -> Option<&sqlx::PgPool> {
        let pool: &dyn std::any::Any = &self.pool;
        pool.downcast_ref().filter(|_| self.config.listen)
    }

    /// Tells the readers of other processes of what is written here, from now on.
    #[cfg(feature = "postgres")]
    pub(crate) fn tell_others(&self) {
        if let Some(pool) = self.listening() {
            super::wake::tell_others(&self.wake, pool, &self.names.channel, self.process);
        }
    }

    /// Wakes readers when other processes write, from now on.
    #[cfg(feature = "postgres")]
    pub(crate) fn listen(&self) {
        if let Some(pool) = self.listening() {
            self.listener.get_or_init(|| {
                let (wake, channel) = (Arc::downgrade(&self.wake), self.names.channel.clone());
                let listen = super::wake::listen(wake, pool.clone(), channel, self.process);
                tokio::spawn(listen).abort_handle()
            });
        }
    }

    pub(crate) async fn migrate(&self) -> Result<()> {
        schema::migrate(&self.pool, &self.table, &SCHEMA).await
    }

    /// Checks, once, that the tables are there in the right version.
    pub(crate) async fn check(&self) -> Result<()> {
        let check = || async {
            let mut connection = self.connection("check").await?;
            schema::check::<DB>(&mut connection, &self.table, &SCHEMA).await
        };
        self.checked.get_or_try_init(check).await.copied()
    }

    pub(crate) async fn connection(
        &self,
        doing: &'static str,
    ) -> Result<sqlx::pool::PoolConnection<DB>> {
        self.pool.acquire().await.map_err(|e| error(e, doing))
    }

    /// Begins a transaction in which each statement sees what was committed before it began.
    pub(crate) async fn begin(&self, doing: &'static str) -> Result<Work<DB>> {
        self.begin_and("", doing).await
    }

    /// As [`begin`](Self::begin), with more statements in the same message to the database.
    async fn begin_and(&self, more: &str, doing: &'static str) -> Result<Work<DB>> {
        let begin = match DB::DIALECT {
            Dialect::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Dialect::MySql => "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION",
            // Who reads first and writes then would fail if another wrote in between.
            Dialect::Sqlite => "BEGIN IMMEDIATE",
        };
        let begin = AssertSqlSafe(format!("{begin}{more}"));
        let turn = self.turn().await;
        let transaction = match DB::DIALECT {
            // If this is dropped, the task ends the transaction. Else sqlx, which does not know of it
            // yet, would give its connection to others with the transaction open.
            Dialect::MySql => {
                let pool = self.pool.clone();
                let begun = tokio::spawn(async move { pool.begin_with(begin).await });
                let crashed = |_| Err(sqlx::Error::WorkerCrashed);
                begun.await.unwrap_or_else(crashed)
            }
            Dialect::Postgres | Dialect::Sqlite => self.pool.begin_with(begin).await,
        };
        Ok(Work {
            transaction: transaction.map_err(|e| error(e, doing))?,
            _turn: turn,
        })
    }

    /// Begins a transaction of the one reader of a group that takes messages now; others wait. So
    /// readers do not look at the same messages at once, to find that most are in each other's hands.
    pub(crate) async fn begin_taking(&self, group: i64, doing: &'static str) -> Result<Work<DB>> {
        let turn = match DB::DIALECT {
            // These locks have one number, and are none of those that have two.
            Dialect::Postgres => {
                let queue = i64::from(self.names.number) << 32;
                format!("; SELECT pg_advisory_xact_lock({})", queue | group)
            }
            Dialect::MySql => {
                let groups = &self.names.groups;
                format!("; SELECT id FROM {groups} WHERE id = {group} FOR UPDATE")
            }
            Dialect::Sqlite => String::new(),
        };
        let more = format!("{turn}{}", DB::DIALECT.along_the_index());
        self.begin_and(&more, doing).await
    }

    /// The turn to write, where there is one for all.
    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        match DB::DIALECT {
            Dialect::Sqlite => Some(self.turn.clone().lock_owned().await),
            Dialect::Postgres | Dialect::MySql => None,
        }
    }

    /// Runs one statement that writes, in a transaction of its own; returns how many rows it changed.
    pub(crate) async fn execute(
        &self,
        statement: &str,
        values: &[Value<'_>],
        doing: &'static str,
    ) -> Result<u64> {
        let statement = Self::sql(statement);
        let mut tries = Tries::default();
        loop {
            let once = async {
                let mut tx = self.begin(doing).await?;
                let changed = DB::execute(&mut tx, &statement, values).await;
                let changed = changed.map_err(|e| error(e, doing))?;
                tx.commit().await.map_err(|e| error(e, doing))?;
                Ok(changed)
            };
            match once.await {
                Err(failed) if tries.again(&failed).await => {}
                done => return done,
            }
        }
    }

    /// Begins a transaction that holds the lock of these streams: shared, to write to them, or alone,
    /// to change their groups. So whoever writes sees every group, and whoever makes a group sees
    /// everything written before.
    pub(crate) async fn begin_locked(
        &self,
        streams: &[i64],
        lock: Lock,
        doing: &'static str,
    ) -> Result<Work<DB>> {
        let mut streams = streams.to_vec();
        streams.sort_unstable();
        streams.dedup();
        let mut more = String::new();
        match DB::DIALECT {
            // A lock on a row would write to the row.
            Dialect::Postgres => {
                let function = match lock {
                    Lock::Shared => "pg_advisory_xact_lock_shared",
                    Lock::Alone => "pg_advisory_xact_lock",
                };
                for stream in streams {
                    // Streams that share a lock wait for each other, and that is all.
                    let (queue, stream) = (self.names.number, stream as i32);
                    let _ = write!(more, "; SELECT {function}({queue}, {stream})");
                }
            }
            Dialect::MySql => {
                let how = match lock {
                    Lock::Shared => "LOCK IN SHARE MODE",
                    Lock::Alone => "FOR UPDATE",
                };
                let list: Vec<_> = streams.iter().map(i64::to_string).collect();
                let (table, list) = (&self.names.streams, list.join(","));
                if !list.is_empty() {
                    more =
                        format!("; SELECT id FROM {table} WHERE id IN ({list}) ORDER BY id {how}");
                }
            }
            Dialect::Sqlite => {}
        }
        self.begin_and(&more, doing).await
    }

    /// Ends an operation that takes too long.
    pub(crate) async fn within<T>(
        &self,
        doing: &'static str,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limit = self.config.timeout;
        timeout(limit, operation).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                "the database did not answer in time; see whether it is overloaded or cut off, or \
                 raise `timeout`",
            )
            .operation(doing)
            .driver(DRIVER)
            .with("limit", format_args!("{limit:?}")))
        })
    }

    pub(crate) fn known(&self) -> std::sync::MutexGuard<'_, HashMap<StreamName, i64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sql(text: &str) -> Sql {
        Sql::new(DB::DIALECT, text)
    }

    pub(crate) fn now() -> &'static str {
        DB::DIALECT.now()
    }

    /// A `?` that is a whole number wherever it stands.
    pub(crate) fn number() -> &'static str {
        match DB::DIALECT {
            Dialect::MySql => "CAST(? AS SIGNED)",
            Dialect::Postgres | Dialect::Sqlite => "CAST(? AS BIGINT)",
        }
    }

    /// The messages, for statements that change rows by id. MySQL reads all of a small table otherwise,
    /// and waits for the locks of rows it does not want.
    pub(crate) fn by_id(&self) -> String {
        let messages = &self.names.messages;
        match DB::DIALECT {
            Dialect::MySql => format!("{messages} FORCE INDEX (PRIMARY)"),
            Dialect::Postgres | Dialect::Sqlite => messages.clone(),
        }
    }

    /// What locks rows until the end of the transaction.
    pub(crate) fn for_update() -> &'static str {
        match DB::DIALECT {
            Dialect::Postgres | Dialect::MySql => " FOR UPDATE",
            Dialect::Sqlite => "",
        }
    }
}

impl<DB: Database> Drop for Store<DB> {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            listener.abort();
        }
    }
}

/// A transaction. It is rolled back when it is dropped.
pub(crate) struct Work<DB: Database> {
    transaction: Transaction<'static, DB>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl<DB: Database> Work<DB> {
    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        self.transaction.commit().await
    }
}

impl<DB: Database> Deref for Work<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

impl<DB: Database> DerefMut for Work<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.transaction
    }
}

/// Who may hold the lock of a stream at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Those who write.
    Shared,
    /// One.
    Alone,
}

/// How often an operation is tried again that was in another's way: deadlocks, and SQLite's one
/// writer at a time.
#[derive(Debug, Default)]
pub(crate) struct Tries(u32);

impl Tries {
    const MOST: u32 = 20;

    /// Whether to try again after this error, after a while.
    pub(crate) async fn again(&mut self, error: &Error) -> bool {
        if error.kind() != ErrorKind::Conflict || !error.is_retryable() || self.0 == Self::MOST {
            return false;
        }
        self.0 += 1;
        let longest = (1_u64 << self.0.min(6)).min(50);
        sleep(Duration::from_millis(fastrand::u64(0..=longest))).await;
        true
    }
}

/// Numbers for an `IN (…)`. Their count is rounded up to a power of two, so that there are few
/// statements to prepare; the last is repeated.
#[derive(Debug)]
pub(crate) struct List(Vec<i64>);

impl List {
    pub(crate) fn new(numbers: impl IntoIterator<Item = i64>) -> Self {
        let mut list: Vec<_> = numbers.into_iter().collect();
        let last = list.last().copied().unwrap_or_default();
        list.resize(list.len().next_power_of_two(), last);
        Self(list)
    }

    /// `?, ?, …`
    pub(crate) fn marks(&self) -> String {
        marks("?", self.0.len())
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = Value<'static>> {
        self.0.iter().map(|n| Value::Int(*n))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The same so many times, separated by commas.
pub(crate) fn marks(mark: &str, count: usize) -> String {
    let mut text = String::with_capacity((mark.len() + 1) * count);
    for n in 0..count {
        if n > 0 {
            text.push(',');
        }
        text.push_str(mark);
    }
    text
}

/// Milliseconds, at most so many that sums of them do not overflow.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).map_or(FAR, |millis| millis.min(FAR))
}

/// A time that never comes.
pub(crate) const FAR: i64 = i64::MAX / 4;

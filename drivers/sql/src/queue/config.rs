//! Settings of the queue and of its subscriptions.

use std::time::Duration;

use sqlx::Pool;
use streams_core::{
    Acknowledgement, Capabilities, DriverArguments, DriverOptions, Error, ErrorKind, Message,
    OptionFor, Order, Result, StartFrom, StartPositions,
};

use super::SqlQueue;
use crate::DRIVER;
use crate::database::{Database, Dialect};
use crate::table::TableName;

/// The shortest lease: below it, a slow commit would be taken for a crash.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) table: String,
    pub(crate) lease: Duration,
    pub(crate) retention: Option<Duration>,
    pub(crate) create_streams: bool,
    pub(crate) largest_message: usize,
    pub(crate) max_scheduled: Option<u32>,
    pub(crate) poll: Duration,
    pub(crate) listen: bool,
    pub(crate) timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            table: "streams_queue".to_owned(),
            lease: Duration::from_secs(30),
            retention: None,
            create_streams: true,
            largest_message: 4 << 20,
            max_scheduled: None,
            poll: Duration::from_secs(1),
            listen: true,
            timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Why a message cannot be written, whatever the database says.
    pub(crate) fn refuse(&self, message: &Message) -> Option<Error> {
        let size = message.data().len();
        (size > self.largest_message).then(|| {
            Error::new(
                ErrorKind::TooLarge,
                "the data is larger than the queue takes; split it, or raise `largest_message`",
            )
            .operation("write")
            .driver(DRIVER)
            .with("stream", message.stream())
            .with("size", size)
            .with("limit", self.largest_message)
        })
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        let kept = self.retention.is_some();
        Capabilities::none(DRIVER)
            .groups(true)
            .durable(true)
            .keeps_before_group(kept)
            .order(Order::PerKey)
            .acknowledgement(Acknowledgement::Individual)
            .attempts(true)
            .leases(true)
            .delayed_redelivery(Some(Duration::MAX))
            .delay(Some(Duration::MAX))
            .cancel_delayed(true)
            .list_delayed(true)
            .start(StartPositions {
                earliest: kept,
                latest: true,
                position: kept,
                time: kept,
            })
            .transactions(true)
            .exactly_once(true)
            .creates_streams(self.create_streams)
            .largest_message(Some(self.largest_message))
            .binary_headers(true)
    }
}

/// Builds a [`SqlQueue`].
///
/// ```
/// use std::time::Duration;
///
/// use streams_sql::SqlQueue;
///
/// # #[cfg(feature = "sqlite")]
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::SqlitePool::connect("sqlite:queue.db?mode=rwc").await?;
/// let queue = SqlQueue::builder(pool)
///     .lease(Duration::from_secs(60))
///     .retention(Duration::from_secs(24 * 3600))
///     .build()?;
/// queue.migrate().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct SqlQueueBuilder<DB: Database> {
    pool: Pool<DB>,
    pub(crate) config: Config,
}

impl<DB: Database> SqlQueueBuilder<DB> {
    pub(crate) fn new(pool: Pool<DB>) -> Self {
        Self {
            pool,
            config: Config::default(),
        }
    }

    /// Sets what the names of the tables begin with; the default is `streams_queue`. With a schema in
    /// front, as in `events.orders`, they are there.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.config.table = name.into();
        self
    }

    /// Sets how long a delivery is its reader's; the default is 30 s. The runner extends leases while
    /// handlers work. What a reader held when it crashed comes again when its lease runs out.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// Keeps each message this long for groups to come, read or not, in a row of its own: they can
    /// start from the earliest, at a position or at a time. The default keeps none, except that a
    /// stream without any group keeps all until its first group takes them.
    ///
    /// It is a property of the stream: what one process sets here holds for all.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.config.retention = Some(retention);
        self
    }

    /// Sets whether streams are created when they are first written to or subscribed to, the default,
    /// or only by [`SqlQueue::create_stream`].
    pub fn create_streams(mut self, create: bool) -> Self {
        self.config.create_streams = create;
        self
    }

    /// Sets the largest data of one message, in bytes; the default is 4 MiB. MySQL and MariaDB take
    /// no more than their `max_allowed_packet`.
    pub fn largest_message(mut self, bytes: usize) -> Self {
        self.config.largest_message = bytes;
        self
    }

    /// Sets how many messages may be scheduled for a stream at a time; the default is no limit. A batch
    /// that does not fit is refused whole, with [`ErrorKind::Full`](streams_core::ErrorKind::Full).
    /// Those who schedule for a stream take turns then, and count for each batch: 100,000 take some
    /// ten milliseconds.
    pub fn max_scheduled(mut self, messages: u32) -> Self {
        self.config.max_scheduled = Some(messages);
        self
    }

    /// Sets the longest time between two looks of a reader that finds nothing; the default is 1 s. It
    /// looks again after 10 ms, then after twice as long each time, up to this; and at once when it
    /// is told of a message.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.config.poll = interval;
        self
    }

    /// Sets whether readers on PostgreSQL are told of messages by `LISTEN`, the default. It keeps one
    /// connection of the pool. Without it, as through PgBouncer in transaction mode, they poll.
    pub fn listen(mut self, listen: bool) -> Self {
        self.config.listen = listen;
        self
    }

    /// Sets how long one operation may take before it fails with
    /// [`Timeout`](streams_core::ErrorKind::Timeout); the default is 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// The queue. Nothing is asked of the database yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting that cannot be.
    pub fn build(self) -> Result<SqlQueue<DB>> {
        let config = self.config;
        let bad = |what: &str| Err(Error::invalid_config(what).driver(DRIVER));
        let table = TableName::new(&config.table)?;
        check_lease(config.lease)?;
        if config.retention.is_some_and(|kept| kept.as_millis() == 0) {
            return bad("the retention is 0; leave it out to keep nothing");
        }
        if config.largest_message == 0 {
            return bad("the largest message is 0 bytes; set 1 or more");
        }
        if config.max_scheduled == Some(0) {
            return bad("no message may be scheduled; set `max_scheduled` to 1 or more");
        }
        if config.poll.as_millis() == 0 {
            return bad("the poll interval is 0, which is a busy loop; set 10 ms or more");
        }
        if config.timeout.is_zero() {
            return bad("the timeout is 0, so every operation fails; set some seconds");
        }
        let listens = DB::DIALECT == Dialect::Postgres && config.listen;
        if listens && self.pool.options().get_max_connections() < 2 {
            return bad(
                "the pool has one connection, which `LISTEN` would keep; allow two or more, or set \
                 `listen(false)`",
            );
        }
        Ok(SqlQueue::with(self.pool, table, config))
    }
}

/// Checks that a subscription can start there.
pub(crate) fn check_start(start: &StartFrom, capabilities: &Capabilities) -> Result<()> {
    let can = match start {
        StartFrom::Default | StartFrom::Latest => true,
        StartFrom::Earliest => capabilities.start.earliest,
        StartFrom::Position(_) => capabilities.start.position,
        StartFrom::Time(_) => capabilities.start.time,
        _ => false,
    };
    if can {
        return Ok(());
    }
    Err(Error::unsupported(
        DRIVER,
        "the queue keeps no messages to start from; set `retention`, or start with the latest",
    )
    .operation("subscribe"))
}

fn check_lease(lease: Duration) -> Result<()> {
    if lease < SHORTEST_LEASE {
        return Err(Error::invalid_config(format!(
            "the lease is shorter than {SHORTEST_LEASE:?}, so it may end before its message is \
             handed out; use some seconds"
        ))
        .driver(DRIVER));
    }
    Ok(())
}

/// Options of one subscription.
///
/// By name, as from a configuration file: `lease_ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SqlQueueOptions {
    /// A lease other than the queue's.
    pub lease: Option<Duration>,
}

impl DriverOptions for SqlQueueOptions {
    const DRIVER: &'static str = DRIVER;
}

impl<DB: Database> OptionFor<SqlQueue<DB>> for SqlQueueOptions {}

impl SqlQueueOptions {
    /// What the subscription asks for, checked.
    pub(crate) fn of(arguments: &DriverArguments) -> Result<Self> {
        arguments.check(DRIVER, &["lease_ms"])?;
        let mut options = arguments.get::<Self>().copied().unwrap_or_default();
        if let Some(millis) = arguments.parse("lease_ms")? {
            options.lease = Some(Duration::from_millis(millis));
        }
        options.lease.map_or(Ok(()), check_lease)?;
        Ok(options)
    }
}

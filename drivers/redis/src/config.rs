//! Settings of the driver.

use std::time::Duration;

use streams_core::{
    Acknowledgement, Capabilities, DriverUrl, Error, ErrorKind, Message, Order, Result,
    StartPositions,
};

use crate::url::Place;
use crate::{DRIVER, Redis};

/// The shortest lease: below it, a slow answer would be taken for a crash.
pub(crate) const SHORTEST_LEASE: Duration = Duration::from_millis(500);

/// What the keys of streams begin with, for the Go library `pulse`.
pub(crate) const PULSE: &str = "pulse:stream:";

/// How long a stream lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeToLive {
    /// This long after it was first written to.
    Absolute(Duration),
    /// This long after it was last written to.
    Sliding(Duration),
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) prefix: String,
    pub(crate) lease: Duration,
    pub(crate) poll: Duration,
    pub(crate) tick: Duration,
    pub(crate) timeout: Duration,
    pub(crate) create_streams: bool,
    pub(crate) largest_message: usize,
    pub(crate) max_len: Option<u64>,
    pub(crate) trim_unread: bool,
    pub(crate) time_to_live: Option<TimeToLive>,
    pub(crate) idempotent: Option<Duration>,
    pub(crate) max_scheduled: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            prefix: PULSE.to_owned(),
            lease: Duration::from_secs(20),
            poll: Duration::from_millis(250),
            tick: Duration::from_millis(100),
            timeout: Duration::from_secs(5),
            create_streams: true,
            largest_message: 4 << 20,
            max_len: None,
            trim_unread: false,
            time_to_live: None,
            idempotent: None,
            max_scheduled: None,
        }
    }
}

impl Config {
    /// Why a message cannot be written, whatever the server says.
    pub(crate) fn refuse(&self, message: &Message) -> Option<Error> {
        let size = message.data().len();
        (size > self.largest_message).then(|| {
            Error::new(
                ErrorKind::TooLarge,
                "the data is larger than the driver takes; split it, or raise `largest_message`",
            )
            .operation("write")
            .driver(DRIVER)
            .with("stream", message.stream())
            .with("size", size)
            .with("limit", self.largest_message)
        })
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::none(DRIVER)
            .groups(true)
            .no_group(true)
            .durable(true)
            .keeps_before_group(true)
            .order(Order::None)
            .acknowledgement(Acknowledgement::Individual)
            .attempts(true)
            .leases(true)
            .delayed_redelivery(Some(Duration::MAX))
            .delay(Some(Duration::MAX))
            .cancel_delayed(true)
            .list_delayed(true)
            .start(StartPositions {
                earliest: true,
                latest: true,
                position: true,
                time: true,
            })
            .creates_streams(self.create_streams)
            .largest_message(Some(self.largest_message))
            .binary_headers(true)
    }

    fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::invalid_config(what).driver(DRIVER));
        if self.poll < Duration::from_millis(1) {
            return bad("the poll interval is 0, which is a busy loop; set 10 ms or more");
        }
        if self.lease < SHORTEST_LEASE || self.lease < 4 * self.poll {
            return bad(
                "the lease is too short to be kept up; use 500 ms or more, and 4 poll intervals or \
                 more",
            );
        }
        if self.tick < Duration::from_millis(1) {
            return bad("the tick is 0, which is a busy loop; set 10 ms or more");
        }
        if self.timeout.is_zero() {
            return bad("the timeout is 0, so every operation fails; set some seconds");
        }
        if self.largest_message == 0 {
            return bad("the largest message is 0 bytes; set 1 or more");
        }
        if self.largest_message >= 512 << 20 {
            return bad(
                "the largest message is 512 MiB or more, which the server refuses; set less",
            );
        }
        if self.max_len == Some(0) {
            return bad("the largest length is 0, so nothing would be kept; set 1 or more");
        }
        if self.trim_unread && self.max_len.is_none() {
            return bad("`trim_unread` does nothing without `max_len`; set both, or neither");
        }
        if self.max_scheduled == Some(0) {
            return bad("at most 0 messages may be scheduled; set 1 or more, or leave it out");
        }
        let millis = |time: Duration| time.as_millis() == 0;
        let lives = self.time_to_live.map(|ttl| match ttl {
            TimeToLive::Absolute(time) | TimeToLive::Sliding(time) => time,
        });
        if lives.is_some_and(millis) || self.idempotent.is_some_and(millis) {
            return bad("a time is 0; set a millisecond or more, or leave the setting out");
        }
        let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !"*?[]".contains(c);
        if !self.prefix.chars().all(allowed) {
            return bad(
                "the prefix has white space, control characters or any of *?[]; use others",
            );
        }
        Ok(())
    }
}

/// Builds a [`Redis`].
///
/// ```
/// use std::time::Duration;
///
/// use streams_redis::Redis;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> streams_core::Result<()> {
/// let redis = Redis::builder("redis://localhost:6379")
///     .lease(Duration::from_secs(60))
///     .max_len(100_000)
///     .build()?;
/// # let _ = redis;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct RedisBuilder {
    place: Result<Place, Reason>,
    pub(crate) config: Config,
}

/// Why a URL is none, kept until `build`.
#[derive(Debug, Clone)]
struct Reason(String);

impl RedisBuilder {
    pub(crate) fn new(url: &str) -> Self {
        match DriverUrl::parse(url).and_then(|url| Self::from_url(&url)) {
            Ok(this) => this,
            Err(error) => Self {
                place: Err(Reason(error.to_string())),
                config: Config::default(),
            },
        }
    }

    pub(crate) fn at(place: Place, config: Config) -> Self {
        Self {
            place: Ok(place),
            config,
        }
    }

    /// Sets what the keys of streams begin with; the default is `pulse:stream:`, where services on
    /// the Go library `pulse` have them.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.prefix = prefix.into();
        self
    }

    /// Sets how long a delivery is its reader's; the default is 20 s, as in `pulse`. The runner begins
    /// leases anew while handlers work. What a reader held when it crashed comes again when its lease
    /// runs out. A group keeps the lease it was made with.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// Sets how long a reader waits at the server before it looks for what others gave back or left
    /// behind; the default is 250 ms. Closing a subscription may take so long.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.config.poll = interval;
        self
    }

    /// Sets how late a scheduled message may be, when another process has scheduled it; the default
    /// is 100 ms.
    pub fn tick(mut self, tick: Duration) -> Self {
        self.config.tick = tick;
        self
    }

    /// Sets how long one operation may take before it fails with
    /// [`Timeout`](streams_core::ErrorKind::Timeout); the default is 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// Sets whether streams are created when they are first written to or subscribed to, the default,
    /// or only by [`Redis::create_stream`].
    pub fn create_streams(mut self, create: bool) -> Self {
        self.config.create_streams = create;
        self
    }

    /// Sets the largest data of one message, in bytes; the default is 4 MiB.
    pub fn largest_message(mut self, bytes: usize) -> Self {
        self.config.largest_message = bytes;
        self
    }

    /// Keeps about so many entries of each stream that is written to: older ones that every group is
    /// done with are removed. Those that a group has not handled stay, and a warning says which group
    /// is behind. The default keeps all.
    pub fn max_len(mut self, entries: u64) -> Self {
        self.config.max_len = Some(entries);
        self
    }

    /// Removes also what groups have not handled when a stream is longer than
    /// [`max_len`](Self::max_len). What they lose so is counted, by the metric
    /// [`LOST`](crate::metrics::LOST) and in a warning.
    pub fn trim_unread(mut self, trim: bool) -> Self {
        self.config.trim_unread = trim;
        self
    }

    /// Has streams removed with their groups, whatever is unread, after a time.
    pub fn time_to_live(mut self, time: TimeToLive) -> Self {
        self.config.time_to_live = Some(time);
        self
    }

    /// Writes a message of the same id once: writing it again within `window` does nothing, with other
    /// content it is a [`Conflict`](streams_core::ErrorKind::Conflict). So a publisher that does not
    /// know whether a write went through may repeat it.
    pub fn idempotent(mut self, window: Duration) -> Self {
        self.config.idempotent = Some(window);
        self
    }

    /// Refuses to schedule more messages of a stream than this, with
    /// [`Full`](streams_core::ErrorKind::Full).
    pub fn max_scheduled(mut self, messages: u64) -> Self {
        self.config.max_scheduled = Some(messages);
        self
    }

    /// The driver. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a URL or setting that cannot be.
    pub fn build(self) -> Result<Redis> {
        let place = self
            .place
            .map_err(|Reason(reason)| Error::invalid_config(reason))?;
        self.config.check()?;
        Ok(Redis::with(place.client(self.config.timeout)?, self.config))
    }
}

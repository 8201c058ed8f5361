//! Settings of the broker and of its subscriptions.

use std::time::Duration;

use streams_core::{
    Acknowledgement, Capabilities, Clock, DriverArguments, DriverOptions, DriverUrl, Error,
    ErrorKind, Message, OptionFor, Order, Result, StartPositions,
};

use crate::Chanbuf;
use crate::group::MOST_UNSETTLED;

pub(crate) const DRIVER: &str = "chanbuf";

/// What a writer does when a stream is full. Dead letters are always refused then: nobody may be
/// reading them, and a handler that waited would hold up its own stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Full {
    /// Waits for room: backpressure. The default.
    #[default]
    Wait,
    /// Refuses what does not fit, with [`ErrorKind::Full`](streams_core::ErrorKind::Full).
    Refuse,
}

/// What becomes of a message for a stream that nobody holds: no group, no reader, nothing retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unheld {
    /// Refuses it with [`ErrorKind::NoSubscriberRegistered`](streams_core::ErrorKind::NoSubscriberRegistered).
    /// The default.
    #[default]
    Refuse,
    /// Drops it, as asked.
    Discard,
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) capacity: usize,
    pub(crate) full: Full,
    pub(crate) unheld: Unheld,
    pub(crate) retain: usize,
    pub(crate) dead_letter_capacity: usize,
    pub(crate) max_scheduled: usize,
    pub(crate) lease: Option<Duration>,
    pub(crate) largest_message: Option<usize>,
    pub(crate) record: usize,
    pub(crate) clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity: 8192,
            full: Full::Wait,
            unheld: Unheld::Refuse,
            retain: 0,
            dead_letter_capacity: 10_000,
            max_scheduled: 1_000_000,
            lease: None,
            largest_message: None,
            record: 0,
            clock: Clock::system(),
        }
    }
}

impl Config {
    /// Whether a message can be written at all, whatever room there is.
    pub(crate) fn is_fit(&self, message: &Message) -> bool {
        let size = message.data().len();
        size > 0 && self.largest_message.is_none_or(|limit| size <= limit)
    }

    /// What one that is not fit is refused for.
    pub(crate) fn unfit(&self, message: &Message) -> Error {
        let size = message.data().len();
        let error = match self.largest_message {
            Some(limit) if size > 0 => Error::new(
                ErrorKind::TooLarge,
                "the data is larger than this broker takes; split it, or raise `largest_message`",
            )
            .with("size", size)
            .with("limit", limit),
            _ => Error::new(
                ErrorKind::EmptyMessage,
                "the message has no data; set it with `data`",
            ),
        };
        error.driver(DRIVER).with("stream", message.stream())
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::none(DRIVER)
            .groups(true)
            .no_group(true)
            .keeps_before_group(self.retain > 0)
            .order(Order::PerKey)
            .acknowledgement(Acknowledgement::Individual)
            .attempts(true)
            .leases(self.lease.is_some())
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
            .transactions(true)
            .exactly_once(true)
            .creates_streams(true)
            .largest_message(self.largest_message)
            .binary_headers(true)
    }
}

/// Builds a [`Chanbuf`].
///
/// ```
/// use streams_chanbuf::{Chanbuf, Full};
///
/// let chanbuf = Chanbuf::builder().capacity(1000).full(Full::Refuse).build()?;
/// # let _ = chanbuf;
/// assert!(Chanbuf::builder().capacity(0).build().is_err());
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder makes nothing until `build`"]
pub struct ChanbufBuilder {
    config: Config,
}

impl ChanbufBuilder {
    /// Sets how many messages a stream holds for its slowest group, delivered ones included; the
    /// default is 8192.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.config.capacity = messages;
        self
    }

    /// Sets what a writer does when a stream is full; the default waits.
    pub fn full(mut self, full: Full) -> Self {
        self.config.full = full;
        self
    }

    /// Sets what becomes of messages for a stream that nobody holds; the default refuses them.
    pub fn unheld(mut self, unheld: Unheld) -> Self {
        self.config.unheld = unheld;
        self
    }

    /// Sets how many messages each stream keeps for groups that come later or start anew; the
    /// default is 0. Older ones go when newer come.
    pub fn retain(mut self, messages: usize) -> Self {
        self.config.retain = messages;
        self
    }

    /// Sets how many messages a `.dlq` stream holds, in place of `capacity`; the default is 10,000.
    /// They stay until a group has read them; a reader without a group only looks. Past that, dead
    /// letters are refused and what they stand for stays unacknowledged.
    pub fn dead_letter_capacity(mut self, messages: usize) -> Self {
        self.config.dead_letter_capacity = messages;
        self
    }

    /// Sets how many scheduled messages a stream holds; the default is 1,000,000. Past that, more
    /// are refused with [`ErrorKind::Full`](streams_core::ErrorKind::Full).
    pub fn max_scheduled(mut self, messages: usize) -> Self {
        self.config.max_scheduled = messages;
        self
    }

    /// Leases each delivery for this long: unsettled by then, it goes to another member. Without a
    /// lease, the default, it stays with its member until that goes away.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = Some(lease);
        self
    }

    /// Sets the largest data of one message, in bytes; the default is no limit.
    pub fn largest_message(mut self, bytes: usize) -> Self {
        self.config.largest_message = Some(bytes);
        self
    }

    /// Keeps a record of the last so many messages written to each stream, for
    /// [`Chanbuf::recorded`]; the default is none.
    pub fn record(mut self, messages: usize) -> Self {
        self.config.record = messages;
        self
    }

    /// Sets the clock that says when scheduled messages are due; the default is the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.config.clock = clock;
        self
    }

    /// The broker.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting that cannot be.
    pub fn build(self) -> Result<Chanbuf> {
        let config = self.config;
        let bad = |what: &str| Err(Error::invalid_config(what).driver(DRIVER));
        if config.capacity == 0 {
            return bad("the capacity is 0, so nothing could be written; use 1 or more");
        }
        if config.capacity > MOST_UNSETTLED {
            return bad("the capacity is above 1,048,576 messages; use less");
        }
        if config.dead_letter_capacity == 0 {
            return bad(
                "the capacity for dead letters is 0, so none could be written; use 1 or more",
            );
        }
        if config.max_scheduled == 0 {
            return bad(
                "the capacity for scheduled messages is 0, so none could be; use 1 or more",
            );
        }
        if config.lease.is_some_and(|lease| lease.is_zero()) {
            return bad("the lease is 0, so it ends before it begins; leave it out for none");
        }
        if config.largest_message == Some(0) {
            return bad("the largest message is 0 bytes; leave it out for no limit");
        }
        Ok(Chanbuf::with(config))
    }

    pub(crate) fn from_url(url: &DriverUrl) -> Result<Self> {
        if !url.hosts().is_empty() || !url.path().is_empty() || url.user().is_some() {
            return Err(Error::invalid_config(
                "the in-memory driver has no host, user or path; write `chanbuf:`",
            )
            .driver(DRIVER));
        }
        let mut this = Self::default();
        let config = &mut this.config;
        let number = |name| url.parse_parameter::<usize>(name);
        config.capacity = number("capacity")?.unwrap_or(config.capacity);
        config.retain = number("retain")?.unwrap_or(config.retain);
        config.dead_letter_capacity =
            number("dead_letter_capacity")?.unwrap_or(config.dead_letter_capacity);
        config.max_scheduled = number("max_scheduled")?.unwrap_or(config.max_scheduled);
        config.largest_message = number("largest_message")?;
        config.lease = url.parse_parameter("lease_ms")?.map(Duration::from_millis);
        config.full = choice(
            url,
            "full",
            &[("wait", Full::Wait), ("refuse", Full::Refuse)],
        )?;
        let unheld = [("refuse", Unheld::Refuse), ("discard", Unheld::Discard)];
        config.unheld = choice(url, "unheld", &unheld)?;
        Ok(this)
    }
}

pub(crate) const PARAMETERS: &[&str] = &[
    "capacity",
    "full",
    "unheld",
    "retain",
    "dead_letter_capacity",
    "max_scheduled",
    "lease_ms",
    "largest_message",
];

fn choice<T: Copy + Default>(url: &DriverUrl, name: &str, choices: &[(&str, T)]) -> Result<T> {
    let Some(text) = url.parameter(name) else {
        return Ok(T::default());
    };
    let known = choices.iter().find(|(known, _)| *known == text);
    known.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        Error::invalid_config(format!(
            "the URL parameter `{name}` is `{text}`; use {}",
            names.join(" or ")
        ))
        .driver(DRIVER)
    })
}

/// Options of one subscription.
///
/// By name, as from a configuration file: `lease_ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChanbufOptions {
    /// A lease other than the broker's, for brokers that lease.
    pub lease: Option<Duration>,
}

impl DriverOptions for ChanbufOptions {
    const DRIVER: &'static str = DRIVER;
}

impl OptionFor<Chanbuf> for ChanbufOptions {}

impl ChanbufOptions {
    /// What the subscription asks for, checked against what the broker does.
    pub(crate) fn of(arguments: &DriverArguments, config: &Config) -> Result<Self> {
        arguments.check(DRIVER, &["lease_ms"])?;
        let mut options = arguments.get::<Self>().copied().unwrap_or_default();
        if let Some(millis) = arguments.parse("lease_ms")? {
            options.lease = Some(Duration::from_millis(millis));
        }
        match options.lease {
            Some(lease) if lease.is_zero() => Err(Error::invalid_config(
                "the lease is 0; leave it out for the broker's",
            )
            .driver(DRIVER)),
            Some(_) if config.lease.is_none() => Err(Error::unsupported(
                DRIVER,
                "this broker does not lease deliveries; set a lease when building it",
            )),
            _ => Ok(options),
        }
    }
}

//! Settings of one subscription.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use streams_core::{
    DriverArguments, DriverOptions, Error, IntoStreamName, OptionFor, Result, StartFrom, StreamName,
};
use tokio::sync::watch;

use crate::{DRIVER, Redis};

/// Options of one subscription.
///
/// By name, as from a configuration file: `no_ack`, `bounded`.
///
/// ```
/// use streams_core::Bus;
/// use streams_redis::{Redis, RedisOptions, StreamSet};
///
/// # async fn doc() -> streams_core::Result<()> {
/// let bus = Bus::new(Redis::builder("redis://localhost:6379").build()?);
/// let streams = StreamSet::new();
/// bus.subscribe_stream("orders", |message, _| async move { println!("{}", message.stream()) })
///     .group("audit")
///     .option(RedisOptions::new().streams(&streams))
///     .register()?;
/// bus.start().await?;
/// streams.add("payments")?;
/// streams.remove("orders")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    pub(crate) no_ack: bool,
    pub(crate) bounded: bool,
    pub(crate) streams: Option<StreamSet>,
}

impl RedisOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes entries as acknowledged when they are read (`NOACK`): one round trip less for each
    /// batch, and what a crashed reader held is lost. All members of a group have the same.
    #[must_use]
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = no_ack;
        self
    }

    /// Ends the subscription with the last entry there was when it was opened: a replay. Only
    /// without a group.
    #[must_use]
    pub fn bounded(mut self, bounded: bool) -> Self {
        self.bounded = bounded;
        self
    }

    /// Reads more streams beside, which can be changed while the subscription runs.
    #[must_use]
    pub fn streams(mut self, streams: &StreamSet) -> Self {
        self.streams = Some(streams.clone());
        self
    }

    /// What the subscription asks for, checked.
    pub(crate) fn of(arguments: &DriverArguments) -> Result<Self> {
        arguments.check(DRIVER, &["no_ack", "bounded"])?;
        let mut options = arguments.get::<Self>().cloned().unwrap_or_default();
        if let Some(no_ack) = arguments.parse("no_ack")? {
            options.no_ack = no_ack;
        }
        if let Some(bounded) = arguments.parse("bounded")? {
            options.bounded = bounded;
        }
        if options.bounded && options.streams.is_some() {
            return Err(Error::invalid_config(
                "a bounded subscription reads one stream; leave `bounded` or `streams` out",
            )
            .driver(DRIVER));
        }
        Ok(options)
    }
}

impl DriverOptions for RedisOptions {
    const DRIVER: &'static str = DRIVER;
}

impl OptionFor<Redis> for RedisOptions {}

/// The streams that a subscription reads beside or instead of its own. Cheap to clone; clones are the
/// same set.
#[derive(Clone)]
pub struct StreamSet(Arc<watch::Sender<Changes>>);

/// What was said of streams beside the subscription's own: where to start with it, or that it is not
/// to be read.
pub(crate) type Changes = BTreeMap<StreamName, Option<StartFrom>>;

impl StreamSet {
    /// Nothing but the subscription's own stream.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// Reads a stream too, from where the subscription starts. One that is there is left as it is.
    ///
    /// # Errors
    /// [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad name.
    pub fn add(&self, stream: impl IntoStreamName) -> Result<()> {
        self.add_from(stream, StartFrom::Default)
    }

    /// Reads a stream too, from `start` on if its group is new. One that is there is left as it is.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_from(&self, stream: impl IntoStreamName, start: StartFrom) -> Result<()> {
        self.set(stream.into_stream_name()?, Some(start));
        Ok(())
    }

    /// Reads a stream no more; it may be the subscription's own. What was taken of it and not handed
    /// to a handler goes back.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn remove(&self, stream: impl IntoStreamName) -> Result<()> {
        self.set(stream.into_stream_name()?, None);
        Ok(())
    }

    fn set(&self, stream: StreamName, start: Option<StartFrom>) {
        self.0.send_if_modified(|changes| {
            let known = changes.get(&stream);
            if known.is_some_and(|known| known.is_some() == start.is_some()) {
                return false;
            }
            changes.insert(stream, start);
            true
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Changes> {
        let mut changes = self.0.subscribe();
        changes.mark_changed();
        changes
    }
}

impl Default for StreamSet {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StreamSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.borrow().keys()).finish()
    }
}

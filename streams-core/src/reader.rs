//! Reading from streams.

use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::options::DriverArguments;
use crate::{
    Capabilities, Delivery, ExtendReport, Received, Result, SettleReport, Settlement, StreamName,
    TokenId,
};

/// Opens subscriptions. The small end of a driver that the bus reads from.
#[async_trait]
pub trait Reader: Send + Sync {
    /// Opens a subscription.
    ///
    /// # Behavior
    /// - Members of one group share its messages; without a group each subscription gets its own
    ///   copy of all.
    /// - An option or argument the driver does not know is an error, never ignored.
    ///
    /// # Errors
    /// - [`NotFound`](crate::ErrorKind::NotFound) when the stream does not exist and the driver
    ///   does not create it.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) for what the capabilities do not have.
    /// - [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for an unknown option.
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>>;

    /// What the driver can do.
    fn capabilities(&self) -> &Capabilities;
}

/// An open subscription. One owner drives it; it neither runs handlers nor retries.
///
/// Dropping one without closing it is a crash: what it had not settled is delivered again.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for one delivery, then takes what is ready, at most `max` in all, into `out`.
    ///
    /// # Behavior
    /// **Cancel-safe**: a call dropped before it ends has taken nothing.
    ///
    /// # Errors
    /// [Retryable](crate::Error::is_retryable) ones make the runner open the subscription anew;
    /// others end it.
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received>;

    /// As [`receive`](Subscription::receive) without waiting; `None` when there is nothing right
    /// now, or when the driver must wait to know. In-memory drivers save an allocation with this.
    fn try_receive(
        &mut self,
        max: NonZeroUsize,
        out: &mut Vec<Delivery>,
    ) -> Option<Result<Received>> {
        let _ = (max, out);
        None
    }

    /// Settles, and takes what is settled out of `settlements`.
    ///
    /// # Behavior
    /// - Those that were no longer this reader's are taken out too, and reported as lost.
    /// - With an error, what is left in `settlements` may be tried again.
    ///
    /// # Errors
    /// When the backend cannot be reached.
    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport>;

    /// As [`settle`](Subscription::settle) without waiting; `None`, with nothing taken, says to
    /// call that. For in-memory drivers.
    fn try_settle(&mut self, settlements: &mut Vec<Settlement>) -> Option<Result<SettleReport>> {
        let _ = settlements;
        None
    }

    /// Makes leases last until `by` from now.
    ///
    /// Requires capability `leases`.
    ///
    /// # Errors
    /// When the backend cannot be reached.
    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        let _ = (deliveries, by);
        Ok(ExtendReport::default())
    }

    /// Ends the subscription; what it has not settled goes back at once where the backend can.
    /// Closing again is `Ok`.
    ///
    /// # Errors
    /// When the backend cannot be told; the subscription is over all the same.
    async fn close(&mut self) -> Result<()>;
}

/// Where a subscription starts. A group that has a position goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StartFrom {
    /// As the driver does by itself.
    #[default]
    Default,
    /// With the oldest message kept.
    Earliest,
    /// With the next message written.
    Latest,
    /// With the message at this position of the driver's, inclusive: an offset, an entry id.
    Position(String),
    /// With the first message of this time or later.
    Time(SystemTime),
}

/// What to subscribe to, and how.
///
/// ```
/// use streams_core::{ReadOptions, StartFrom};
///
/// let options = ReadOptions::new("user.created")?
///     .group("mailer")?
///     .start_from(StartFrom::Earliest);
/// assert_eq!(options.group.as_deref(), Some("mailer"));
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The stream.
    pub stream: StreamName,
    /// The consumer group; without one, the subscription reads a copy of its own.
    pub group: Option<String>,
    /// Where to start.
    pub start: StartFrom,
    /// Options and arguments that are the driver's own.
    pub driver: DriverArguments,
}

impl ReadOptions {
    /// Reads `stream` without a group, from where the driver starts by itself.
    ///
    /// # Errors
    /// [`InvalidMessage`](crate::ErrorKind::InvalidMessage) for a bad stream name.
    pub fn new(stream: impl crate::IntoStreamName) -> Result<Self> {
        Ok(Self {
            stream: stream.into_stream_name()?,
            group: None,
            start: StartFrom::Default,
            driver: DriverArguments::default(),
        })
    }

    /// Joins a group.
    ///
    /// # Errors
    /// [`InvalidMessage`](crate::ErrorKind::InvalidMessage) for a bad group name.
    pub fn group(mut self, group: impl Into<String>) -> Result<Self> {
        let group = group.into();
        crate::names::check_name("group name", &group)?;
        self.group = Some(group);
        Ok(self)
    }

    /// Sets where to start.
    #[must_use]
    pub fn start_from(mut self, start: StartFrom) -> Self {
        self.start = start;
        self
    }
}

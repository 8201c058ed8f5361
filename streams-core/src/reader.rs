//! Reading from streams.

use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::options::DriverArguments;
use crate::{
    Capabilities, Delivery, Error, ErrorKind, ExtendReport, Received, Result, SettleReport,
    Settlement, StreamName, TokenId, TransactionPart,
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

    /// Settles deliveries and writes the messages that came of handling them, all in one
    /// transaction: whoever reads committed messages sees both or neither. Takes what is done out of
    /// `parts`.
    ///
    /// Requires capability `exactly_once`, and a subscription opened with
    /// [`ReadOptions::exactly_once`].
    ///
    /// # Behavior
    /// - A part whose delivery was no longer this reader's is taken out and reported as lost; its
    ///   outputs are not written.
    /// - With an error nothing was settled or written, and what is left in `parts` may be tried
    ///   again on this subscription.
    /// - Where it cannot tell whether that holds (the confirmation of the commit did not come, say),
    ///   or can settle nothing more (another reader has taken its place), it says so by the kind of
    ///   the error: [`Closed`](ErrorKind::Closed), [`LeaseLost`](ErrorKind::LeaseLost) or
    ///   [`Conflict`](ErrorKind::Conflict). The runner then settles nothing more on this
    ///   subscription and, where the error is [retryable](Error::is_retryable), opens it anew.
    /// - There is at most one part for a delivery, and for a partition where acknowledgement is by
    ///   position. Parts and outputs are in the order in which they are to be written.
    /// - A call that is dropped before it ends may have settled all or nothing; the subscription is
    ///   then only closed.
    ///
    /// # Errors
    /// When the backend cannot be reached or refuses an output.
    async fn settle_in_transaction(
        &mut self,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        let _ = parts;
        Err(Error::new(
            ErrorKind::Unsupported,
            "this driver cannot settle and write in one transaction; subscribe without \
             `exactly_once`, or use a driver that can",
        )
        .operation("settle_in_transaction"))
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
    /// Whether deliveries are settled with
    /// [`settle_in_transaction`](Subscription::settle_in_transaction).
    pub exactly_once: bool,
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
            exactly_once: false,
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

    /// Settles in transactions, together with what handling writes.
    #[must_use]
    pub fn exactly_once(mut self, exactly_once: bool) -> Self {
        self.exactly_once = exactly_once;
        self
    }

    /// Sets where to start.
    #[must_use]
    pub fn start_from(mut self, start: StartFrom) -> Self {
        self.start = start;
        self
    }
}

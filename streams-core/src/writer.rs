//! Writing to streams.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::{Capabilities, Error, Message, MessageId, Result, StreamName, WriteError};

/// Writes messages. The small end of a driver that publishers use.
///
/// # Behavior
/// - Every message names its stream, so one batch may go to many.
/// - `Ok` means the backend has confirmed **every** message of the batch.
/// - An error names by index those it has not; the others are written.
/// - The order of the messages of one key is kept.
///
/// # Pitfalls
/// A call that is dropped before it ends may have written any part of its batch.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Writes a batch and waits for the confirmation. An empty batch is `Ok`.
    ///
    /// # Errors
    /// The failed indices, each with its reason. [`ErrorKind::Closed`](crate::ErrorKind::Closed)
    /// for all after [`close`](Writer::close).
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError>;

    /// Writes without waiting if the driver can do it now; `None` says to call
    /// [`write`](Writer::write). In-memory drivers save an allocation for each call with this;
    /// others leave it out.
    fn try_write(&self, batch: &[Message]) -> Option<Result<(), WriteError>> {
        let _ = batch;
        None
    }

    /// Writes a batch that is to be delivered at `due`, not earlier. A time gone by is now.
    ///
    /// Requires capability `delay`.
    ///
    /// # Errors
    /// As [`write`](Writer::write); [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
    /// without the capability or beyond its limit.
    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        let _ = due;
        let driver = self.capabilities().driver;
        if batch.is_empty() {
            return Ok(());
        }
        Err(WriteError::all(batch.len(), || {
            Error::unsupported(
                driver,
                "this driver cannot schedule messages; write them when they are due",
            )
            .operation("write_at")
        }))
    }

    /// Takes back a message scheduled with [`write_at`](Writer::write_at). `false` says that none
    /// was waiting under that id: it is unknown or has been delivered.
    ///
    /// Requires capability `cancel_delayed`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without the capability.
    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        let _ = (stream, id);
        Err(Error::unsupported(
            self.capabilities().driver,
            "this driver cannot cancel a scheduled message",
        )
        .operation("cancel"))
    }

    /// The messages that are scheduled for a stream, those due first first, at most `limit`. One that
    /// has become due is among them until it is moved to its stream.
    ///
    /// Requires capability `list_delayed`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without the capability.
    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        let _ = (stream, limit);
        Err(Error::unsupported(
            self.capabilities().driver,
            "this driver cannot list scheduled messages; keep the ids that `publish_at` returns",
        )
        .operation("scheduled"))
    }

    /// Writes a batch in one transaction: readers get all of it or nothing, whatever fails.
    ///
    /// Requires capability `transactions`.
    ///
    /// # Errors
    /// Nothing was written then, but for an error that is not
    /// [retryable](crate::Error::is_retryable) because nobody can tell (the confirmation of the
    /// commit did not come). [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without the
    /// capability; a message that cannot be written fails the whole batch, with its index as
    /// context.
    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        let _ = batch;
        Err(Error::unsupported(
            self.capabilities().driver,
            "this driver has no transactions; write with `write`, or use a driver that has them",
        )
        .operation("write_in_transaction"))
    }

    /// Waits until all that was given to the writer so far is confirmed or has failed.
    ///
    /// # Errors
    /// When the backend cannot be reached.
    async fn flush(&self) -> Result<()>;

    /// Flushes, then refuses every later write with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    /// Closing again is `Ok`.
    ///
    /// # Errors
    /// When the flush fails; the writer is closed all the same.
    async fn close(&self) -> Result<()>;

    /// What the driver can do.
    fn capabilities(&self) -> &Capabilities;
}

/// A message that waits for its time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Scheduled {
    /// The message.
    pub message: Message,
    /// When it is due. Drivers keep it by the millisecond.
    pub due: SystemTime,
}

impl Scheduled {
    /// A message and when it is due, for drivers.
    #[must_use]
    pub fn new(message: Message, due: SystemTime) -> Self {
        Self { message, due }
    }
}

/// Writes through the fast path where there is one.
pub(crate) async fn write(writer: &dyn Writer, batch: &[Message]) -> Result<(), WriteError> {
    match writer.try_write(batch) {
        Some(result) => result,
        None => writer.write(batch).await,
    }
}

/// A writer that keeps nothing: for tests, and to switch publishing off.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use streams_core::{Error, ErrorKind, Message, NoopWriter, Writer};
///
/// let message = Message::builder("a").data("x").build()?;
/// assert!(NoopWriter::new().write(&[message.clone()]).await.is_ok());
///
/// let failing = NoopWriter::failing(|| Error::new(ErrorKind::Unavailable, "as asked"));
/// assert!(failing.write(&[message]).await.is_err());
/// # Ok::<(), Error>(()) }).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct NoopWriter {
    error: Option<Arc<dyn Fn() -> Error + Send + Sync>>,
}

impl NoopWriter {
    /// Accepts everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses everything with this error.
    pub fn failing(error: impl Fn() -> Error + Send + Sync + 'static) -> Self {
        Self {
            error: Some(Arc::new(error)),
        }
    }
}

impl std::fmt::Debug for NoopWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoopWriter")
            .field("failing", &self.error.is_some())
            .finish()
    }
}

static NOOP: Capabilities = Capabilities::none("noop")
    .creates_streams(true)
    .binary_headers(true);

#[async_trait]
impl Writer for NoopWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        match &self.error {
            Some(error) if !batch.is_empty() => Err(WriteError::all(batch.len(), || error())),
            _ => Ok(()),
        }
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &NOOP
    }
}

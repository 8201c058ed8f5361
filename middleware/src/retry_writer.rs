//! Retry around a [`Writer`]: what could not be written is written again.
//!
//! # Behavior
//! - Only the failed messages of a batch are written again, and of those only the ones whose error is
//!   [retryable](streams_core::Error::is_retryable): nothing is written twice because something else
//!   failed.
//! - The caller waits, for as long as all attempts take.
//! - The error in the end names every message that was not written, by its index in the whole batch.
//! - Messages of one key keep their order among those that fail together. One that fails alone comes
//!   after those of its batch that did not; where that matters, write its key's messages one by one.
//! - Everything else is passed on as it is.
//!
//! # Where it belongs
//! Around a driver's writer, before it is given to a bus, to [`DeadLetters`](crate::DeadLetters) or to
//! an outbox relay. A handler that publishes needs none: its own retry does.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use streams_core::{
    Backoff, Capabilities, Error, Message, MessageId, Result, Scheduled, StreamName, WriteError,
    Writer, async_trait,
};

use crate::write_through;

/// A writer that retries. See the [module](self).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use streams_core::{Backoff, Message, NoopWriter, Writer};
/// use streams_middleware::RetryWriter;
///
/// let driver = Arc::new(NoopWriter::new());
/// let writer = RetryWriter::new(driver, Backoff::default(), 5)?;
/// writer.write(&[Message::builder("orders").data("x").build()?]).await?;
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct RetryWriter {
    writer: Arc<dyn Writer>,
    backoff: Backoff,
    max_attempts: u32,
}

impl RetryWriter {
    /// Tries to write each message at most `max_attempts` times, the first included.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for zero attempts or a backoff that
    /// would make a hot loop.
    pub fn new(writer: Arc<dyn Writer>, backoff: Backoff, max_attempts: u32) -> Result<Self> {
        if max_attempts == 0 {
            return Err(Error::invalid_config(
                "the retrying writer allows 0 attempts; allow at least 1, which is none again",
            ));
        }
        backoff.validate()?;
        Ok(Self {
            writer,
            backoff,
            max_attempts,
        })
    }

    async fn attempt(&self, batch: &[Message], due: Option<SystemTime>) -> Result<(), WriteError> {
        match due {
            None => write_through(&*self.writer, batch).await,
            Some(due) => self.writer.write_at(batch, due).await,
        }
    }

    async fn write_all(
        &self,
        batch: &[Message],
        due: Option<SystemTime>,
    ) -> Result<(), WriteError> {
        let Err(mut error) = self.attempt(batch, due).await else {
            return Ok(());
        };
        // Where each message of the batch last written stands in the whole one.
        let mut indices: Vec<usize> = (0..batch.len()).collect();
        let mut lost = Vec::new();
        for attempt in 1.. {
            let mut again = Vec::new();
            for (index, error) in error.into_failures() {
                match indices.get(index) {
                    Some(index) if error.is_retryable() && attempt < self.max_attempts => {
                        again.push((*index, error));
                    }
                    index => lost.push((index.copied().unwrap_or_default(), error)),
                }
            }
            let Some((_, first)) = again.first() else {
                break;
            };
            let delay = self.backoff.delay(attempt);
            tracing::warn!(
                messages = again.len(), attempt, ?delay, error = ?first,
                "messages could not be written; they are written again"
            );
            tokio::time::sleep(delay).await;
            indices = again.iter().map(|(index, _)| *index).collect();
            let messages: Vec<_> = indices.iter().map(|index| batch[*index].clone()).collect();
            match self.attempt(&messages, due).await {
                Ok(()) => break,
                Err(next) => error = next,
            }
        }
        if lost.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(lost))
        }
    }
}

impl fmt::Debug for RetryWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryWriter")
            .field("driver", &self.writer.capabilities().driver)
            .field("backoff", &self.backoff)
            .field("max_attempts", &self.max_attempts)
            .finish()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Writer for RetryWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.write_all(batch, None).await
    }

    /// Never writes: a failure there could not wait for its retry. [`write`](Writer::write) takes the
    /// fast path of the writer within.
    fn try_write(&self, _: &[Message]) -> Option<Result<(), WriteError>> {
        None
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        self.write_all(batch, Some(due)).await
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        self.writer.cancel(stream, id).await
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        self.writer.scheduled(stream, limit).await
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        let mut attempt = 1;
        loop {
            match self.writer.write_in_transaction(batch).await {
                Err(error) if error.is_retryable() && attempt < self.max_attempts => {
                    let delay = self.backoff.delay(attempt);
                    tracing::warn!(
                        messages = batch.len(), attempt, ?delay, error = ?error,
                        "the transaction failed; it is tried again"
                    );
                    tokio::time::sleep(delay).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn flush(&self) -> Result<()> {
        self.writer.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.writer.capabilities()
    }
}

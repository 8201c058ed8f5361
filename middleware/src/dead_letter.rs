//! Dead letters: what cannot be handled is written to another stream, with its story in headers.
//!
//! Without this layer the runner does the same through the bus's own writer, to `<stream>.dlq`. Use
//! the layer for another writer (dead letters in a table, events on Kafka) or another stream.
//!
//! # Behavior
//! - Takes [`Outcome::DeadLetter`] and errors that are
//!   unrecoverable or [exhausted](streams_core::HandlerError::exhausted). Any other error goes on:
//!   there is no [`Retry`](crate::Retry) inside, so the runner retries it.
//! - Writes the copy that [`streams_core::dead_letter`] makes: same id, key and data, and headers for
//!   reason, causes, attempts, times, stream, id and group.
//! - The message is acknowledged only when the copy is **confirmed** written. When it cannot be, that
//!   is logged at `ERROR` and the message is retried with backoff, through the handler: it stays
//!   unacknowledged, is never dropped, and counts no dead letter until the writer is back.
//! - The copies of a batch are one write; those the writer did not take are retried, item by item.
//! - A crash between the write and the acknowledgement brings the message again, and a second copy
//!   with the same id.
//! - A stream of dead letters has none of its own: its failures go on to the runner, which retries
//!   for ever. Give it [`to_stream`](DeadLetters::to_stream) if you want a last resort.
//! - [`streams_core::dead_letter::redrive`] makes the message to write to bring one back.
//!
//! # Where it belongs
//! **Outside** [`Retry`](crate::Retry): inside it, no error is exhausted yet, and only
//! unrecoverable ones arrive here. Outside [`Deduplication`](crate::Deduplication), which would take
//! "written to the dead letters" for "handled" and acknowledge the redriven message unhandled.

use std::fmt;
use std::sync::Arc;

use streams_core::dead_letter::{DeadLetterReason, dead_letter, dead_letter_to};
use streams_core::{
    Backoff, Context, Handler, HandlerResult, Input, IntoStreamName, Layer, Message, Outcome,
    Result, StreamName, Writer,
};

use crate::write_through;

/// The layer. See the [module](self).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use streams_core::{Context, Handler, Layer, Message, NoopWriter, Outcome, message_fn};
/// use streams_middleware::DeadLetters;
///
/// let handler = message_fn(|_, _| async { Outcome::dead_letter("a message from the future") });
/// let handler = DeadLetters::new(Arc::new(NoopWriter::new())).layer(handler);
///
/// let message = Message::builder("orders").data("x").build()?;
/// let result = handler.handle(&Context::for_test(message)).await;
/// assert_eq!(result.unwrap(), Outcome::Ack);
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    writer: Arc<dyn Writer>,
    stream: Option<StreamName>,
    backoff: Backoff,
}

impl DeadLetters {
    /// Writes to `<stream>.dlq` through `writer`.
    #[must_use]
    pub fn new(writer: Arc<dyn Writer>) -> Self {
        Self {
            writer,
            stream: None,
            backoff: Backoff::default(),
        }
    }

    /// Writes to this stream instead.
    ///
    /// # Errors
    /// [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad name.
    pub fn to_stream(mut self, stream: impl IntoStreamName) -> Result<Self> {
        self.stream = Some(stream.into_stream_name()?);
        Ok(self)
    }

    /// Sets the delays before a message is tried again whose dead letter could not be written; the
    /// default is 100 ms to 30 s with jitter.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) when it would make a hot loop.
    pub fn backoff(mut self, backoff: Backoff) -> Result<Self> {
        backoff.validate()?;
        self.backoff = backoff;
        Ok(self)
    }

    async fn write(&self, items: &[Context], results: &mut [HandlerResult]) {
        let mut indices = Vec::new();
        let mut copies = Vec::new();
        for (index, (context, result)) in items.iter().zip(results.iter_mut()).enumerate() {
            let Some(reason) = reason(result) else {
                continue;
            };
            match self.copy(context, reason) {
                Some(Ok(copy)) => {
                    indices.push(index);
                    copies.push(copy);
                }
                Some(Err(error)) => *result = self.put_off(context, &error),
                None => {}
            }
        }
        if copies.is_empty() {
            return;
        }
        let written = write_through(&*self.writer, &copies).await;
        let failures = written
            .as_ref()
            .err()
            .map_or(&[][..], |error| error.failures());
        for (position, index) in indices.into_iter().enumerate() {
            let (context, result) = (&items[index], &mut results[index]);
            *result = match failures.iter().find(|(failed, _)| *failed == position) {
                Some((_, error)) => self.put_off(context, error),
                None => {
                    tracing::warn!(
                        stream = %context.stream(),
                        group = context.group(),
                        id = %context.message().id(),
                        attempts = context.attempt(),
                        reason = ?reason(result),
                        to = %copies[position].stream(),
                        "message given up: written to the dead letters"
                    );
                    Ok(Outcome::Ack)
                }
            };
        }
    }

    /// The copy to write; `None` where there is nowhere to write it to.
    fn copy(&self, context: &Context, reason: DeadLetterReason<'_>) -> Option<Result<Message>> {
        let from = context.message().stream();
        match &self.stream {
            Some(to) => (to != from).then(|| dead_letter_to(context, reason, to.clone())),
            None => (!from.is_dead_letters()).then(|| dead_letter(context, reason)),
        }
    }

    fn put_off(&self, context: &Context, error: &streams_core::Error) -> HandlerResult {
        let delay = self.backoff.delay(context.attempt());
        tracing::error!(
            stream = %context.stream(),
            group = context.group(),
            id = %context.message().id(),
            attempts = context.attempt(),
            ?delay,
            error = ?error,
            "the dead letter cannot be written; the message stays unacknowledged and is tried again"
        );
        Ok(Outcome::retry_after(delay))
    }
}

/// Why a message is given up, if it is.
fn reason(result: &HandlerResult) -> Option<DeadLetterReason<'_>> {
    match result {
        Ok(Outcome::DeadLetter { reason }) => Some(DeadLetterReason::Asked(reason)),
        Err(error) if error.is_unrecoverable() || error.is_exhausted() => {
            Some(DeadLetterReason::Failed(error))
        }
        _ => None,
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("driver", &self.writer.capabilities().driver)
            .field("stream", &self.stream)
            .field("backoff", &self.backoff)
            .finish()
    }
}

impl<H> Layer<H> for DeadLetters {
    type Service = DeadLettersService<H>;

    fn layer(&self, next: H) -> Self::Service {
        DeadLettersService {
            next,
            dead_letters: self.clone(),
        }
    }
}

/// A handler within [`DeadLetters`].
#[derive(Debug, Clone)]
pub struct DeadLettersService<H> {
    next: H,
    dead_letters: DeadLetters,
}

impl<I: Input, H: Handler<I>> Handler<I> for DeadLettersService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let mut output = self.next.handle(input).await;
        let results = I::results(&mut output);
        if results.iter().any(|result| reason(result).is_some()) {
            // Boxed, so that the way of all other messages stays small.
            Box::pin(self.dead_letters.write(input.items(), results)).await;
        }
        output
    }
}

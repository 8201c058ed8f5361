//! Retry: a failed delivery is tried again after a delay that grows, a limited number of times.
//!
//! The layer keeps no state and does not wait. It turns an error into
//! [`Outcome::Retry`] with a delay, and the runner does the rest: it
//! waits in the process while the message stays unacknowledged and later messages of its key stay
//! behind it, without holding a worker; a delay longer than the subscription's
//! [`longest_wait`](streams_core::SubscriptionBuilder::longest_wait) goes to the backend where it
//! can delay and no order is kept. Then the handler gets the message again, with
//! [`Context::attempt`](streams_core::Context::attempt) one higher.
//!
//! # Behavior
//! - A retryable error becomes a retry, after the delay the error asks for
//!   ([`HandlerError::retry_after`](streams_core::HandlerError::retry_after)) or else the backoff's.
//! - After the last attempt the error goes on, marked
//!   [exhausted](streams_core::HandlerError::exhausted): it is dead-lettered.
//! - An [unrecoverable](streams_core::HandlerError::is_unrecoverable) error, and one the classifier
//!   refuses, goes on at once.
//! - A handler's own `Outcome::Retry` is no failure and is not limited; one without a delay gets
//!   the backoff's.
//! - Attempts are counted by the runner, or by the backend where it counts. Deliveries to readers
//!   that died count too, which is what keeps a message that kills its reader from coming for ever.
//!
//! # Where it belongs
//! Inside [`DeadLetters`](crate::DeadLetters), which takes what is exhausted, and around everything
//! that fails: [`CircuitBreaker`](crate::CircuitBreaker),
//! [`Deduplication`](crate::Deduplication), [`Timeout`](crate::Timeout). A layer outside sees a
//! retry instead of the error, so this one logs the error at `WARN`.

use std::fmt;
use std::sync::Arc;

use streams_core::{
    Backoff, Context, Error, Handler, HandlerError, HandlerResult, Input, Layer, Outcome, Result,
};

type Classifier = Arc<dyn Fn(&HandlerError) -> bool + Send + Sync>;

/// The layer. See the [module](self).
///
/// ```
/// use std::time::Duration;
/// use streams_core::{Backoff, ErrorKind};
/// use streams_middleware::Retry;
///
/// let retry = Retry::builder()
///     .backoff(Backoff::new(Duration::from_millis(50), Duration::from_secs(10)))
///     .max_attempts(5)
///     .retry_if(|error| error.kind() != ErrorKind::Permission)
///     .build()?;
/// # let _: Retry = retry;
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Retry {
    backoff: Backoff,
    max_attempts: Option<u32>,
    retry_if: Option<Classifier>,
}

impl Retry {
    /// Tries a message at most `max_attempts` times, the first included.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for zero attempts or a backoff
    /// that would make a hot loop.
    pub fn new(backoff: Backoff, max_attempts: u32) -> Result<Self> {
        Self::builder()
            .backoff(backoff)
            .max_attempts(max_attempts)
            .build()
    }

    /// Starts from the defaults: the default backoff (100 ms to 30 s, with jitter), 8 attempts, every
    /// error retried that is not unrecoverable.
    pub fn builder() -> RetryBuilder {
        RetryBuilder(Self::default())
    }

    #[cold]
    fn decide(&self, context: &Context, result: &mut HandlerResult) {
        let attempt = context.attempt();
        let delay = match &*result {
            Ok(Outcome::Retry { after: None }) => self.backoff.delay(attempt),
            Err(error) if error.is_unrecoverable() || error.is_exhausted() => return,
            Err(error) => {
                let wanted = self
                    .retry_if
                    .as_ref()
                    .is_none_or(|retry_if| retry_if(error));
                if !wanted || self.max_attempts.is_some_and(|max| attempt >= max) {
                    if let Err(error) = std::mem::replace(result, Ok(Outcome::Release)) {
                        *result = Err(error.exhausted());
                    }
                    return;
                }
                let delay = error.delay().unwrap_or_else(|| self.backoff.delay(attempt));
                tracing::warn!(
                    stream = %context.stream(),
                    group = context.group(),
                    id = %context.message().id(),
                    attempt,
                    ?delay,
                    error = ?error,
                    "handling failed; it is tried again"
                );
                delay
            }
            Ok(_) => return,
        };
        *result = Ok(Outcome::retry_after(delay));
    }
}

impl Default for Retry {
    /// As [`Retry::builder`] says.
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            max_attempts: Some(8),
            retry_if: None,
        }
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("backoff", &self.backoff)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

impl<H> Layer<H> for Retry {
    type Service = RetryService<H>;

    fn layer(&self, next: H) -> Self::Service {
        RetryService {
            next,
            retry: self.clone(),
        }
    }
}

/// Builds a [`Retry`].
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct RetryBuilder(Retry);

impl RetryBuilder {
    /// Sets the delays between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.0.backoff = backoff;
        self
    }

    /// Sets how often a message is tried at most, the first time included.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.0.max_attempts = Some(attempts);
        self
    }

    /// Tries for ever, with the backoff's longest delay in the end.
    pub fn without_limit(mut self) -> Self {
        self.0.max_attempts = None;
        self
    }

    /// Retries only errors for which `classifier` is true; the others go on as exhausted.
    /// Unrecoverable ones are never retried, nor shown to it.
    pub fn retry_if(
        mut self,
        classifier: impl Fn(&HandlerError) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.0.retry_if = Some(Arc::new(classifier));
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for zero attempts or a backoff
    /// that would make a hot loop.
    pub fn build(self) -> Result<Retry> {
        if self.0.max_attempts == Some(0) {
            return Err(Error::invalid_config(
                "the retry layer allows 0 attempts; allow at least 1, which is none again",
            ));
        }
        self.0.backoff.validate()?;
        Ok(self.0)
    }
}

/// A handler within [`Retry`].
#[derive(Debug, Clone)]
pub struct RetryService<H> {
    next: H,
    retry: Retry,
}

impl<I: Input, H: Handler<I>> Handler<I> for RetryService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let mut output = self.next.handle(input).await;
        for (context, result) in input.items().iter().zip(I::results(&mut output)) {
            if matches!(result, Err(_) | Ok(Outcome::Retry { after: None })) {
                self.retry.decide(context, result);
            }
        }
        output
    }
}

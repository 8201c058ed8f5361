//! Logging: a `tracing` event for each delivery, its level by the outcome.
//!
//! # Behavior
//! - Acknowledged and released deliveries are logged at `DEBUG`, retries at `WARN`, dead letters and
//!   errors at `ERROR`. Each level can be set.
//! - Fields: `stream`, `group`, `id`, `attempt`, `driver`, `outcome`, `elapsed`, and with it `delay`,
//!   `reason` or `error`. Never data or header values; an error's text is the handler's own.
//! - When the level of acknowledged deliveries is off in the subscriber, these cost one check, and no
//!   time is measured: `elapsed` is then missing from the others too.
//! - The target is `streams_middleware::logging`.
//! - In a batch each delivery has its event; `elapsed` is the batch's.
//!
//! # Where it belongs
//! Outermost, so that it says what became of the message in the end; only
//! [`CorrelationId`](crate::CorrelationId) and tracing go around it, so that its events are in their
//! spans. [`Retry`](crate::Retry) and [`DeadLetters`](crate::DeadLetters) turn errors into outcomes
//! and log the causes themselves. Innermost, it logs the handler's errors, attempt by attempt.

use std::time::Duration;

use streams_core::{Context, Handler, HandlerResult, Input, Layer, Outcome};
use tokio::time::Instant;
use tracing::{Level, field};

/// The layer. See the [module](self).
///
/// ```
/// use streams_middleware::Logging;
/// use tracing::Level;
///
/// let logging = Logging::new().ack_level(Level::INFO);
/// # let _: Logging = logging;
/// ```
#[derive(Debug, Clone)]
pub struct Logging {
    ack: Level,
    retry: Level,
    failure: Level,
}

impl Logging {
    /// With the default levels.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ack: Level::DEBUG,
            retry: Level::WARN,
            failure: Level::ERROR,
        }
    }

    /// Sets the level of deliveries acknowledged or released; the default is `DEBUG`.
    #[must_use]
    pub fn ack_level(mut self, level: Level) -> Self {
        self.ack = level;
        self
    }

    /// Sets the level of deliveries that are tried again; the default is `WARN`.
    #[must_use]
    pub fn retry_level(mut self, level: Level) -> Self {
        self.retry = level;
        self
    }

    /// Sets the level of errors and dead letters; the default is `ERROR`.
    #[must_use]
    pub fn failure_level(mut self, level: Level) -> Self {
        self.failure = level;
        self
    }

    #[cold]
    fn log(&self, context: &Context, result: &HandlerResult, elapsed: Option<Duration>) {
        let (level, outcome, text) = match result {
            Ok(Outcome::Ack) => (self.ack, "ack", "handled"),
            Ok(Outcome::Release) => (self.ack, "release", "given back"),
            Ok(Outcome::Retry { .. }) => (self.retry, "retry", "put off, to be tried again"),
            Ok(Outcome::DeadLetter { .. }) => (self.failure, "dead_letter", "given up"),
            Err(_) => (self.failure, "error", "failed"),
            Ok(_) => (
                self.retry,
                "other",
                "ended in a way this version does not know",
            ),
        };
        let delay = match result {
            Ok(Outcome::Retry { after }) => after.map(field::debug),
            _ => None,
        };
        let reason = match result {
            Ok(Outcome::DeadLetter { reason }) => Some(&**reason),
            _ => None,
        };
        let error = result.as_ref().err().map(field::debug);
        // A level is part of an event's static description, so each needs an event of its own.
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    Level::$level,
                    stream = %context.stream(),
                    group = context.group(),
                    id = %context.message().id(),
                    attempt = context.attempt(),
                    driver = context.driver(),
                    outcome,
                    elapsed = elapsed.map(field::debug),
                    delay,
                    reason,
                    error,
                    "{text}"
                )
            };
        }
        match level {
            Level::TRACE => event!(TRACE),
            Level::DEBUG => event!(DEBUG),
            Level::INFO => event!(INFO),
            Level::WARN => event!(WARN),
            Level::ERROR => event!(ERROR),
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the subscriber wants events of this level from here.
#[inline]
fn enabled(level: Level) -> bool {
    match level {
        Level::TRACE => tracing::enabled!(Level::TRACE),
        Level::DEBUG => tracing::enabled!(Level::DEBUG),
        Level::INFO => tracing::enabled!(Level::INFO),
        Level::WARN => tracing::enabled!(Level::WARN),
        Level::ERROR => tracing::enabled!(Level::ERROR),
    }
}

impl<H> Layer<H> for Logging {
    type Service = LoggingService<H>;

    fn layer(&self, next: H) -> Self::Service {
        LoggingService {
            next,
            logging: self.clone(),
        }
    }
}

/// A handler within [`Logging`].
#[derive(Debug, Clone)]
pub struct LoggingService<H> {
    next: H,
    logging: Logging,
}

impl<I: Input, H: Handler<I>> Handler<I> for LoggingService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let all = enabled(self.logging.ack);
        let started = all.then(Instant::now);
        let mut output = self.next.handle(input).await;
        let mut elapsed = None;
        for (context, result) in input.items().iter().zip(I::results(&mut output)) {
            if all || !matches!(result, Ok(Outcome::Ack | Outcome::Release)) {
                elapsed = elapsed.or_else(|| started.map(|started| started.elapsed()));
                self.logging.log(context, result, elapsed);
            }
        }
        output
    }
}

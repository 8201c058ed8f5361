//! Timeout: a handler that takes too long is stopped, and its delivery tried again.
//!
//! # Behavior
//! - The handler sees the end of its time in
//!   [`Context::deadline`](streams_core::Context::deadline) and
//!   [`time_left`](streams_core::Context::time_left). An earlier deadline is kept.
//! - Past it, the handler's future is dropped at the await it stands at, and the delivery fails with
//!   [`ErrorKind::Timeout`], which is retried. Code that blocks the
//!   thread, or runs in a task of its own, cannot be stopped that way.
//! - A batch has the time together, and fails together.
//!
//! # Where it belongs
//! Innermost, so that only the handler's own time counts, and what is around it gets an error
//! instead of being dropped: [`Deduplication`](crate::Deduplication) gives up its claim,
//! [`CircuitBreaker`](crate::CircuitBreaker) counts a failure. The subscription's
//! [`handler_timeout`](streams_core::SubscriptionBuilder::handler_timeout) counts the layers' time
//! too.

use std::time::Duration;

use streams_core::{Error, ErrorKind, Handler, HandlerError, Input, Layer, Result};
use tokio::time::{Instant, timeout_at};

/// The layer. See the [module](self).
///
/// ```
/// use std::time::Duration;
/// use streams_middleware::Timeout;
///
/// let timeout = Timeout::new(Duration::from_secs(30))?;
/// assert!(Timeout::new(Duration::ZERO).is_err());
/// # let _: Timeout = timeout;
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Timeout {
    limit: Duration,
}

impl Timeout {
    /// Gives a handler this long.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for zero.
    pub fn new(limit: Duration) -> Result<Self> {
        if limit.is_zero() {
            return Err(Error::invalid_config(
                "the timeout is 0, so no handler could finish; give it time or leave the layer out",
            ));
        }
        Ok(Self { limit })
    }
}

impl<H> Layer<H> for Timeout {
    type Service = TimeoutService<H>;

    fn layer(&self, next: H) -> Self::Service {
        TimeoutService {
            next,
            limit: self.limit,
        }
    }
}

/// A handler within [`Timeout`].
#[derive(Debug, Clone)]
pub struct TimeoutService<H> {
    next: H,
    limit: Duration,
}

impl<I: Input, H: Handler<I>> Handler<I> for TimeoutService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let Some(deadline) = Instant::now().checked_add(self.limit) else {
            // Longer than time lasts.
            return self.next.handle(input).await;
        };
        let limited = input.map_contexts(|context| context.with_deadline(deadline));
        match timeout_at(deadline, self.next.handle(&limited)).await {
            Ok(output) => output,
            Err(_) => input.output(|_| {
                Err(HandlerError::new(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "the handler took longer than {:?} and was stopped; make it faster or raise \
                         the timeout",
                        self.limit
                    ),
                )))
            }),
        }
    }
}

//! Concurrency limit: at most so many handlers run at once, over all subscriptions that share it.
//!
//! A subscription's own [`concurrency`](streams_core::SubscriptionBuilder::concurrency) bounds that
//! subscription, for free. This layer bounds several together, such as all that use one database.
//!
//! # Behavior
//! - Clones share the limit. Handlers wait their turn in the order they came.
//! - A batch counts as one.
//! - A delivery whose lease or partition is lost while it waits, or whose deadline comes, is
//!   [released](streams_core::Outcome::Release) without having been handled.
//!
//! # Where it belongs
//! Outside [`Deduplication`](crate::Deduplication) and [`Timeout`](crate::Timeout), so that waiting
//! uses up neither a claim nor the handler's time; inside [`Retry`](crate::Retry) and
//! [`CircuitBreaker`](crate::CircuitBreaker).

use std::sync::Arc;

use streams_core::{Error, Handler, Input, Layer, Result};
use tokio::sync::Semaphore;

use crate::wait;

/// The layer. See the [module](self).
///
/// ```
/// use streams_middleware::ConcurrencyLimit;
///
/// let database = ConcurrencyLimit::new(20)?;
/// // Give `database.clone()` to each subscription that uses it.
/// assert_eq!(database.available(), 20);
/// assert!(ConcurrencyLimit::new(0).is_err());
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    permits: Arc<Semaphore>,
}

impl ConcurrencyLimit {
    /// Lets this many handlers run at once.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for zero, or for more than a
    /// semaphore can count.
    pub fn new(limit: usize) -> Result<Self> {
        if limit == 0 || limit > Semaphore::MAX_PERMITS {
            return Err(Error::invalid_config(format!(
                "the concurrency limit is {limit}; use 1 to {}",
                Semaphore::MAX_PERMITS
            )));
        }
        Ok(Self {
            permits: Arc::new(Semaphore::new(limit)),
        })
    }

    /// How many more may start right now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.permits.available_permits()
    }
}

impl<H> Layer<H> for ConcurrencyLimit {
    type Service = ConcurrencyLimitService<H>;

    fn layer(&self, next: H) -> Self::Service {
        ConcurrencyLimitService {
            next,
            permits: self.permits.clone(),
        }
    }
}

/// A handler within [`ConcurrencyLimit`].
#[derive(Debug, Clone)]
pub struct ConcurrencyLimitService<H> {
    next: H,
    permits: Arc<Semaphore>,
}

impl<I: Input, H: Handler<I>> Handler<I> for ConcurrencyLimitService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => Ok(permit),
            Err(_) => match wait::unless_over(input, self.permits.acquire()).await {
                Some(permit) => permit,
                None => return wait::released(input),
            },
        };
        // The semaphore is ours and never closed: an error here would mean no limit at all.
        let Ok(_permit) = permit else {
            unreachable!("the semaphore of a concurrency limit is never closed");
        };
        self.next.handle(input).await
    }
}

//! Rate limit: at most so many messages in an interval, over all subscriptions that share it.
//!
//! A token bucket: tokens come evenly, `limit` in each interval, and up to `burst` of them are kept
//! for later. It is our own, a few lines on tokio's clock, because `governor`, the usual choice,
//! waits on a timer of its own, which virtual time in tests does not move.
//!
//! # Behavior
//! - Clones share the limit. What comes too fast waits, in the order it came; nothing fails.
//! - A batch takes a token for each of its messages. One larger than the burst waits until the bucket
//!   is full, and is paid off after it.
//! - A delivery whose lease or partition is lost while it waits, or whose deadline comes, is
//!   [released](streams_core::Outcome::Release) without having been handled, and takes no token.
//!
//! # Where it belongs
//! As [`ConcurrencyLimit`](crate::concurrency_limit), and outside of that one, so that a handler
//! waiting for a token does not keep others from running.

use std::sync::Arc;
use std::time::Duration;

use streams_core::{Error, Handler, Input, Layer, Result};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::wait;

/// Timers wake no more exactly than this; a smaller burst would lose tokens to their lateness.
const TIMER_SLACK: Duration = Duration::from_millis(10);

/// The layer. See the [module](self).
///
/// ```
/// use std::time::Duration;
/// use streams_middleware::RateLimit;
///
/// // What a partner's interface allows: 100 calls a second, in bursts of 20 at most.
/// let partner = RateLimit::new(100, Duration::from_secs(1))?.burst(20)?;
/// # let _: RateLimit = partner;
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RateLimit {
    period: Duration,
    burst: u32,
    bucket: Arc<Mutex<Bucket>>,
}

/// When the bucket is full again; `None` before the first message.
#[derive(Debug, Default)]
struct Bucket {
    full_at: Option<Instant>,
}

impl RateLimit {
    /// Lets `limit` messages through in each `interval`, in bursts of a tenth of that (or of what
    /// comes in 10 ms, if that is more).
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a limit of zero, or one of more
    /// than a message a nanosecond (which an interval of zero is).
    pub fn new(limit: u32, interval: Duration) -> Result<Self> {
        let period = interval.checked_div(limit).unwrap_or_default();
        if period.is_zero() {
            return Err(Error::invalid_config(format!(
                "the rate limit is {limit} in {interval:?}; use at least 1, and an interval of at \
                 least a nanosecond for each"
            )));
        }
        let in_slack = TIMER_SLACK.as_nanos() / period.as_nanos();
        let in_slack = u32::try_from(in_slack).unwrap_or(u32::MAX);
        Ok(Self {
            period,
            burst: (limit / 10).max(in_slack).max(1),
            bucket: Arc::default(),
        })
    }

    /// Sets how many messages may come at once after a pause. Set it before cloning: clones made
    /// earlier keep theirs.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for zero.
    pub fn burst(mut self, burst: u32) -> Result<Self> {
        if burst == 0 {
            return Err(Error::invalid_config(
                "the rate limit's burst is 0, so nothing could pass; use 1 or more",
            ));
        }
        self.burst = burst;
        Ok(self)
    }

    fn tokens(&self, count: u32) -> Duration {
        self.period.saturating_mul(count)
    }

    /// Takes the tokens, or says when to try again.
    fn take(&self, bucket: &mut Bucket, count: u32) -> Result<(), Instant> {
        let now = Instant::now();
        let full_at = bucket.full_at.map_or(now, |at| at.max(now));
        let missing = full_at - now;
        let allowed = self.tokens(self.burst - count.min(self.burst));
        if missing > allowed {
            return Err(full_at - allowed);
        }
        // Far more tokens than time lasts are as good as this many.
        bucket.full_at = full_at.checked_add(self.tokens(count)).or(Some(full_at));
        Ok(())
    }

    async fn wait(&self, count: u32) {
        // Waiting with the lock held keeps the order, and a wait that is dropped takes nothing.
        let mut bucket = self.bucket.lock().await;
        while let Err(at) = self.take(&mut bucket, count) {
            sleep_until(at).await;
        }
    }
}

impl<H> Layer<H> for RateLimit {
    type Service = RateLimitService<H>;

    fn layer(&self, next: H) -> Self::Service {
        RateLimitService {
            next,
            limit: self.clone(),
        }
    }
}

/// A handler within [`RateLimit`].
#[derive(Debug, Clone)]
pub struct RateLimitService<H> {
    next: H,
    limit: RateLimit,
}

impl<I: Input, H: Handler<I>> Handler<I> for RateLimitService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let count = u32::try_from(input.items().len()).unwrap_or(u32::MAX);
        let at_once = match self.limit.bucket.try_lock() {
            Ok(mut bucket) => self.limit.take(&mut bucket, count).is_ok(),
            Err(_) => false,
        };
        if !at_once
            && wait::unless_over(input, self.limit.wait(count))
                .await
                .is_none()
        {
            return wait::released(input);
        }
        self.next.handle(input).await
    }
}

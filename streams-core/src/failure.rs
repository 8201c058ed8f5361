//! What becomes of failures: backoff, and when to give up.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::{Error, Result};

/// Exponential backoff with a cap and jitter.
///
/// The delay before attempt `n + 1` is `initial × factor^(n-1)`, at most `max`, plus up to as much
/// again at random where jitter is on, so that what failed together does not come back together.
///
/// ```
/// use std::time::Duration;
/// use streams_core::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).jitter(false);
/// assert_eq!(backoff.delay(1), Duration::from_millis(100));
/// assert_eq!(backoff.delay(3), Duration::from_millis(400));
/// assert_eq!(backoff.delay(100), Duration::from_secs(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f32,
    jitter: bool,
}

impl Backoff {
    /// Doubles from `initial` to `max`, with jitter.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            factor: 2.0,
            jitter: true,
        }
    }

    /// The same delay each time, without jitter.
    #[must_use]
    pub const fn constant(delay: Duration) -> Self {
        Self::new(delay, delay).jitter(false)
    }

    /// Sets what each delay is multiplied with for the next.
    #[must_use]
    pub const fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }

    /// Turns jitter on or off.
    #[must_use]
    pub const fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// The delay after `attempt` attempts.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        let builder = ExponentialBuilder::new()
            .with_min_delay(self.initial)
            .with_max_delay(self.max)
            .with_factor(self.factor)
            .without_max_times();
        let builder = if self.jitter {
            builder.with_jitter()
        } else {
            builder
        };
        // By then every backoff that grows has reached its cap.
        let attempt = attempt.clamp(1, 64) as usize;
        let delay = builder.build().nth(attempt - 1).unwrap_or(self.max);
        // The jitter may double it; its arithmetic leaves some nanoseconds, which mean nothing.
        let delay = delay.min(self.max.saturating_mul(2));
        Duration::new(delay.as_secs(), delay.subsec_micros() * 1000)
    }

    /// Checks it.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) when it would make a hot loop: without
    /// delay, shrinking, or with a cap below its start.
    pub fn validate(&self) -> Result<()> {
        let problem = if self.initial.is_zero() {
            "starts at zero, which retries in a hot loop; give it a delay"
        } else if !self.factor.is_finite() || self.factor < 1.0 {
            "has a factor below 1; use 1 or more"
        } else if self.max < self.initial {
            "has a maximum below its initial delay; raise it"
        } else {
            return Ok(());
        };
        Err(Error::invalid_config(format!("the backoff {problem}")))
    }
}

impl Default for Backoff {
    /// From 100 ms to 30 s, doubling, with jitter.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(30))
    }
}

/// What the runner does with errors that no layer has dealt with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FailurePolicy {
    /// The delays between attempts.
    pub backoff: Backoff,
    /// After how many attempts a message goes to the dead letters; `None` retries for ever.
    pub max_attempts: Option<u32>,
    /// Whether it goes to `<stream>.dlq` then. Without dead letters it is retried for ever, at the
    /// backoff's cap: it is never dropped. Streams that hold dead letters have none of their own.
    pub dead_letters: bool,
}

impl FailurePolicy {
    /// Sets the delays.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets after how many attempts to give up.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: Option<u32>) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// Turns dead letters on or off.
    #[must_use]
    pub fn dead_letters(mut self, dead_letters: bool) -> Self {
        self.dead_letters = dead_letters;
        self
    }

    /// Checks it.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a bad backoff or zero attempts.
    pub fn validate(&self) -> Result<()> {
        if self.max_attempts == Some(0) {
            return Err(Error::invalid_config(
                "the failure policy allows 0 attempts; allow at least 1",
            ));
        }
        self.backoff.validate()
    }
}

impl Default for FailurePolicy {
    /// The default backoff, 8 attempts, then the dead letters.
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            max_attempts: Some(8),
            dead_letters: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_jitter_adds() {
        let backoff = Backoff::default();
        for attempt in 1..200 {
            let plain = backoff.jitter(false).delay(attempt);
            let jittered = backoff.delay(attempt);
            assert!(plain <= Duration::from_secs(30));
            assert!(
                jittered >= plain && jittered <= plain * 2,
                "{attempt}: {jittered:?}"
            );
        }
    }

    #[test]
    fn hot_loops_are_refused() {
        let second = Duration::from_secs(1);
        for bad in [
            Backoff::new(Duration::ZERO, second),
            Backoff::new(second, second / 2),
            Backoff::new(second, second).factor(0.5),
            Backoff::new(second, second).factor(f32::NAN),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        assert!(Backoff::default().validate().is_ok());
        assert!(
            FailurePolicy::default()
                .max_attempts(Some(0))
                .validate()
                .is_err()
        );
    }
}

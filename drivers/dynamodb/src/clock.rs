//! What time it is by the clock of DynamoDB, which tells it with each answer.
//!
//! Several processes compare times that each of them wrote. The clock of a machine may be wrong by
//! hours; that of the service is one for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use aws_sdk_dynamodb::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

/// Answers tell whole seconds. A machine's clock that may be right by that is not corrected.
const GRAIN: i64 = 1_000_000;

/// The clock. Clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    machine: SharedTimeSource,
    /// By how many microseconds the machine's clock is behind.
    behind: Arc<AtomicI64>,
}

impl Clock {
    pub(crate) fn new(machine: Option<SharedTimeSource>) -> Self {
        Self {
            machine: machine.unwrap_or_default(),
            behind: Arc::default(),
        }
    }

    /// Microseconds since 1970.
    pub(crate) fn micros(&self) -> u64 {
        let now = self.machine() + self.behind.load(Ordering::Relaxed);
        u64::try_from(now).unwrap_or_default()
    }

    /// Milliseconds since 1970.
    pub(crate) fn millis(&self) -> u64 {
        self.micros() / 1_000
    }

    /// Seconds since 1970.
    pub(crate) fn seconds(&self) -> u64 {
        self.micros() / 1_000_000
    }

    fn machine(&self) -> i64 {
        let since = self.machine.now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0))
    }

    /// Learns from an answer that came right now.
    fn told(&self, seconds: i64) {
        let ahead = seconds.saturating_mul(1_000_000) - self.machine();
        // The answer was made some time in that second, and took a while to come.
        let right = (-2 * GRAIN..=GRAIN).contains(&ahead);
        let behind = if right { 0 } else { ahead + GRAIN / 2 };
        let known = self.behind.load(Ordering::Relaxed);
        if right != (known == 0) || (behind - known).abs() > 2 * GRAIN {
            self.behind.store(behind, Ordering::Relaxed);
        }
    }
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "streams-dynamodb-clock"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let Some(date) = date {
            self.told(date.secs());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_async::time::StaticTimeSource;

    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_corrected_and_one_that_is_right_is_not() {
        let machine = SharedTimeSource::new(StaticTimeSource::from_secs(1_000_000));
        let clock = Clock::new(Some(machine));
        for near in [999_999, 1_000_000, 1_000_001] {
            clock.told(near);
            assert_eq!(clock.micros(), 1_000_000_000_000);
        }
        for far in [400_000, 1_000_010, 5_000_000] {
            clock.told(far);
            let wrong = clock.seconds().abs_diff(u64::try_from(far).unwrap());
            assert!(wrong <= 1, "{far}");
        }
        // It was set right.
        clock.told(1_000_000);
        assert_eq!(clock.millis(), 1_000_000_000);
    }
}

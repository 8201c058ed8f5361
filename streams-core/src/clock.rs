//! The wall clock, which tests can put on virtual time.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Tells the time of day.
///
/// Everything in this crate that waits does so on tokio's timer, so a test on a paused runtime
/// (`#[tokio::test(start_paused = true)]`) moves it with `tokio::time::advance`, or lets tokio skip
/// ahead whenever nothing else is left to do. [`Clock::following_tokio`] lets the time of day
/// follow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    anchor: Option<(SystemTime, Instant)>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// Starts at the system's time and then moves with tokio's clock, paused or not. Call it within
    /// the runtime.
    #[must_use]
    pub fn following_tokio() -> Self {
        Self {
            anchor: Some((SystemTime::now(), Instant::now())),
        }
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match self.anchor {
            None => SystemTime::now(),
            Some((wall, start)) => wall + start.elapsed(),
        }
    }

    /// How long until `due`; zero when it has passed.
    #[must_use]
    pub fn until(&self, due: SystemTime) -> Duration {
        due.duration_since(self.now()).unwrap_or_default()
    }
}

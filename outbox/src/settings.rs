//! Settings that relays have, whatever the database.

use std::time::Duration;

use streams_core::{Backoff, Error, Result};

use crate::pass::Terms;

/// The longest of all times.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The most rows that are read together.
const MOST_ROWS: u32 = 5_000;

/// What becomes of rows that were forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// They are deleted. The default.
    Delete,
    /// They are kept for so long, out of the relay's way, and deleted then. In SQL they stay in the
    /// table (with `status` 1 and the time in `forwarded`); in DynamoDB they are moved aside, and its
    /// TTL deletes them.
    Keep(Duration),
}

/// How a relay works. The builders of the drivers say what each is.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "documented where they are set")]
pub struct Settings {
    pub rows: u32,
    pub bytes: usize,
    pub lease: Duration,
    pub attempts: u32,
    pub row_backoff: Backoff,
    pub destination_backoff: Backoff,
    pub deferred: usize,
    pub poll: (Duration, Duration),
    pub cleanup: Cleanup,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rows: 500,
            bytes: 4 << 20,
            lease: Duration::from_secs(30),
            attempts: 10,
            row_backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            destination_backoff: Backoff::default(),
            deferred: 10_000,
            poll: (Duration::from_millis(10), Duration::from_secs(1)),
            cleanup: Cleanup::Delete,
        }
    }
}

impl Settings {
    /// How long one write may take. The lease is renewed when a third of it has gone, so what is left
    /// when a write begins is longer.
    #[must_use]
    pub fn write_limit(&self) -> Duration {
        self.lease / 2
    }

    /// How a pass is made; `proven` says that the destination is known to take messages.
    #[must_use]
    pub fn terms(&self, driver: &'static str, proven: bool) -> Terms {
        Terms {
            driver,
            advice: "raise `lease`, of which one write may take half, or lower `rows` and `bytes`",
            attempts: self.attempts,
            backoff: self.row_backoff,
            limit: self.write_limit(),
            proven,
        }
    }

    /// Checks them. Below the shortest lease, a slow answer would be taken for a crash.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) that says what may be.
    pub fn validate(&self, driver: &'static str, shortest_lease: Duration) -> Result<()> {
        self.problem(shortest_lease)
            .map_err(|error| error.driver(driver))
    }

    fn problem(&self, shortest_lease: Duration) -> Result<()> {
        let refuse = |problem: &str| Err(Error::invalid_config(problem));
        if !(1..=MOST_ROWS).contains(&self.rows) {
            return refuse("`rows` must be between 1 and 5,000");
        }
        if self.bytes == 0 {
            return refuse("`bytes` must not be 0");
        }
        if !(shortest_lease..=LONGEST).contains(&self.lease) {
            let shortest = shortest_lease.as_millis();
            return refuse(&format!(
                "`lease` must be at least {shortest} ms, and at most 100 years (of a WAL relay: \
                 twice `write_limit`)"
            ));
        }
        if self.attempts == 0 {
            return refuse("`attempts` must be at least 1");
        }
        if self.deferred == 0 {
            return refuse("`deferred` must be at least 1");
        }
        let (shortest, longest) = self.poll;
        if shortest < Duration::from_millis(1) || longest < shortest || longest > LONGEST {
            return refuse(
                "the poll interval must begin at 1 ms or more and not end below its beginning",
            );
        }
        if matches!(self.cleanup, Cleanup::Keep(time) if time.is_zero() || time > LONGEST) {
            return refuse(
                "the time that rows are kept must be between 1 ms and 100 years; to keep none, \
                 take `Cleanup::Delete`",
            );
        }
        self.row_backoff.validate()?;
        self.destination_backoff.validate()
    }
}

//! Settings of the relay.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{Backoff, Result, Writer};
use streams_outbox::{Cleanup, Settings};

use super::Relay;
use crate::DRIVER;
use crate::outbox::Outbox;

/// The shortest lease: below it, a slow answer would be taken for a crash.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// How a relay finds what was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// It queries each partition of the table. The default: it needs no stream.
    Query,
    /// It reads the table's stream.
    Streams,
}

/// Builds a [`Relay`].
#[must_use = "a builder makes nothing until `build`"]
pub struct RelayBuilder {
    outbox: Outbox,
    writer: Arc<dyn Writer>,
    config: Settings,
    mode: Mode,
}

impl RelayBuilder {
    pub(crate) fn new(outbox: Outbox, writer: Arc<dyn Writer>) -> Self {
        Self {
            outbox,
            writer,
            config: Settings::default(),
            mode: Mode::Query,
        }
    }

    /// Sets how committed messages are found; the default is [`Mode::Query`]. All relays of an outbox
    /// should be of one mode: those of different modes do not share the work, and relay all twice.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the most rows that are read and written together, of one partition or shard; the default
    /// is 500, the most 5,000.
    pub fn rows(mut self, rows: u32) -> Self {
        self.config.rows = rows;
        self
    }

    /// Sets the most bytes of rows that are read and written together, of one partition or shard; the
    /// default is 4 MiB. Up to 1 MiB more is read, as DynamoDB answers.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.config.bytes = bytes;
        self
    }

    /// Sets for how long a relay counts as alive without a sign of life; the default is 30 s, the
    /// shortest 1 s. After a crash others take over its work when it has run out. One write may take
    /// half of it; then it counts as failed.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// Sets after how many attempts a row is set aside; the default is 10.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.config.attempts = attempts;
        self
    }

    /// Sets how long a row waits that could not be written while others were; the default is from 1 s
    /// to 60 s, doubling, with jitter: with 10 attempts some five minutes until it is set aside.
    pub fn row_backoff(mut self, backoff: Backoff) -> Self {
        self.config.row_backoff = backoff;
        self
    }

    /// Sets how long the relay waits when the destination takes nothing; the default is from 100 ms to
    /// 30 s, doubling, with jitter.
    pub fn destination_backoff(mut self, backoff: Backoff) -> Self {
        self.config.destination_backoff = backoff;
        self
    }

    /// Sets how many rows of a partition or shard may wait to be tried again, with those that wait
    /// behind them because they share a key; each counts as often as it has keys. The default is
    /// 10,000. If there are more, no new rows are read until some have gone out or were set aside.
    pub fn deferred(mut self, most: usize) -> Self {
        self.config.deferred = most;
        self
    }

    /// Sets how long the relay waits when it finds nothing in a partition or shard: at first the
    /// shortest, then twice as long each time up to the longest. The default is from 10 ms to 1 s. Each
    /// look is a request. (A shard is read four times a second at most.)
    pub fn poll_interval(mut self, shortest: Duration, longest: Duration) -> Self {
        self.config.poll = (shortest, longest);
        self
    }

    /// Sets what becomes of rows that were forwarded; the default is [`Cleanup::Delete`].
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.config.cleanup = cleanup;
        self
    }

    /// The relay. Nothing is asked of DynamoDB yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting out of the range that
    /// its method names.
    pub fn build(self) -> Result<Relay> {
        self.config.validate(DRIVER, SHORTEST_LEASE)?;
        Ok(Relay {
            outbox: self.outbox,
            writer: self.writer,
            config: self.config,
            mode: self.mode,
        })
    }
}

impl fmt::Debug for RelayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBuilder")
            .field("outbox", &self.outbox)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

//! Settings of the relay.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{Backoff, Result, Writer};
use streams_outbox::{Cleanup, Settings};

use super::Relay;
use crate::DRIVER;
use crate::database::Database;
use crate::outbox::Outbox;

/// The shortest lease: below it, a slow commit would be taken for a crash.
const SHORTEST_LEASE: Duration = Duration::from_millis(300);

/// Builds a [`Relay`].
#[must_use = "a builder makes nothing until `build`"]
pub struct RelayBuilder<DB: Database> {
    outbox: Outbox<DB>,
    writer: Arc<dyn Writer>,
    config: Settings,
    listen: bool,
}

impl<DB: Database> RelayBuilder<DB> {
    pub(crate) fn new(outbox: Outbox<DB>, writer: Arc<dyn Writer>) -> Self {
        Self {
            outbox,
            writer,
            config: Settings::default(),
            listen: true,
        }
    }

    /// Sets the most rows that are read and written together; the default is 500, the most 5,000.
    /// With [`Cleanup::Keep`] it is also how many are deleted at a time.
    pub fn rows(mut self, rows: u32) -> Self {
        self.config.rows = rows;
        self
    }

    /// Sets the most bytes of rows that are read and written together; the default is 4 MiB. A row
    /// larger than this goes alone. The relay holds up to four times as much: what it writes and what
    /// it has read ahead, new rows and those tried again.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.config.bytes = bytes;
        self
    }

    /// Sets for how long a relay stays the active one without a sign of life; the default is 30 s, the
    /// shortest 300 ms. After a crash another one takes over when it has run out. One write may take
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

    /// Sets how many rows may wait to be tried again, with those that wait behind them because they
    /// share a key; each counts as often as it has keys. The default is 10,000. If there are more, the
    /// relay reads no new rows until some have gone out or were set aside.
    pub fn deferred(mut self, most: usize) -> Self {
        self.config.deferred = most;
        self
    }

    /// Sets how long the relay waits when it finds no rows and is not told of any: at first the
    /// shortest, then twice as long each time up to the longest. The default is from 10 ms to 1 s. A
    /// relay that stands by tries for the lease each time the longest has gone.
    pub fn poll_interval(mut self, shortest: Duration, longest: Duration) -> Self {
        self.config.poll = (shortest, longest);
        self
    }

    /// Sets whether the relay listens for notifications of PostgreSQL, the default, for which it has
    /// one more connection, beside the pool. Behind a proxy that shares connections among
    /// transactions it cannot: there set `false`, and it polls.
    pub fn listen(mut self, listen: bool) -> Self {
        self.listen = listen;
        self
    }

    /// Sets what becomes of rows that were forwarded; the default is [`Cleanup::Delete`].
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.config.cleanup = cleanup;
        self
    }

    /// The relay. Nothing is asked of the database yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting out of the range that
    /// its method names.
    pub fn build(self) -> Result<Relay<DB>> {
        self.config.validate(DRIVER, SHORTEST_LEASE)?;
        Ok(Relay {
            outbox: self.outbox,
            writer: self.writer,
            config: self.config,
            listen: self.listen,
        })
    }
}

impl<DB: Database> fmt::Debug for RelayBuilder<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBuilder")
            .field("outbox", &self.outbox)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

//! Settling: many at once.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Fetcher;
use crate::{Error, ErrorKind, Result, SettleReport};

/// As many settlements are sent without waiting for more.
const SETTLE_AT: usize = 256;

impl Fetcher {
    /// Sends settlements: at once where the driver can without waiting, else when there are many,
    /// when they have waited long enough, when nothing is left to wait for, or when `all` says so.
    ///
    /// Those in transactions wait for their time, so that many deliveries share one, unless so much
    /// is to be written that it keeps more from being fetched.
    pub(super) async fn settle(&mut self, now: Instant, all: bool) -> Result<()> {
        let urgent = self.take_settled();
        if self.is_settled() {
            self.times.settle = None;
            return Ok(());
        }
        if !all && self.times.settle_again.is_some_and(|again| again > now) {
            self.times.settle = self.times.settle_again;
            return Ok(());
        }
        if !self.shared.exactly_once()
            && let Some(result) = self.subscription.try_settle(&mut self.settlements)
        {
            return self.settled(result, now).await;
        }
        let due = *self.times.settle.get_or_insert(now + self.linger());
        if all || urgent || due <= now || self.settlements.len() >= SETTLE_AT {
            let result = self.settle_slowly().await;
            return self.settled(result, now).await;
        }
        Ok(())
    }

    /// How long settlements may be gathered.
    fn linger(&self) -> Duration {
        let settings = &self.shared.settings;
        if !self.shared.exactly_once() {
            return settings.settle_linger;
        }
        // Leases are not kept up any more; that long they last in any case.
        let lease = self.shared.lock().dispatcher.lease_length();
        let interval = settings.commit_interval();
        if lease.is_zero() {
            interval
        } else {
            interval.min(lease / 3)
        }
    }

    /// Takes what the driver is to be told; says whether it should not wait.
    pub(super) fn take_settled(&mut self) -> bool {
        let dispatcher = &mut self.shared.lock().dispatcher;
        if !self.shared.exactly_once() {
            dispatcher.take_settlements(&mut self.settlements);
            let unsettled = self.settlements.len();
            dispatcher.settling(unsettled);
            let in_the_way = unsettled >= self.share() && dispatcher.room() == 0;
            return in_the_way || dispatcher.in_flight() == 0 || dispatcher.is_barred();
        }
        dispatcher.take_parts(&mut self.parts);
        if self.in_doubt {
            self.parts.clear();
        }
        dispatcher.outputs_press() || dispatcher.is_barred()
    }

    /// Whether the driver was told all that was taken.
    pub(super) fn is_settled(&self) -> bool {
        self.settlements.is_empty() && self.parts.is_empty()
    }

    /// Tells the driver, waiting at most for `patience`; `None` says that it took longer.
    pub(super) async fn settle_within(
        &mut self,
        patience: Duration,
    ) -> Option<Result<SettleReport>> {
        if !self.shared.exactly_once()
            && let Some(result) = self.subscription.try_settle(&mut self.settlements)
        {
            return Some(result);
        }
        match timeout(patience, self.settle_slowly()).await {
            Ok(result) => Some(result),
            Err(_) => {
                // Of a transaction it is not known what became of it.
                self.doubt();
                None
            }
        }
    }

    async fn settle_slowly(&mut self) -> Result<SettleReport> {
        if self.shared.exactly_once() {
            let result = self.subscription.settle_in_transaction(&mut self.parts);
            result.await
        } else {
            self.subscription.settle(&mut self.settlements).await
        }
    }

    /// Settles nothing more in transactions on this subscription: a later one would pass over what
    /// is lost with an earlier.
    pub(super) fn doubt(&mut self) {
        self.in_doubt = self.shared.exactly_once();
        self.parts.clear();
    }

    pub(super) fn check_all_settled(&self) {
        let dispatcher = &mut self.shared.lock().dispatcher;
        if self.is_settled() {
            dispatcher.all_settled();
        } else {
            dispatcher.settling(self.settlements.len());
        }
    }

    pub(super) async fn settled(
        &mut self,
        result: Result<SettleReport>,
        now: Instant,
    ) -> Result<()> {
        match result {
            Ok(report) => {
                self.times.settle = None;
                self.times.settle_again = None;
                self.times.settle_failures = 0;
                if !report.lost.is_empty() {
                    tracing::warn!(
                        stream = %self.options.stream, lost = report.lost.len(),
                        "settled too late: the messages are delivered again"
                    );
                    self.shared.lock().dispatcher.counts.lost += report.lost.len() as u64;
                }
                self.check_all_settled();
                // A driver that leaves some without an error gets them again a little later.
                if !self.is_settled() {
                    self.times.settle = Some(
                        now + self
                            .shared
                            .settings
                            .settle_linger
                            .max(Duration::from_millis(1)),
                    );
                    self.times.settle_again = self.times.settle;
                }
                Ok(())
            }
            Err(error)
                if error.is_retryable()
                    && self.times.settle_failures < 5
                    && !(self.shared.exactly_once() && is_of_no_more_use(&error)) =>
            {
                self.times.settle_failures += 1;
                let delay = self
                    .shared
                    .settings
                    .reconnect
                    .delay(self.times.settle_failures);
                tracing::warn!(
                    stream = %self.options.stream, error = %error, ?delay,
                    "settling failed; trying again"
                );
                self.times.settle_again = Some(now + delay);
                self.times.settle = self.times.settle_again;
                Ok(())
            }
            Err(error) => self.reconnect(error).await,
        }
    }
}

/// Whether a transaction failed such that the subscription cannot settle in any other; see
/// [`settle_in_transaction`](crate::Subscription::settle_in_transaction).
pub(super) fn is_of_no_more_use(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Closed | ErrorKind::LeaseLost | ErrorKind::Conflict
    )
}

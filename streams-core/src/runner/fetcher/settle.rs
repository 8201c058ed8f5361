//! Settling: many at once.

use std::time::Duration;

use tokio::time::Instant;

use super::Fetcher;
use crate::{Result, SettleReport};

/// As many settlements are sent without waiting for more.
const SETTLE_AT: usize = 256;

impl Fetcher {
    /// Sends settlements: at once where the driver can without waiting, else when there are many,
    /// when they have waited long enough, when nothing is left to wait for, or when `all` says so.
    pub(super) async fn settle(&mut self, now: Instant, all: bool) -> Result<()> {
        let urgent = {
            let mut pool = self.shared.lock();
            pool.dispatcher.take_settlements(&mut self.settlements);
            pool.dispatcher.in_flight() == 0 || pool.dispatcher.is_barred()
        };
        if self.settlements.is_empty() {
            self.times.settle = None;
            return Ok(());
        }
        if !all && self.times.settle_again.is_some_and(|again| again > now) {
            self.times.settle = self.times.settle_again;
            return Ok(());
        }
        if let Some(result) = self.subscription.try_settle(&mut self.settlements) {
            return self.settled(result, now).await;
        }
        let due = *self
            .times
            .settle
            .get_or_insert(now + self.shared.settings.settle_linger);
        if all || urgent || due <= now || self.settlements.len() >= SETTLE_AT {
            let result = self.subscription.settle(&mut self.settlements).await;
            return self.settled(result, now).await;
        }
        Ok(())
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
                if self.settlements.is_empty() {
                    self.shared.lock().dispatcher.all_settled();
                }
                // A driver that leaves some without an error gets them again a little later.
                if !self.settlements.is_empty() {
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
            Err(error) if error.is_retryable() && self.times.settle_failures < 5 => {
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

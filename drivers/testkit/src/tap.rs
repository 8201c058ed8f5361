//! A subscription with the checks that hold in every case.

use std::num::NonZeroUsize;
use std::time::Duration;

use streams_core::{AckToken, Delivery, Received, SettleReport, Settlement, Subscription};
use tokio::time::{Instant, timeout};

use crate::failure::{Checked, ensure, fail};
use crate::ledger::Ledger;

/// A subscription with the checks that hold in every case: nothing hangs, no more comes than was
/// asked for, and `receive` and `settle` keep to their words.
pub(crate) struct Tap {
    subscription: Box<dyn Subscription>,
    patience: Duration,
}

impl Tap {
    pub(crate) fn new(subscription: Box<dyn Subscription>, patience: Duration) -> Self {
        Self {
            subscription,
            patience,
        }
    }

    /// What comes next, at most `max`; a failure if nothing does in time.
    pub(crate) async fn receive(&mut self, max: usize) -> Checked<Vec<Delivery>> {
        let patience = self.patience;
        match self.receive_within(max, patience).await? {
            Some(deliveries) => Ok(deliveries),
            None => fail!("nothing was received for {patience:?}, though there is more to come"),
        }
    }

    /// One message.
    pub(crate) async fn one(&mut self) -> Checked<Delivery> {
        match self.receive(1).await?.pop() {
            Some(delivery) => Ok(delivery),
            None => fail!("`receive` said that there were deliveries and gave none"),
        }
    }

    /// What comes within that time, at most `max`; `None` if nothing does.
    pub(crate) async fn receive_within(
        &mut self,
        max: usize,
        within: Duration,
    ) -> Checked<Option<Vec<Delivery>>> {
        let max = NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN);
        let until = Instant::now() + within;
        let mut out = Vec::new();
        loop {
            // The runner asks this way first, so both ways must agree.
            let received = match self.subscription.try_receive(max, &mut out) {
                Some(received) => received?,
                None => {
                    let receive = self.subscription.receive(max, &mut out);
                    match tokio::time::timeout_at(until, receive).await {
                        Ok(received) => received?,
                        Err(_) => {
                            ensure!(
                                out.is_empty(),
                                "a cancelled `receive` had already taken {} messages",
                                out.len()
                            );
                            return Ok(None);
                        }
                    }
                }
            };
            match received {
                Received::Deliveries => {
                    ensure!(
                        !out.is_empty(),
                        "`receive` said that there were deliveries and gave none"
                    );
                    ensure!(
                        out.len() <= max.get(),
                        "asked for {max} at most, `receive` gave {}",
                        out.len()
                    );
                    return Ok(Some(out));
                }
                Received::End => fail!("the subscription ended by itself"),
                // Direct cases hold nothing across a rebalance.
                _ => ensure!(
                    out.is_empty(),
                    "`receive` gave deliveries without saying so"
                ),
            }
        }
    }

    /// Exactly `count` messages, however they come. The first stay leased while the others come,
    /// however slow the machine.
    pub(crate) async fn take(&mut self, count: usize) -> Checked<Vec<Delivery>> {
        let mut all: Vec<Delivery> = Vec::with_capacity(count);
        let mut leased = None;
        while all.len() < count {
            all.append(&mut self.receive(count - all.len()).await?);
            let Some(until) = all[0].lease else { continue };
            let now = Instant::now();
            let (since, length) = *leased.get_or_insert((now, until.duration_since(now)));
            if now.duration_since(since) > length / 3 {
                self.extend(&mut all, length).await?;
                leased = Some((now, length));
            }
        }
        Ok(all)
    }

    async fn extend(&mut self, deliveries: &mut [Delivery], by: Duration) -> Checked {
        let ids: Vec<_> = deliveries.iter().map(|one| one.token.id()).collect();
        let until = Instant::now() + by;
        let report = match timeout(self.patience, self.subscription.extend(&ids, by)).await {
            Ok(report) => report?,
            Err(_) => fail!("extending leases took longer than {:?}", self.patience),
        };
        ensure!(
            report.lost.is_empty(),
            "{} leases were reported lost when they were extended before they ran out",
            report.lost.len()
        );
        for delivery in deliveries {
            delivery.lease = Some(until);
        }
        Ok(())
    }

    /// Settles, all of it, and says which deliveries were no longer ours.
    pub(crate) async fn settle(
        &mut self,
        mut settlements: Vec<Settlement>,
    ) -> Checked<SettleReport> {
        let mut report = SettleReport::default();
        while !settlements.is_empty() {
            let before = settlements.len();
            let one = match self.subscription.try_settle(&mut settlements) {
                Some(report) => report?,
                None => {
                    match timeout(self.patience, self.subscription.settle(&mut settlements)).await {
                        Ok(report) => report?,
                        Err(_) => fail!(
                            "settling {before} deliveries took longer than {:?}",
                            self.patience
                        ),
                    }
                }
            };
            ensure!(
                settlements.len() < before,
                "`settle` was `Ok` and left all {before} settlements in place"
            );
            report.lost.extend(one.lost);
        }
        Ok(report)
    }

    /// Acknowledges; all of them must still be ours.
    pub(crate) async fn ack(&mut self, tokens: impl IntoIterator<Item = AckToken>) -> Checked {
        let report = self
            .settle(tokens.into_iter().map(AckToken::ack).collect())
            .await?;
        ensure!(
            report.lost.is_empty(),
            "{} deliveries were reported lost when they were acknowledged at once",
            report.lost.len()
        );
        Ok(())
    }

    /// Receives and acknowledges until the ledger is complete, then makes sure that no more comes.
    pub(crate) async fn drain(&mut self, ledger: &Ledger, quiet: Duration) -> Checked {
        while ledger.missing() > 0 {
            let Some(deliveries) = self.receive_within(64, self.patience).await? else {
                return Ok(()); // The ledger's check says what is lost.
            };
            self.take_in(ledger, deliveries).await?;
        }
        self.drain_quiet(ledger, quiet).await
    }

    /// Receives and acknowledges until nothing comes for `quiet`, or for as long as patience lasts:
    /// a driver that delivers for ever is to be found out, not waited for.
    pub(crate) async fn drain_quiet(&mut self, ledger: &Ledger, quiet: Duration) -> Checked {
        let until = Instant::now() + self.patience + quiet;
        while Instant::now() < until {
            let Some(deliveries) = self.receive_within(64, quiet).await? else {
                return Ok(());
            };
            self.take_in(ledger, deliveries).await?;
        }
        Ok(())
    }

    async fn take_in(&mut self, ledger: &Ledger, deliveries: Vec<Delivery>) -> Checked {
        for delivery in &deliveries {
            ledger.arrived(&delivery.message);
        }
        self.ack(deliveries.into_iter().map(|delivery| delivery.token))
            .await
    }

    /// Makes sure that nothing comes for that long.
    pub(crate) async fn expect_nothing(&mut self, quiet: Duration, why: &str) -> Checked {
        if let Some(deliveries) = self.receive_within(64, quiet).await? {
            fail!("{} messages came again, though {why}", deliveries.len());
        }
        Ok(())
    }

    pub(crate) async fn close(&mut self) -> Checked {
        match timeout(self.patience, self.subscription.close()).await {
            Ok(closed) => Ok(closed?),
            Err(_) => fail!(
                "closing the subscription took longer than {:?}",
                self.patience
            ),
        }
    }

    /// The subscription itself.
    pub(crate) fn subscription(&mut self) -> &mut dyn Subscription {
        &mut *self.subscription
    }
}

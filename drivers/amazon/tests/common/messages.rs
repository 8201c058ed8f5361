//! Messages of a test's own, and how they are read.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use streams_core::{
    Delivery, Driver, Message, ReadOptions, Settlement, StreamName, Subscription, TokenId,
};
use tokio::time::{Instant, timeout};

/// How long what must come may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(format!("{name}-{:016x}", fastrand::u64(..))).unwrap()
}

pub(crate) fn fifo_stream(name: &str) -> StreamName {
    StreamName::new(format!("{}.fifo", stream(name))).unwrap()
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.data().to_vec()).unwrap()
}

/// What [`Reading::drain`] says when each of these came once.
pub(crate) fn once(numbers: impl IntoIterator<Item = usize>) -> BTreeMap<String, usize> {
    numbers.into_iter().map(|n| (n.to_string(), 1)).collect()
}

/// A subscription.
pub(crate) struct Reading(pub(crate) Box<dyn Subscription>);

impl Reading {
    pub(crate) async fn of(driver: &impl Driver, options: &ReadOptions) -> Self {
        Self(driver.reader().subscribe(options).await.unwrap())
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Vec<Delivery> {
        self.next_within(PATIENCE).await.expect("nothing came")
    }

    pub(crate) async fn next_within(&mut self, within: Duration) -> Option<Vec<Delivery>> {
        let mut out = Vec::new();
        let max = NonZeroUsize::new(100).unwrap();
        match timeout(within, self.0.receive(max, &mut out)).await {
            Ok(received) => {
                received.unwrap();
                Some(out)
            }
            Err(_) => None,
        }
    }

    /// One message, and no request for more behind it.
    pub(crate) async fn one(&mut self) -> Delivery {
        let mut out = Vec::new();
        let received = timeout(PATIENCE, self.0.receive(NonZeroUsize::MIN, &mut out));
        received.await.expect("nothing came").unwrap();
        out.remove(0)
    }

    /// One message, acknowledged.
    pub(crate) async fn message(&mut self) -> Message {
        let delivery = self.one().await;
        let message = delivery.message.clone();
        assert!(self.settle(vec![delivery.ack()]).await.is_empty());
        message
    }

    /// So many, however they come.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while all.len() < count {
            assert!(Instant::now() < until, "{} of {count} came", all.len());
            all.extend(self.next().await);
        }
        all
    }

    /// Settles all of it; says what was lost.
    pub(crate) async fn settle(&mut self, mut settlements: Vec<Settlement>) -> Vec<TokenId> {
        let report = self.0.settle(&mut settlements).await.unwrap();
        assert!(settlements.is_empty());
        report.lost
    }

    /// How often each message comes when all there are are read, until nothing comes for a while.
    pub(crate) async fn drain(mut self) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        while let Some(deliveries) = self.next_within(Duration::from_secs(3)).await {
            for delivery in &deliveries {
                *seen.entry(text(&delivery.message)).or_default() += 1;
            }
            let acks = deliveries.into_iter().map(Delivery::ack).collect();
            assert_eq!(self.settle(acks).await.len(), 0, "lost");
        }
        self.0.close().await.unwrap();
        seen
    }
}

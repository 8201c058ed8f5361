//! What the tests share.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use streams_chanbuf::{Chanbuf, ChanbufBuilder};
use streams_core::{
    Clock, Delivery, Driver, Message, ReadOptions, Received, SettleAction, SettleReport,
    Settlement, StartFrom, Subscription, WriteError,
};
use tokio::time::timeout;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Real time that nothing takes unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Settings that go by tokio's clock, which tests pause.
pub(crate) fn builder() -> ChanbufBuilder {
    Chanbuf::builder().clock(Clock::following_tokio())
}

pub(crate) fn broker() -> Chanbuf {
    builder().build().unwrap()
}

/// Message number `n` of a stream, without a key.
pub(crate) fn message(stream: &str, n: usize) -> Message {
    Message::builder(stream)
        .data(n.to_string())
        .build()
        .unwrap()
}

pub(crate) fn messages(stream: &str, range: std::ops::Range<usize>) -> Vec<Message> {
    range.map(|n| message(stream, n)).collect()
}

pub(crate) fn keyed(stream: &str, key: &str, n: usize) -> Message {
    message(stream, n).to_builder().key(key).build().unwrap()
}

/// The number a message was made with.
pub(crate) fn number(message: &Message) -> usize {
    std::str::from_utf8(message.data())
        .unwrap()
        .parse()
        .unwrap()
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<usize> {
    deliveries.iter().map(|d| number(&d.message)).collect()
}

pub(crate) async fn write(broker: &Chanbuf, batch: &[Message]) -> Result<(), WriteError> {
    broker.writer().write(batch).await
}

pub(crate) fn options(stream: &str) -> ReadOptions {
    ReadOptions::new(stream).unwrap()
}

/// A member of a group.
pub(crate) async fn join(broker: &Chanbuf, stream: &str, group: &str) -> Tap {
    open(broker, &options(stream).group(group).unwrap()).await
}

/// A member of a group that starts, if it is new, there.
pub(crate) async fn join_from(broker: &Chanbuf, group: &str, start: StartFrom) -> Tap {
    let options = options("s").group(group).unwrap().start_from(start);
    open(broker, &options).await
}

pub(crate) async fn open(broker: &Chanbuf, options: &ReadOptions) -> Tap {
    Tap(broker.reader().subscribe(options).await.unwrap())
}

/// An open subscription.
pub(crate) struct Tap(pub(crate) Box<dyn Subscription>);

impl Tap {
    /// At most `max` of what comes next.
    pub(crate) async fn some(&mut self, max: usize) -> Vec<Delivery> {
        let mut out = Vec::new();
        let receive = self.0.receive(NonZeroUsize::new(max).unwrap(), &mut out);
        let received = timeout(PATIENCE, receive).await.expect("it comes in time");
        assert_eq!(received.unwrap(), Received::Deliveries);
        assert!(!out.is_empty() && out.len() <= max);
        out
    }

    /// Whether something comes within that time, which may be longer than a test's patience.
    pub(crate) async fn comes_within(&mut self, long: Duration) -> bool {
        let mut out = Vec::new();
        let receive = self.0.receive(NonZeroUsize::MIN, &mut out);
        timeout(long, receive).await.is_ok()
    }

    pub(crate) async fn one(&mut self) -> Delivery {
        self.some(1).await.remove(0)
    }

    /// The next `count`.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let mut out = Vec::new();
        while out.len() < count {
            out.extend(self.some(count - out.len()).await);
        }
        out
    }

    /// At most `max` of what is there now, the way the runner asks: first without waiting. Polls as
    /// often as a member that lets others go first needs.
    pub(crate) fn now(&mut self, max: usize) -> Vec<Delivery> {
        let max = NonZeroUsize::new(max).unwrap();
        let mut out = Vec::new();
        if let Some(received) = self.0.try_receive(max, &mut out) {
            assert_eq!(received.unwrap(), Received::Deliveries);
            return out;
        }
        let ready = {
            let mut receive = pin!(self.0.receive(max, &mut out));
            let mut context = Context::from_waker(Waker::noop());
            (0..3).any(|_| match receive.as_mut().poll(&mut context) {
                Poll::Ready(received) => {
                    assert_eq!(received.unwrap(), Received::Deliveries);
                    true
                }
                Poll::Pending => false,
            })
        };
        assert_eq!(ready, !out.is_empty());
        out
    }

    pub(crate) fn settle(&mut self, mut settlements: Vec<Settlement>) -> SettleReport {
        let report = self.0.try_settle(&mut settlements);
        assert!(settlements.is_empty());
        report.expect("settled without waiting").unwrap()
    }

    /// Settles each alike; none may be lost.
    pub(crate) fn all(&mut self, deliveries: Vec<Delivery>, action: SettleAction) {
        let settlements = deliveries
            .into_iter()
            .map(|d| d.token.settle(action))
            .collect();
        assert_eq!(self.settle(settlements), SettleReport::default());
    }

    pub(crate) fn ack(&mut self, deliveries: Vec<Delivery>) {
        self.all(deliveries, SettleAction::Ack);
    }

    pub(crate) fn retry(&mut self, delivery: Delivery, after: Duration) {
        let after = Some(after);
        self.all(vec![delivery], SettleAction::Retry { after });
    }

    /// The next `count`, acknowledged.
    pub(crate) async fn handle(&mut self, count: usize) -> Vec<usize> {
        let deliveries = self.take(count).await;
        let numbers = numbers(&deliveries);
        self.ack(deliveries);
        numbers
    }
}

//! The same load through a bus, the way an application uses it.

use std::time::{Duration, Instant};

use streams_chanbuf::{Backlog, Chanbuf};
use streams_core::{Bus, Context, Driver, Message, Ordering, Publisher};
use streams_middleware::{DeadLetters, Logging, Retry};

use crate::Source;

/// How the messages are subscribed to.
#[derive(Debug, Clone, Copy)]
pub struct Subscribed {
    /// Consumer groups; each gets every message.
    pub groups: usize,
    /// Which messages wait for which.
    pub ordering: Ordering,
    /// Handlers at once; `None` leaves the default.
    pub concurrency: Option<usize>,
    /// Whether retry, dead letters and logging are around the handler.
    pub layers: bool,
}

impl Default for Subscribed {
    /// One group, all as it is by default, no layers.
    fn default() -> Self {
        Self {
            groups: 1,
            ordering: Ordering::PerKey,
            concurrency: None,
            layers: false,
        }
    }
}

/// A started bus whose handlers do nothing.
///
/// # Panics
/// When the bus refuses it.
pub async fn start<D: Driver>(driver: D, source: &Source, how: Subscribed) -> Bus<D> {
    let bus = Bus::new(driver);
    for group in 0..how.groups {
        let mut subscription = bus
            .subscribe_stream(source.stream(), |_: Message, _: Context| async {})
            .group(format!("group-{group}"))
            .ordering(how.ordering);
        if let Some(concurrency) = how.concurrency {
            subscription = subscription.concurrency(concurrency);
        }
        let registered = if how.layers {
            subscription
                .layer(Retry::builder().build().expect("valid settings"))
                .layer(DeadLetters::new(bus.publisher().writer().clone()))
                .layer(Logging::new())
                .register()
        } else {
            subscription.register()
        };
        registered.expect("a valid subscription");
    }
    bus.start().await.expect("the bus starts");
    bus
}

/// Publishes in batches of `batch` from a task of its own.
///
/// # Panics
/// When a write fails.
pub async fn publish(publisher: &Publisher, messages: usize, batch: usize, source: &mut Source) {
    let mut buffer = Vec::with_capacity(batch);
    let mut left = messages;
    while left > 0 {
        let count = batch.min(left);
        buffer.extend((0..count).map(|_| source.message()));
        publisher.write(&buffer).await.expect("written");
        buffer.clear();
        left -= count;
    }
}

/// Waits until everything published is handled and acknowledged.
pub async fn idle(bus: &Bus<Chanbuf>, driver: &Chanbuf) {
    bus.wait_until(|activity| activity.in_flight == 0 && driver.backlog() == Backlog::default())
        .await;
}

/// Moves messages from a publisher to handlers that do nothing, and says how long it took until all
/// were handled and acknowledged by every group.
///
/// # Panics
/// When one is missed.
pub async fn run(messages: usize, batch: usize, how: Subscribed, mut source: Source) -> Duration {
    let driver = Chanbuf::new();
    let bus = start(driver.clone(), &source, how).await;
    let publisher = bus.publisher().clone();
    let start = Instant::now();
    let publishing = tokio::spawn(async move {
        publish(&publisher, messages, batch, &mut source).await;
    });
    publishing.await.expect("publishing does not panic");
    idle(&bus, &driver).await;
    let took = start.elapsed();
    let report = bus.shutdown(Duration::from_secs(10)).await;
    assert_eq!(
        report.acknowledged() as usize,
        messages * how.groups,
        "{report}"
    );
    took
}

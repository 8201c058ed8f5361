//! A broker, topics of their own, and raw producers.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use streams_core::{
    Bus, Delivery, Driver, Message, ReadOptions, Received, StreamName, Subscription, ksuid,
};
use streams_kafka::{Kafka, KafkaBuilder, NewTopics};
use streams_services::Service;

/// Anything that takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const MANY: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The broker all tests share.
pub(crate) async fn brokers() -> String {
    logged();
    let address = tokio::task::spawn_blocking(|| Service::Kafka.address().unwrap());
    address.await.unwrap()
}

/// Has a test that fails show what the driver said.
pub(crate) fn logged() {
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_test_writer()
        .try_init();
}

pub(crate) fn settings(brokers: &str) -> KafkaBuilder {
    Kafka::builder(brokers)
        .property("session.timeout.ms", "6000")
        .property("heartbeat.interval.ms", "500")
}

pub(crate) async fn kafka() -> Kafka {
    settings(&brokers().await).build().unwrap()
}

pub(crate) fn unique(what: &str) -> StreamName {
    StreamName::new(format!("reader-{what}-{}", ksuid().unwrap())).unwrap()
}

/// A topic of its own.
pub(crate) async fn topic(kafka: &Kafka, what: &str, topics: &NewTopics) -> StreamName {
    let name = unique(what);
    assert!(kafka.create_topic(&name, topics).await.unwrap());
    name
}

/// Messages `0..count` in as many keys as asked for, written.
pub(crate) async fn write(kafka: &Kafka, stream: &StreamName, count: usize, keys: usize) {
    let messages: Vec<_> = (0..count)
        .map(|i| {
            Message::builder(stream)
                .key(format!("key-{}", i % keys))
                .data(i.to_string())
                .build()
                .unwrap()
        })
        .collect();
    for batch in messages.chunks(500) {
        kafka.writer().write(batch).await.unwrap();
    }
}

/// What a message of [`write`] says.
pub(crate) fn number(message: &Message) -> usize {
    std::str::from_utf8(message.data()).unwrap().parse().unwrap()
}

/// What has arrived, in order of arrival.
#[derive(Clone, Default)]
pub(crate) struct Arrived(Arc<Mutex<Vec<usize>>>);

impl Arrived {
    pub(crate) fn add(&self, message: &Message) {
        self.0.lock().unwrap().push(number(message));
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn distinct(&self) -> usize {
        let mut all = self.all();
        all.sort_unstable();
        all.dedup();
        all.len()
    }

    /// Waits until so many different messages have arrived.
    pub(crate) async fn wait(&self, distinct: usize) {
        until(&format!("{distinct} messages have arrived"), || {
            self.distinct() >= distinct
        })
        .await;
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, wait).await.is_ok(),
        "{what}: not in {PATIENCE:?}"
    );
}

/// The next deliveries, past news of partitions.
pub(crate) async fn next(subscription: &mut dyn Subscription) -> Vec<Delivery> {
    let mut out = Vec::new();
    loop {
        let received = subscription.receive(MANY, &mut out);
        match tokio::time::timeout(PATIENCE, received).await {
            Ok(Ok(Received::Deliveries)) => return out,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => panic!("{error:?}"),
            Err(_) => panic!("nothing came within {PATIENCE:?}"),
        }
    }
}

/// At least so many deliveries.
pub(crate) async fn take(subscription: &mut dyn Subscription, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(next(subscription).await);
    }
    all
}

pub(crate) async fn subscribe(kafka: &Kafka, options: &ReadOptions) -> Box<dyn Subscription> {
    kafka.reader().subscribe(options).await.unwrap()
}

pub(crate) async fn shut_down(bus: &Bus<Kafka>) -> streams_core::RunReport {
    bus.shutdown(Duration::from_secs(20)).await
}

/// Writes as another program would.
pub(crate) async fn produce_raw(
    brokers: &str,
    record: impl FnOnce(&ThreadedProducer<rdkafka::producer::DefaultProducerContext>),
) {
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    record(&producer);
    tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(20)).unwrap())
        .await
        .unwrap();
}

/// A record with a value and nothing else.
pub(crate) fn plain<'a>(topic: &'a StreamName, value: &'a str) -> BaseRecord<'a, (), str> {
    BaseRecord::to(topic.as_str()).payload(value)
}

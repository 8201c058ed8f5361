//! A broker, topics of their own, and raw producers.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use streams_core::{
    Bus, Delivery, Driver, Message, ReadOptions, Received, StreamName, Subscription, ksuid,
};
use streams_kafka::{Kafka, KafkaBuilder, KafkaOptions, NewTopics};
use streams_services::Service;

use crate::logs::logged;

/// Anything that takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const MANY: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The broker all tests share.
pub(crate) async fn brokers() -> String {
    logged();
    let address = tokio::task::spawn_blocking(|| Service::Kafka.address().unwrap());
    address.await.unwrap()
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
    write_range(kafka, stream, 0..count, keys).await;
}

/// Messages of these numbers in as many keys as asked for, written.
pub(crate) async fn write_range(
    kafka: &Kafka,
    stream: &StreamName,
    numbers: Range<usize>,
    keys: usize,
) {
    let messages: Vec<_> = numbers
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
    std::str::from_utf8(message.data())
        .unwrap()
        .parse()
        .unwrap()
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

/// To read a stream in a group of its name.
pub(crate) fn committing_every(interval: Duration, stream: &StreamName) -> ReadOptions {
    let options = ReadOptions::new(stream).unwrap();
    let mut options = options.group(stream.as_str()).unwrap();
    let commits = KafkaOptions::new().commit_interval(interval);
    options.driver.insert(commits);
    options
}

pub(crate) async fn subscribe(kafka: &Kafka, options: &ReadOptions) -> Box<dyn Subscription> {
    kafka.reader().subscribe(options).await.unwrap()
}

pub(crate) async fn shut_down(bus: &Bus<Kafka>) -> streams_core::RunReport {
    bus.shutdown(Duration::from_secs(20)).await
}

/// A broker of its own, to do harm to.
pub(crate) async fn own_broker() -> Arc<streams_services::Kafka> {
    logged();
    let start = || streams_services::Kafka::builder().start().unwrap();
    Arc::new(tokio::task::spawn_blocking(start).await.unwrap())
}

/// Does something to a broker while all else goes on.
pub(crate) async fn on(
    broker: &Arc<streams_services::Kafka>,
    act: impl FnOnce(&streams_services::Kafka) + Send + 'static,
) {
    let broker = broker.clone();
    tokio::task::spawn_blocking(move || act(&broker))
        .await
        .unwrap();
}

/// Waits until a group's positions come to so many messages.
pub(crate) async fn committed(kafka: &Kafka, group: &str, stream: &StreamName, count: usize) {
    let mut last = None;
    let committed = async {
        loop {
            let positions = kafka.committed(group, stream).await;
            let sum = positions.as_ref().map(|p| p.iter().flatten().sum::<u64>());
            if sum.is_ok_and(|sum| sum == count as u64) {
                return;
            }
            last = Some(positions);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, committed).await.is_ok();
    assert!(
        in_time,
        "{count} are not committed in {PATIENCE:?}, but {last:?}"
    );
}

/// Key and number of all that was committed to a topic so far, in order of partition. It waits for
/// transactions that are still open.
pub(crate) async fn read_committed(brokers: &str, stream: &StreamName) -> Vec<(String, usize)> {
    const END: &str = "end";
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    let topic = stream.to_string();
    let open = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).unwrap();
        let mut assigned = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            let (number, start) = (partition.id(), Offset::Beginning);
            assigned
                .add_partition_offset(&topic, number, start)
                .unwrap();
        }
        consumer.assign(&assigned).unwrap();
        (consumer, assigned.count())
    });
    let (consumer, mut open) = open.await.unwrap();
    produce_raw(brokers, |producer| {
        for partition in 0..i32::try_from(open).unwrap() {
            producer
                .send(plain(stream, END).partition(partition))
                .unwrap();
        }
    })
    .await;
    let read = tokio::task::spawn_blocking(move || {
        let until = Instant::now() + PATIENCE;
        let text =
            |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
        let mut records = Vec::new();
        while open > 0 {
            assert!(
                Instant::now() < until,
                "{open} partitions could not be read to their end"
            );
            match consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Err(error)) => panic!("{error}"),
                Some(Ok(record)) if record.payload() == Some(END.as_bytes()) => open -= 1,
                Some(Ok(record)) => {
                    let number = text(record.payload()).parse().unwrap();
                    records.push((record.partition(), text(record.key()), number));
                }
            }
        }
        // Of each partition they came in order.
        records.sort_by_key(|(partition, ..)| *partition);
        records
            .into_iter()
            .map(|(_, key, number)| (key, number))
            .collect()
    });
    read.await.unwrap()
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

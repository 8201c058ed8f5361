//! A broker, topics of their own, and a plain reader.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use streams_core::{Key, Message, StreamName, ksuid};
use streams_kafka::{Kafka, KafkaBuilder, NewTopics};
use streams_services::Service;

/// Anything that takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The broker all tests share.
pub(crate) async fn brokers() -> String {
    let address = tokio::task::spawn_blocking(|| Service::Kafka.address().unwrap());
    address.await.unwrap()
}

pub(crate) async fn settings() -> KafkaBuilder {
    Kafka::builder(brokers().await)
}

pub(crate) fn unique(what: &str) -> StreamName {
    StreamName::new(format!("writer-{what}-{}", ksuid().unwrap())).unwrap()
}

/// A topic of its own.
pub(crate) async fn topic(kafka: &Kafka, what: &str, partitions: u32) -> StreamName {
    topic_with(kafka, what, &NewTopics::new(partitions)).await
}

pub(crate) async fn topic_with(kafka: &Kafka, what: &str, settings: &NewTopics) -> StreamName {
    let name = unique(what);
    assert!(kafka.create_topic(&name, settings).await.unwrap());
    name
}

/// A message whose data is this number, and some more bytes.
pub(crate) fn numbered(topic: &StreamName, key: Option<&str>, number: usize) -> Message {
    let data = format!("{number} {}", "x".repeat(100));
    Message::builder(topic)
        .maybe_key(key.map(Key::from))
        .data(data)
        .build()
        .unwrap()
}

/// What a plain reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) millis: i64,
}

impl Record {
    /// Of [`numbered`].
    pub(crate) fn number(&self) -> usize {
        let value = std::str::from_utf8(self.value.as_ref().unwrap()).unwrap();
        value.split(' ').next().unwrap().parse().unwrap()
    }
}

/// All that a topic holds now and that was committed, partition by partition.
pub(crate) async fn read(brokers: &str, topic: &StreamName) -> Vec<Record> {
    read_with(brokers, topic, "read_committed").await
}

pub(crate) async fn read_with(brokers: &str, topic: &StreamName, isolation: &str) -> Vec<Record> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation);
    let topic = topic.clone();
    tokio::task::spawn_blocking(move || read_now(&config, topic.as_str()))
        .await
        .unwrap()
}

fn read_now(config: &ClientConfig, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut open = metadata.topics()[0].partitions().len();
    let mut assigned = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        assigned
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assigned).unwrap();
    let until = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while open > 0 {
        assert!(Instant::now() < until, "the topic could not be read");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => panic!("{error}"),
            Some(Ok(record)) => {
                let headers = record.headers().map_or_else(Vec::new, |headers| {
                    let pair = |header: rdkafka::message::Header<'_, &[u8]>| {
                        (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
                    };
                    headers.iter().map(pair).collect()
                });
                records.push(Record {
                    partition: record.partition(),
                    offset: record.offset(),
                    key: record.key().map(<[u8]>::to_vec),
                    value: record.payload().map(<[u8]>::to_vec),
                    headers,
                    millis: record.timestamp().to_millis().unwrap(),
                });
            }
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// Sees that these numbers were written, each once.
pub(crate) fn assert_once(records: &[Record], numbers: impl IntoIterator<Item = usize>) {
    let mut found: Vec<_> = records.iter().map(Record::number).collect();
    found.sort_unstable();
    let mut expected: Vec<_> = numbers.into_iter().collect();
    expected.sort_unstable();
    assert_eq!(found.len(), expected.len(), "lost or written twice");
    assert_eq!(found, expected);
}

/// Sees that the numbers of each key rise.
pub(crate) fn assert_order_per_key(records: &[Record]) {
    let mut last: HashMap<&[u8], usize> = HashMap::new();
    for record in records {
        let key = record.key.as_deref().unwrap();
        let number = record.number();
        if let Some(before) = last.insert(key, number) {
            assert!(before < number, "{number} came after {before}");
        }
    }
}

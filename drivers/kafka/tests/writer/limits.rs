//! Messages larger than a topic takes.

use std::collections::HashSet;

use streams_core::{Driver as _, ErrorKind, Message, StreamName};
use streams_kafka::{Compression, Kafka, NewTopics};

use crate::support::{
    Record, assert_once, assert_order_per_key, brokers, numbered, read, settings, topic_with,
};

const LIMIT: usize = 5000;

async fn small_topic(kafka: &Kafka) -> StreamName {
    let settings = NewTopics::new(2).config("max.message.bytes", LIMIT.to_string());
    topic_with(kafka, "small", &settings).await
}

fn of_size(topic: &StreamName, key: &str, number: usize, bytes: usize) -> Message {
    let mut data = format!("{number} ");
    let random = std::iter::repeat_with(fastrand::alphanumeric);
    data.extend(random.take(bytes - data.len()));
    Message::builder(topic).key(key).data(data).build().unwrap()
}

/// 300 messages in 7 keys, 30 of which the topic does not take.
fn batch(topic: &StreamName) -> Vec<Message> {
    (0..300)
        .map(|n| {
            let key = format!("k{}", n % 7);
            match n % 10 {
                4 => of_size(topic, &key, n, LIMIT + 1),
                _ => numbered(topic, Some(&key), n),
            }
        })
        .collect()
}

#[tokio::test]
async fn what_a_topic_does_not_take_is_refused_and_the_rest_goes_in_order() {
    for compression in [Compression::None, Compression::Lz4] {
        let kafka = settings().await.compression(compression).build().unwrap();
        let topic = small_topic(&kafka).await;
        // Together far more than the topic takes at once.
        let error = kafka.writer().write(&batch(&topic)).await.unwrap_err();
        let failed: Vec<_> = error.indices().collect();
        assert_eq!(failed, (4..300).step_by(10).collect::<Vec<_>>());
        for (_, error) in error.failures() {
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert!(error.to_string().contains("max.message.bytes"), "{error}");
        }
        let records = read(&brokers().await, &topic).await;
        assert_once(&records, (0..300).filter(|n| n % 10 != 4));
        assert_order_per_key(&records);
    }
}

#[tokio::test]
async fn the_limit_is_met_to_the_byte() {
    let kafka = settings().await.build().unwrap();
    let topic = small_topic(&kafka).await;
    let writer = kafka.writer();
    // Found by trying: the size of a record is not that of its data.
    let mut largest = None;
    for bytes in LIMIT - 250..LIMIT {
        match writer.write(&[of_size(&topic, "k", bytes, bytes)]).await {
            Ok(()) => largest = Some(bytes),
            Err(error) => {
                let error = &error.failures()[0].1;
                assert_eq!(error.kind(), ErrorKind::TooLarge);
                // Not by the brokers, so by the size that was worked out.
                let context: Vec<_> = error.context().collect();
                assert!(context.contains(&("limit", "5000")), "{error}");
                assert!(context.contains(&("size", "5001")), "{error}");
                break;
            }
        }
    }
    let largest = largest.unwrap();
    assert!(largest > LIMIT - 250 && largest < LIMIT - 100, "{largest}");
}

/// The limit is lowered after it was read, as an operator may do, so that the brokers refuse whole
/// batches.
#[tokio::test]
async fn a_limit_lowered_later_refuses_only_what_is_larger() {
    let kafka = settings().await.build().unwrap();
    let topic = topic_with(&kafka, "lowered", &NewTopics::new(2)).await;
    let writer = kafka.writer();
    writer
        .write(&[numbered(&topic, Some("before"), 1000)])
        .await
        .unwrap();
    lower(&brokers().await, &topic).await;

    let batch = batch(&topic);
    let error = writer.write(&batch).await.unwrap_err();
    let mut failed = HashSet::new();
    for (index, error) in error.failures() {
        let kind = error.kind();
        let is_large = batch[*index].data().len() > LIMIT;
        // A message that others of its key have overtaken is not written behind them.
        assert!(
            kind == ErrorKind::TooLarge || (kind == ErrorKind::Conflict && !is_large),
            "{error}"
        );
        failed.insert(*index);
    }
    assert!((4..300).step_by(10).all(|large| failed.contains(&large)));
    let records = read(&brokers().await, &topic).await;
    let (before, records): (Vec<_>, Vec<_>) = records
        .into_iter()
        .partition(|record: &Record| record.number() == 1000);
    assert_eq!(before.len(), 1);
    assert_once(&records, (0..300).filter(|n| !failed.contains(n)));
    assert_order_per_key(&records);

    // From now on it is known.
    let error = writer.write(&batch).await.unwrap_err();
    assert_eq!(error.indices().count(), 30);
}

async fn lower(brokers: &str, topic: &StreamName) {
    use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
    use rdkafka::client::DefaultClientContext;
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let limit = LIMIT.to_string();
    let lower = AlterConfig::new(ResourceSpecifier::Topic(topic.as_str()));
    let lower = lower.set("max.message.bytes", &limit);
    let altered = admin.alter_configs([&lower], &AdminOptions::new()).await;
    altered.unwrap()[0].as_ref().unwrap();
}

#[tokio::test]
async fn headers_may_be_many_and_large_up_to_the_limit() {
    let kafka = settings().await.build().unwrap();
    let topic = topic_with(&kafka, "headers", &NewTopics::new(1)).await;
    let with = |count: usize, bytes: usize| {
        let mut message = Message::builder(&topic).data("0 x");
        for n in 0..count {
            message = message.header(format!("h{n}"), vec![b'x'; bytes]);
        }
        message.build().unwrap()
    };
    let batch = [with(2000, 10), with(1, 900_000), with(1, 1_100_000)];
    let error = kafka.writer().write(&batch).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [2]);
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::TooLarge);
    let records = read(&brokers().await, &topic).await;
    assert_eq!(records[0].headers.len(), 2002);
    assert_eq!(records[1].headers[2].1.as_ref().unwrap().len(), 900_000);
}

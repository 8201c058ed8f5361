use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use streams_core::{StreamName, ksuid};
use streams_services::Service;

use super::*;
use crate::{Kafka, NewTopics};

async fn kafka() -> Kafka {
    let brokers = blocking(|| Service::Kafka.address().unwrap());
    Kafka::builder(brokers.await.unwrap()).build().unwrap()
}

async fn topic(kafka: &Kafka) -> StreamName {
    let name = StreamName::new(format!("transactions-{}", ksuid().unwrap())).unwrap();
    let settings = NewTopics::new(1);
    assert!(kafka.create_topic(&name, &settings).await.unwrap());
    name
}

async fn open(kafka: &Kafka, id: &str) -> TransactionalProducer {
    let inner = &*kafka.inner;
    let opened = TransactionalProducer::open(&inner.config, &inner.topics, id).await;
    opened.unwrap()
}

fn message(topic: &StreamName) -> Message {
    Message::builder(topic).data("x").build().unwrap()
}

async fn written(kafka: &Kafka, topic: &StreamName) -> u64 {
    // Each transaction ends with a record of its own.
    kafka.watermarks(topic, 0).await.unwrap().1
}

/// Waits for the record that ends a transaction: the coordinator writes it after it has confirmed the
/// commit.
async fn until_written(kafka: &Kafka, topic: &StreamName, count: u64) {
    let until = Instant::now() + Duration::from_secs(30);
    while written(kafka, topic).await != count {
        assert!(
            Instant::now() < until,
            "{count} records have not been written"
        );
    }
}

#[tokio::test]
async fn a_producer_whose_id_another_has_taken_is_finished() {
    let kafka = kafka().await;
    let topic = topic(&kafka).await;
    let id = ksuid().unwrap();
    let first = open(&kafka, id.as_str()).await;
    first.commit(&[message(&topic)], None).await.unwrap();
    let second = open(&kafka, id.as_str()).await;
    for _ in 0..2 {
        let error = first.commit(&[message(&topic)], None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error:?}");
        assert!(error.is_retryable());
    }
    assert!(first.is_finished() && !second.is_finished());
    second.commit(&[message(&topic)], None).await.unwrap();
    until_written(&kafka, &topic, 4).await;
}

#[tokio::test]
async fn offsets_are_committed_with_the_messages_or_not_at_all() {
    let kafka = kafka().await;
    let (input, output) = (topic(&kafka).await, topic(&kafka).await);
    let group = ksuid().unwrap();
    let group = group.as_str();
    let consumer: BaseConsumer = kafka.inner.config.consumer(group).create().unwrap();
    let producer = open(&kafka, ksuid().unwrap().as_str()).await;
    let at = |offset| {
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(input.as_str(), 0, Offset::Offset(offset))
            .unwrap();
        Some((offsets, consumer.group_metadata().unwrap()))
    };
    producer.commit(&[message(&output)], at(5)).await.unwrap();
    assert_eq!(kafka.committed(group, &input).await.unwrap(), [Some(5)]);
    until_written(&kafka, &output, 2).await;

    let large = vec![b'x'; 2_000_000];
    let bad = Message::builder(&output).data(large).build().unwrap();
    let error = producer.commit(&[bad], at(6)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    assert_eq!(kafka.committed(group, &input).await.unwrap(), [Some(5)]);

    // Offsets alone, and nothing at all.
    producer.commit(&[], at(7)).await.unwrap();
    producer.commit(&[], None).await.unwrap();
    assert_eq!(kafka.committed(group, &input).await.unwrap(), [Some(7)]);
    until_written(&kafka, &output, 2).await;
}

#[tokio::test]
async fn offsets_of_a_membership_that_is_over_are_refused_and_nothing_is_written() {
    let kafka = kafka().await;
    let (input, output) = (topic(&kafka).await, topic(&kafka).await);
    let group = ksuid().unwrap();
    let config = &kafka.inner.config;
    let member: BaseConsumer = config.consumer(group.as_str()).create().unwrap();
    let name = input.clone();
    let join = move |member: BaseConsumer| {
        member.subscribe(&[name.as_str()]).unwrap();
        while member.assignment().unwrap().count() == 0 {
            let _ = member.poll(Duration::from_millis(50));
        }
        member
    };
    let join_again = join.clone();
    let member = blocking(move || join(member)).await.unwrap();
    let before = member.group_metadata().unwrap();
    let member = blocking(move || {
        member.unsubscribe();
        while member.assignment().unwrap().count() > 0 {
            let _ = member.poll(Duration::from_millis(50));
        }
        join_again(member)
    });
    let member = member.await.unwrap();

    let producer = open(&kafka, ksuid().unwrap().as_str()).await;
    let with = |membership| {
        let mut offsets = TopicPartitionList::new();
        let offset = Offset::Offset(3);
        offsets
            .add_partition_offset(input.as_str(), 0, offset)
            .unwrap();
        Some((offsets, membership))
    };
    let batch = [message(&output)];
    let error = producer.commit(&batch, with(before)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error:?}");
    assert!(error.is_retryable());
    let committed = kafka.committed(group.as_str(), &input).await.unwrap();
    assert_eq!(committed, [None]);
    // The producer itself is not finished.
    assert!(!producer.is_finished());
    let now = member.group_metadata().unwrap();
    producer.commit(&batch, with(now)).await.unwrap();
    let committed = kafka.committed(group.as_str(), &input).await.unwrap();
    assert_eq!(committed, [Some(3)]);
}

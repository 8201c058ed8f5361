//! Topics that change while groups read them.

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::BaseRecord;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use streams_core::{Bus, ReadOptions, StartFrom, StreamName};
use streams_kafka::{KafkaControl, KafkaOptions, NewTopics};

use crate::logs::Log;
use crate::support::{
    Arrived, brokers, committed, kafka, next, number, produce_raw, settings, shut_down, subscribe,
    take, topic, until, write,
};

fn client(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers);
    client
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    client(brokers).create().unwrap()
}

/// What is written to a new partition before anybody reads it is read, also by a group that began at
/// the end of the topic.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_are_read_from_their_oldest_message() {
    let brokers = brokers().await;
    let kafka = settings(&brokers)
        .property("topic.metadata.refresh.interval.ms", "3000")
        .build()
        .unwrap();
    let stream = topic(&kafka, "grows", &NewTopics::new(1)).await;
    write(&kafka, &stream, 10, 1).await;
    let mut groups = Vec::new();
    for (start, seen) in [(StartFrom::Earliest, 10), (StartFrom::Latest, 0)] {
        let group = format!("{stream}-{start:?}");
        let (bus, arrived, control) = (
            Bus::new(kafka.clone()),
            Arrived::default(),
            KafkaControl::new(),
        );
        let handler = arrived.clone();
        bus.subscribe_stream(&stream, move |message, _| {
            let arrived = handler.clone();
            async move { arrived.add(&message) }
        })
        .group(&group)
        .start_from(start)
        .option(KafkaOptions::new().control(&control))
        .register()
        .unwrap();
        bus.start().await.unwrap();
        until("the group has joined", || control.partitions() == [0]).await;
        arrived.wait(seen).await;
        groups.push((group, bus, arrived, control, seen));
    }
    // And one that is away meanwhile.
    let away = ReadOptions::new(&stream)
        .unwrap()
        .start_from(StartFrom::Latest);
    let away = away.group(format!("{stream}-away")).unwrap();
    subscribe(&kafka, &away).await.close().await.unwrap();
    let grown = admin(&brokers);
    let more = NewPartitions::new(stream.as_str(), 3);
    let results = grown
        .create_partitions([&more], &AdminOptions::new())
        .await
        .unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    // At once, by one who has seen them.
    produce_raw(&brokers, |producer| {
        for number in 10..40 {
            let data = number.to_string();
            let record = BaseRecord::<(), str>::to(stream.as_str());
            let record = record.payload(&data).partition(number % 3);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
    })
    .await;
    for (group, bus, arrived, control, seen) in groups {
        arrived.wait(seen + 30).await;
        assert_eq!(control.partitions(), [0, 1, 2]);
        committed(&kafka, &group, &stream, 40).await;
        shut_down(&bus).await;
        assert_eq!(arrived.all().len(), seen + 30);
    }
    let mut back = subscribe(&kafka, &away).await;
    let mut numbers: Vec<_> = take(&mut *back, 30)
        .await
        .iter()
        .map(|d| number(&d.message))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (10..40).collect::<Vec<_>>());
    back.close().await.unwrap();
}

/// Commits for a group without members.
async fn commit(brokers: &str, group: &str, stream: &StreamName, offset: i64) {
    let mut config = client(brokers);
    config.set("group.id", group);
    let stream = stream.clone();
    let committed = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(stream.as_str(), 0, Offset::Offset(offset))
            .unwrap();
        consumer.commit(&list, CommitMode::Sync).unwrap();
    });
    committed.await.unwrap();
}

/// Retention was faster than the group.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_was_deleted_goes_on_at_the_oldest_message_and_says_so() {
    let brokers = brokers().await;
    let kafka = kafka().await;
    let stream = topic(&kafka, "deleted-records", &NewTopics::new(1)).await;
    write(&kafka, &stream, 100, 1).await;
    commit(&brokers, stream.as_str(), &stream, 10).await;
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(stream.as_str(), 0, Offset::Offset(60))
        .unwrap();
    admin(&brokers)
        .delete_records(&before, &AdminOptions::new())
        .await
        .unwrap();
    let log = Log::listen();
    // The group has a position, though no good one: its start does not matter.
    for start in [StartFrom::Default, StartFrom::Latest] {
        let options = ReadOptions::new(&stream)
            .unwrap()
            .group(stream.as_str())
            .unwrap();
        let mut subscription = subscribe(&kafka, &options.start_from(start)).await;
        let deliveries = take(&mut *subscription, 40).await;
        let numbers: Vec<_> = deliveries.iter().map(|d| number(&d.message)).collect();
        assert_eq!(numbers, (60..100).collect::<Vec<_>>());
        subscription.close().await.unwrap();
    }
    assert!(log.has(&["WARN", stream.as_str(), "offset reset", "10"]));
}

/// As when a topic was deleted and made again, or a position was set by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_past_the_end_goes_on_at_the_oldest_message_and_says_so() {
    let brokers = brokers().await;
    let kafka = kafka().await;
    let stream = topic(&kafka, "past-the-end", &NewTopics::new(1)).await;
    write(&kafka, &stream, 5, 1).await;
    commit(&brokers, stream.as_str(), &stream, 1000).await;
    let log = Log::listen();
    let options = ReadOptions::new(&stream)
        .unwrap()
        .group(stream.as_str())
        .unwrap();
    let mut subscription = subscribe(&kafka, &options).await;
    let mut deliveries = take(&mut *subscription, 5).await;
    assert!(log.has(&["WARN", stream.as_str(), "offset reset", "1000"]));
    // The group's position goes back with it.
    let mut settled = vec![deliveries.remove(4).ack()];
    subscription.settle(&mut settled).await.unwrap();
    assert_eq!(
        kafka.committed(stream.as_str(), &stream).await.unwrap(),
        [Some(5)]
    );
    write(&kafka, &stream, 1, 1).await;
    assert_eq!(next(&mut *subscription).await[0].token.id().sequence, 5);
    subscription.close().await.unwrap();
}

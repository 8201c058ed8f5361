//! Topics: missing, created, asked about.

use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use streams_core::{Driver as _, ErrorKind};
use streams_kafka::NewTopics;

use crate::support::{brokers, numbered, read, settings, topic, unique};

#[tokio::test]
async fn a_missing_topic_is_said_at_once_and_found_once_it_is_there() {
    let kafka = settings().await.build().unwrap();
    let topic = unique("missing");
    let writer = kafka.writer();
    let begun = Instant::now();
    let batch: Vec<_> = (0..3).map(|n| numbered(&topic, None, n)).collect();
    let error = writer.write(&batch).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(
        error
            .failures()
            .iter()
            .all(|(_, error)| error.kind() == ErrorKind::NotFound)
    );
    assert!(
        error
            .to_string()
            .contains("create it, or set `create_topics`"),
        "{error}"
    );
    let error = writer.write_in_transaction(&batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(begun.elapsed().as_secs() < 5);
    assert_eq!(
        kafka.partitions(&topic).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );

    assert!(
        kafka
            .create_topic(&topic, &NewTopics::new(2))
            .await
            .unwrap()
    );
    writer.write(&batch).await.unwrap();
    assert_eq!(read(&brokers().await, &topic).await.len(), 3);
}

#[tokio::test]
async fn topics_are_created_with_their_settings_where_asked() {
    let settings_of_topics = NewTopics::new(3)
        .replication(1)
        .config("cleanup.policy", "compact")
        .config("max.message.bytes", "3000");
    let kafka = settings()
        .await
        .create_topics(settings_of_topics)
        .build()
        .unwrap();
    assert!(kafka.writer().capabilities().creates_streams);
    let topic = unique("created");
    // Of many that come at once, one creates it.
    let writer = kafka.writer();
    let message = |n| numbered(&topic, Some("k"), n);
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (writer, message) = (writer.clone(), message(n));
            tokio::spawn(async move { writer.write(&[message]).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(kafka.partitions(&topic).await.unwrap(), 3);
    assert_eq!(read(&brokers().await, &topic).await.len(), 20);
    // Its settings are those that were asked for.
    let large = message(0)
        .to_builder()
        .data(vec![b'x'; 3000])
        .build()
        .unwrap();
    let error = writer.write(&[large]).await.unwrap_err();
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::TooLarge);

    assert!(
        !kafka
            .create_topic(&topic, &NewTopics::new(1))
            .await
            .unwrap(),
        "it is there"
    );
    assert!(kafka.delete_topic(&topic).await.unwrap());
    assert!(!kafka.delete_topic(&topic).await.unwrap(), "it is gone");
}

#[tokio::test]
async fn settings_the_brokers_refuse_are_said() {
    let kafka = settings().await.build().unwrap();
    for settings in [
        NewTopics::new(1).replication(100),
        NewTopics::new(1).config("no.such.setting", "x"),
    ] {
        let topic = unique("refused");
        let error = kafka.create_topic(&topic, &settings).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    }
}

#[tokio::test]
async fn a_deleted_topic_is_missing_again() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "deleted", 1).await;
    let writer = kafka.writer();
    writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
    assert!(kafka.delete_topic(&topic).await.unwrap());
    let error = writer
        .write(&[numbered(&topic, None, 1)])
        .await
        .unwrap_err();
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn watermarks_and_committed_offsets_are_told() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "asked", 2).await;
    assert_eq!(kafka.watermarks(&topic, 1).await.unwrap(), (0, 0));
    let error = kafka.watermarks(&topic, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("it has 2"), "{error}");
    let error = kafka.watermarks(&topic, u32::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let batch: Vec<_> = (0..10).map(|n| numbered(&topic, Some("same"), n)).collect();
    kafka.writer().write(&batch).await.unwrap();
    let records = read(&brokers().await, &topic).await;
    let partition = records[0].partition.cast_unsigned();
    assert_eq!(kafka.watermarks(&topic, partition).await.unwrap(), (0, 10));
    assert_eq!(
        kafka.watermarks(&topic, 1 - partition).await.unwrap(),
        (0, 0)
    );

    let group = unique("group");
    assert_eq!(
        kafka.committed(group.as_str(), &topic).await.unwrap(),
        [None, None]
    );
    let (brokers, on) = (brokers().await, topic.clone());
    let member = group.clone();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", member.as_str())
            .create()
            .unwrap();
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(on.as_str(), 1, Offset::Offset(7))
            .unwrap();
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
    })
    .await
    .unwrap();
    assert_eq!(
        kafka.committed(group.as_str(), &topic).await.unwrap(),
        [None, Some(7)]
    );
}

#[tokio::test]
async fn names_no_topic_can_have_are_refused() {
    let kafka = settings().await.build().unwrap();
    for name in ["a/b", "..", "ü"] {
        let errors = [
            kafka.partitions(name).await.unwrap_err(),
            kafka
                .create_topic(name, &NewTopics::new(1))
                .await
                .unwrap_err(),
            kafka.committed("group", name).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidMessage, "{error}");
        }
    }
}

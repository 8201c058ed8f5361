//! What stateful processing needs: compacted topics, partitions by hand, hooks.

use std::collections::HashMap;

use streams_core::{Driver, Message, ReadOptions, Received, StartFrom};
use streams_kafka::{KafkaOptions, NewTopics};

use crate::support::{MANY, kafka, next, subscribe, topic};

#[tokio::test]
async fn a_compacted_topic_is_read_into_a_table_and_then_followed() {
    let kafka = kafka().await;
    let compacted = NewTopics::new(2).config("cleanup.policy", "compact");
    let stream = topic(&kafka, "table", &compacted).await;
    let put = |key: &str, value: &str| {
        // Without data it is a tombstone, which deletes the key.
        let message = Message::builder(&stream).key(key).data(value.to_owned());
        message.build_received().unwrap()
    };
    let changes: Vec<_> = (0..200)
        .map(|i| put(&format!("key-{}", i % 20), &format!("value-{i}")))
        .chain((0..5).map(|i| put(&format!("key-{i}"), "")))
        .collect();
    kafka.writer().write(&changes).await.unwrap();

    let mut table = HashMap::new();
    let mut positions = HashMap::new();
    for partition in 0..2 {
        let mut options = ReadOptions::new(&stream)
            .unwrap()
            .start_from(StartFrom::Earliest);
        options
            .driver
            .insert(KafkaOptions::new().partitions([partition]).until_end());
        let mut subscription = subscribe(&kafka, &options).await;
        let mut out = Vec::new();
        while subscription.receive(MANY, &mut out).await.unwrap() != Received::End {}
        for delivery in out.drain(..) {
            assert_eq!(delivery.token.id().partition, partition);
            positions.insert(partition, delivery.token.id().sequence);
            let key = delivery.message.key().unwrap().as_str().unwrap().to_owned();
            match delivery.message.data().is_empty() {
                true => table.remove(&key),
                false => table.insert(key, delivery.message.data().clone()),
            };
        }
        subscription.close().await.unwrap();
        let (low, high) = kafka.watermarks(&stream, partition).await.unwrap();
        assert_eq!(low, 0);
        assert_eq!(high, positions[&partition] + 1);
    }
    assert_eq!(table.len(), 15);
    assert_eq!(&table["key-7"][..], b"value-187");

    // From where the table stands on.
    let mut options = ReadOptions::new(&stream)
        .unwrap()
        .start_from(StartFrom::Position((positions[&1] + 1).to_string()));
    options.driver.insert(KafkaOptions::new().partitions([1]));
    let mut subscription = subscribe(&kafka, &options).await;
    let later: Vec<_> = (0..20).map(|i| put(&format!("key-{i}"), "later")).collect();
    kafka.writer().write(&later).await.unwrap();
    for delivery in next(&mut *subscription).await {
        assert_eq!(&delivery.message.data()[..], b"later");
        assert_eq!(delivery.token.id().partition, 1);
    }
    subscription.close().await.unwrap();
}

//! Order per key, backpressure and many at once.

use std::sync::Arc;

use streams_core::Driver as _;

use crate::support::{
    PATIENCE, assert_once, assert_order_per_key, brokers, numbered, read, settings, topic,
};

#[tokio::test]
async fn order_per_key_is_kept_under_backpressure() {
    // Room for a tenth of a batch.
    let kafka = settings().await.queue_messages(10).build().unwrap();
    let topic = topic(&kafka, "backpressure", 4).await;
    let writer = kafka.writer();
    // Each task writes keys of its own, so that their order is given.
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (writer, topic) = (writer.clone(), topic.clone());
            tokio::spawn(async move {
                for round in 0..20 {
                    let batch: Vec<_> = (0..100)
                        .map(|n| {
                            let key = format!("{task}-{}", n % 7);
                            numbered(&topic, Some(&key), (task * 20 + round) * 100 + n)
                        })
                        .collect();
                    writer.write(&batch).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    let records = read(&brokers().await, &topic).await;
    assert_once(&records, 0..16_000);
    assert_order_per_key(&records);
}

#[tokio::test]
async fn a_message_larger_than_the_queue_goes_alone() {
    let kafka = settings().await.queue_bytes(1000).build().unwrap();
    let topic = topic(&kafka, "queue-bytes", 1).await;
    let large = |n: usize| {
        let data = format!("{n} {}", "x".repeat(5000));
        let message = streams_core::Message::builder(&topic).key("k").data(data);
        message.build().unwrap()
    };
    let batch: Vec<_> = (0..50)
        .map(|n| match n % 3 {
            0 => large(n),
            _ => numbered(&topic, Some("k"), n),
        })
        .collect();
    let writer = kafka.writer();
    tokio::time::timeout(PATIENCE, writer.write(&batch))
        .await
        .unwrap()
        .unwrap();
    let records = read(&brokers().await, &topic).await;
    assert_once(&records, 0..50);
    assert_order_per_key(&records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_publish_at_once() {
    for queue in [100_000, 100] {
        let kafka = settings().await.queue_messages(queue).build().unwrap();
        let topic = Arc::new(topic(&kafka, "publishers", 4).await);
        let writer = kafka.writer();
        let tasks: Vec<_> = (0..5000)
            .map(|n| {
                let (writer, topic) = (writer.clone(), topic.clone());
                tokio::spawn(async move {
                    let message = numbered(&topic, Some(&format!("k{}", n % 50)), n);
                    writer.write(&[message]).await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        }
        assert_once(&read(&brokers().await, &topic).await, 0..5000);
    }
}

#[tokio::test]
async fn a_batch_longer_than_a_part_is_written_in_order() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "long", 2).await;
    let key = |n: usize| format!("k{}", n % 3);
    let batch: Vec<_> = (0..70_000)
        .map(|n| numbered(&topic, Some(&key(n)), n))
        .collect();
    kafka.writer().write(&batch).await.unwrap();
    let records = read(&brokers().await, &topic).await;
    assert_once(&records, 0..70_000);
    assert_order_per_key(&records);
}

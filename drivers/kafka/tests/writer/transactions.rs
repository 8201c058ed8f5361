//! Batches written all or nothing.

use std::time::Duration;

use streams_core::{Driver as _, ErrorKind, Message};
use streams_kafka::NewTopics;

use crate::support::{
    PATIENCE, assert_once, assert_order_per_key, brokers, numbered, read, read_with, settings,
    topic, topic_with,
};

#[tokio::test]
async fn a_transaction_is_written_whole_to_many_topics() {
    let kafka = settings().await.build().unwrap();
    assert!(kafka.writer().capabilities().transactions);
    let (one, other) = (
        topic(&kafka, "one", 3).await,
        topic(&kafka, "other", 1).await,
    );
    let writer = kafka.writer();
    for round in 0..5 {
        let batch: Vec<_> = (0..100)
            .map(|n| {
                let topic = if n % 2 == 0 { &one } else { &other };
                numbered(topic, Some(&format!("k{}", n % 6)), round * 100 + n)
            })
            .collect();
        writer.write_in_transaction(&batch).await.unwrap();
    }
    let records = read(&brokers().await, &one).await;
    assert_once(&records, (0..500).step_by(2));
    assert_order_per_key(&records);
    assert_once(&read(&brokers().await, &other).await, (1..500).step_by(2));
}

#[tokio::test]
async fn nothing_of_a_transaction_with_a_bad_message_is_written() {
    let kafka = settings().await.largest_message(10_000).build().unwrap();
    let topic = topic_with(
        &kafka,
        "bad",
        &NewTopics::new(2).config("max.message.bytes", "5000"),
    )
    .await;
    let writer = kafka.writer();
    let good = |n| numbered(&topic, None, n);
    let large = |bytes: usize| {
        Message::builder(&topic)
            .data(vec![b'x'; bytes])
            .build()
            .unwrap()
    };
    let bad_header = good(0)
        .to_builder()
        .header("message_id", "x")
        .build()
        .unwrap();
    for (bad, kind) in [
        (large(20_000), ErrorKind::TooLarge),
        (large(6000), ErrorKind::TooLarge),
        (bad_header, ErrorKind::InvalidMessage),
    ] {
        let batch = [good(0), good(1), bad, good(3)];
        let error = writer.write_in_transaction(&batch).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(
            error.context().any(|context| context == ("index", "2")),
            "{error}"
        );
        assert!(!error.is_retryable());
    }
    // The same writer goes on.
    writer.write_in_transaction(&[good(7)]).await.unwrap();
    assert_once(&read(&brokers().await, &topic).await, [7]);
}

/// The brokers refuse the batch after some of it was written, which only readers of uncommitted
/// messages see.
#[tokio::test]
async fn an_aborted_transaction_is_not_seen() {
    // Compressed, so that its size is the brokers' to judge.
    let kafka = settings()
        .await
        .compression(streams_kafka::Compression::Lz4)
        .build()
        .unwrap();
    let takes = topic(&kafka, "takes", 1).await;
    let refuses = topic_with(
        &kafka,
        "refuses",
        &NewTopics::new(1).config("max.message.bytes", "5000"),
    )
    .await;
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(20_000)
        .collect();
    let mut batch: Vec<_> = (0..50).map(|n| numbered(&takes, None, n)).collect();
    batch.push(Message::builder(&refuses).data(noise).build().unwrap());
    let writer = kafka.writer();
    let error = writer.write_in_transaction(&batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    assert!(
        error.context().any(|context| context == ("index", "50")),
        "{error}"
    );

    writer
        .write_in_transaction(&[numbered(&takes, None, 50)])
        .await
        .unwrap();
    assert_once(&read(&brokers().await, &takes).await, [50]);
    assert_eq!(read(&brokers().await, &refuses).await.len(), 0);
    let uncommitted = read_with(&brokers().await, &takes, "read_uncommitted").await;
    assert!(
        uncommitted.len() > 1,
        "nothing was written, so nothing was aborted"
    );
}

#[tokio::test]
async fn concurrent_transactions_take_turns() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "turns", 2).await;
    let writer = kafka.writer();
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let batch: Vec<_> = (0..10)
                .map(|i| numbered(&topic, None, n * 10 + i))
                .collect();
            let writer = writer.clone();
            tokio::spawn(async move { writer.write_in_transaction(&batch).await })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(PATIENCE, task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
    assert_once(&read(&brokers().await, &topic).await, 0..100);
}

#[tokio::test]
async fn a_dropped_transaction_ends_by_itself() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "dropped", 1).await;
    let writer = kafka.writer();
    writer
        .write_in_transaction(&[numbered(&topic, None, 0)])
        .await
        .unwrap();
    let batch: Vec<_> = (1..100).map(|n| numbered(&topic, None, n)).collect();
    for polls in 1..20 {
        let mut write = writer.write_in_transaction(&batch);
        for _ in 0..polls {
            let done = tokio::select! {
                biased;
                result = &mut write => { result.unwrap(); true }
                () = tokio::task::yield_now() => false,
            };
            if done {
                break;
            }
        }
    }
    let last = [numbered(&topic, None, 100)];
    let after = writer.write_in_transaction(&last);
    tokio::time::timeout(PATIENCE, after)
        .await
        .unwrap()
        .unwrap();
    let records = read(&brokers().await, &topic).await;
    assert_eq!(
        (records.len() - 2) % 99,
        0,
        "a part of a transaction was written"
    );
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_given_up_and_the_next_goes() {
    let broker =
        tokio::task::spawn_blocking(|| streams_services::Kafka::builder().start().unwrap());
    let broker = broker.await.unwrap();
    let kafka = streams_kafka::Kafka::builder(broker.address())
        .transaction_timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let topic = topic(&kafka, "slow", 1).await;
    let writer = kafka.writer();
    writer
        .write_in_transaction(&[numbered(&topic, None, 0)])
        .await
        .unwrap();
    broker.pause();
    let batch = [numbered(&topic, None, 1)];
    let write = writer.write_in_transaction(&batch);
    let error = tokio::time::timeout(PATIENCE, write)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    broker.resume();
    let until = std::time::Instant::now() + PATIENCE;
    while let Err(error) = writer
        .write_in_transaction(&[numbered(&topic, None, 2)])
        .await
    {
        assert!(
            error.is_retryable() && std::time::Instant::now() < until,
            "{error:?}"
        );
    }
    let records = read(&broker.address(), &topic).await;
    let numbers: Vec<_> = records.iter().map(crate::support::Record::number).collect();
    assert!(numbers == [0, 2] || numbers == [0, 1, 2], "{numbers:?}");
}

//! Brokers that are not there, die and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use streams_core::{Driver as _, ErrorKind, Message, StreamName, Writer};
use streams_kafka::Kafka;
use tokio::sync::watch;

use crate::support::{
    PATIENCE, Record, assert_once, assert_order_per_key, numbered, read, topic, unique,
};

async fn own_broker() -> Arc<streams_services::Kafka> {
    let started = tokio::task::spawn_blocking(|| streams_services::Kafka::builder().start());
    Arc::new(started.await.unwrap().unwrap())
}

/// Writes batches in 10 tasks until told to stop; how many messages were confirmed.
async fn publish(writer: Arc<dyn Writer>, topic: StreamName, progress: Arc<Progress>) -> usize {
    let tasks: Vec<_> = (0..10)
        .map(|task| {
            let (writer, topic, progress) = (writer.clone(), topic.clone(), progress.clone());
            tokio::spawn(async move {
                let mut batches = 0;
                while !progress.stop.load(Ordering::Relaxed) {
                    let message = |n| {
                        let number = (batches * 10 + task) * 50 + n;
                        numbered(&topic, Some(&format!("{task}-{}", n % 3)), number)
                    };
                    let batch: Vec<_> = (0..50).map(message).collect();
                    writer.write(&batch).await.unwrap();
                    progress
                        .written
                        .send_modify(|written| *written += batch.len());
                    batches += 1;
                }
                batches * 50
            })
        })
        .collect();
    let mut written = 0;
    for task in tasks {
        written += tokio::time::timeout(2 * PATIENCE, task)
            .await
            .unwrap()
            .unwrap();
    }
    written
}

struct Progress {
    written: watch::Sender<usize>,
    stop: AtomicBool,
}

impl Progress {
    /// Waits for so many more.
    async fn more(&self, count: usize) {
        let mut written = self.written.subscribe();
        let until = *written.borrow() + count;
        let reached = written.wait_for(|written| *written >= until);
        tokio::time::timeout(PATIENCE, reached)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_broker_killed_and_restarted_loses_and_repeats_nothing() {
    let broker = own_broker().await;
    let kafka = Kafka::builder(broker.address()).build().unwrap();
    let topic = topic(&kafka, "killed", 4).await;
    let progress = Arc::new(Progress {
        written: watch::Sender::new(0),
        stop: AtomicBool::new(false),
    });
    let publishing = tokio::spawn(publish(kafka.writer(), topic.clone(), progress.clone()));
    for _ in 0..3 {
        progress.more(2000).await;
        let broker = broker.clone();
        let restarted = tokio::task::spawn_blocking(move || {
            broker.kill();
            broker.restart().unwrap();
            broker.wait_ready().unwrap();
        });
        restarted.await.unwrap();
    }
    progress.more(2000).await;
    progress.stop.store(true, Ordering::Relaxed);
    let written = publishing.await.unwrap();
    let records = read(&broker.address(), &topic).await;
    assert_eq!(records.len(), written, "lost or written twice");
    let mut numbers: Vec<_> = records.iter().map(Record::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), written, "written twice");
    assert_order_per_key(&records);
}

#[tokio::test]
async fn brokers_that_cannot_be_reached_are_said_in_time_and_found_later() {
    let broker = own_broker().await;
    let kafka = Kafka::builder(broker.address())
        .connect_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let topic = topic(&kafka, "unreachable", 1).await;
    broker.kill();

    let kafka = Kafka::builder(broker.address())
        .connect_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let writer = kafka.writer();
    let begun = Instant::now();
    // However many there are: they ask once.
    let tasks: Vec<_> = (0..1000)
        .map(|n| {
            let (writer, message) = (writer.clone(), numbered(&topic, None, n));
            tokio::spawn(async move { writer.write(&[message]).await.unwrap_err() })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap();
        let error = &error.failures()[0].1;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_retryable());
        let text = error.to_string();
        assert!(
            text.contains("within 1s") && text.contains("`connect_timeout`"),
            "{text}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    let error = writer
        .write_in_transaction(&[numbered(&topic, None, 0)])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    let back = broker.clone();
    let restarted = tokio::task::spawn_blocking(move || {
        back.restart().unwrap();
        back.wait_ready().unwrap();
    });
    restarted.await.unwrap();
    let until = Instant::now() + PATIENCE;
    while let Err(error) = writer.write(&[numbered(&topic, None, 0)]).await {
        assert!(error.is_retryable() && Instant::now() < until, "{error:?}");
    }
    assert_once(&read(&broker.address(), &topic).await, [0]);
}

#[tokio::test]
async fn a_message_not_confirmed_in_time_fails_with_the_setting_named() {
    let broker = own_broker().await;
    let kafka = Kafka::builder(broker.address())
        .delivery_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let topic = topic(&kafka, "timeout", 1).await;
    let writer = kafka.writer();
    // A busy machine may need longer the first time.
    let until = Instant::now() + PATIENCE;
    while let Err(error) = writer.write(&[numbered(&topic, None, 0)]).await {
        assert!(Instant::now() < until, "{error:?}");
    }
    broker.kill();
    let begun = Instant::now();
    let batch: Vec<_> = (1..20).map(|n| numbered(&topic, None, n)).collect();
    let write = tokio::time::timeout(PATIENCE, writer.write(&batch))
        .await
        .unwrap();
    let error = write.unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(error.indices().count(), 19);
    for (_, error) in error.failures() {
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.is_retryable());
        assert!(error.to_string().contains("delivery_timeout=2s"), "{error}");
    }
    tokio::time::timeout(PATIENCE, writer.close())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn names_that_do_not_resolve_are_unavailable() {
    let kafka = Kafka::builder("no-such-host.invalid:9092")
        .connect_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let message = Message::builder(unique("resolve"))
        .data("x")
        .build()
        .unwrap();
    let error = kafka.writer().write(&[message]).await.unwrap_err();
    let error = &error.failures()[0].1;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(
        error.to_string().contains("no-such-host.invalid"),
        "{error}"
    );
}

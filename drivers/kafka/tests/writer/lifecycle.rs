//! Dropped writes, flushing and closing.

use std::sync::Arc;
use std::time::Duration;

use streams_core::{Driver as _, ErrorKind};
use tokio::sync::watch;

use crate::support::{PATIENCE, assert_once, brokers, numbered, read, settings, topic};

#[tokio::test]
async fn a_dropped_write_leaks_no_room_and_a_flush_waits_for_it() {
    // So little room that what a dropped write kept of it would stop all.
    let kafka = settings().await.queue_messages(50).build().unwrap();
    let topic = topic(&kafka, "dropped", 2).await;
    let writer = kafka.writer();
    writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
    let batch: Vec<_> = (0..200).map(|n| numbered(&topic, None, n)).collect();
    for polls in 0..100 {
        let mut write = writer.write(&batch);
        for _ in 0..polls % 10 {
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
    tokio::time::timeout(PATIENCE, writer.flush())
        .await
        .unwrap()
        .unwrap();
    // What was sent is there once the flush is over.
    let before = read(&brokers().await, &topic).await.len();
    tokio::time::timeout(PATIENCE, writer.write(&batch))
        .await
        .unwrap()
        .unwrap();
    let after = read(&brokers().await, &topic).await.len();
    assert_eq!(after - before, 200);
}

#[tokio::test]
async fn closing_writes_what_was_accepted_and_refuses_the_rest() {
    let kafka = settings().await.queue_messages(100).build().unwrap();
    let topic = topic(&kafka, "closing", 2).await;
    let writer = kafka.writer();
    let written = Arc::new(watch::Sender::new(0));
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let (writer, topic, written) = (writer.clone(), topic.clone(), written.clone());
            tokio::spawn(async move {
                let mut numbers = Vec::new();
                for n in 0.. {
                    let number = n * 20 + task;
                    match writer.write(&[numbered(&topic, None, number)]).await {
                        Ok(()) => {
                            written.send_modify(|written| *written += 1);
                            numbers.push(number);
                        }
                        Err(error) => {
                            assert_eq!(error.failures()[0].1.kind(), ErrorKind::Closed);
                            break;
                        }
                    }
                }
                numbers
            })
        })
        .collect();
    let mut enough = written.subscribe();
    let enough = enough.wait_for(|written| *written >= 500);
    tokio::time::timeout(PATIENCE, enough)
        .await
        .unwrap()
        .unwrap();
    let closes = (0..3).map(|_| {
        let writer = writer.clone();
        tokio::spawn(async move { writer.close().await })
    });
    for close in closes.collect::<Vec<_>>() {
        tokio::time::timeout(PATIENCE, close)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
    let mut accepted = Vec::new();
    for task in tasks {
        accepted.extend(tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap());
    }
    assert_once(&read(&brokers().await, &topic).await, accepted);
    writer.close().await.unwrap();
    writer.flush().await.unwrap();
    let error = writer
        .write_in_transaction(&[numbered(&topic, None, 0)])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    // Another writer of the driver is not closed.
    kafka
        .writer()
        .write(&[numbered(&topic, None, 0)])
        .await
        .unwrap();
}

#[tokio::test]
async fn closing_waits_for_writes_nobody_waits_for() {
    let kafka = settings()
        .await
        .linger(Duration::from_millis(300))
        .build()
        .unwrap();
    let topic = topic(&kafka, "unawaited", 1).await;
    let writer = kafka.writer();
    writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
    let batch: Vec<_> = (1..100).map(|n| numbered(&topic, None, n)).collect();
    {
        let mut write = writer.write(&batch);
        tokio::select! {
            biased;
            _ = &mut write => panic!("it lingers"),
            () = std::future::ready(()) => {}
        }
    }
    writer.close().await.unwrap();
    assert_once(&read(&brokers().await, &topic).await, 0..100);
}

//! Groups whose members come and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use streams_core::{Bus, Delivery, Driver, Message, ReadOptions, Received};
use streams_kafka::{KafkaOptions, NewTopics};

use crate::support::{
    Arrived, MANY, PATIENCE, kafka, shut_down, subscribe, take, topic, until, write,
};

/// Members come and go every 300 ms while messages are written, and nothing is lost; committed
/// positions never go back.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_storm_loses_nothing() {
    let quick = std::env::var("STREAMS_KIT_QUICK").is_ok();
    let storm = Duration::from_secs(if quick { 6 } else { 60 });
    let kafka = kafka().await;
    let stream = topic(&kafka, "storm", &NewTopics::new(6)).await;
    let arrived = Arrived::default();
    let member = || async {
        let bus = Bus::new(kafka.clone());
        let arrived = arrived.clone();
        bus.subscribe_stream(&stream, move |message, _| {
            let arrived = arrived.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                arrived.add(&message);
            }
        })
        .group(stream.as_str())
        .concurrency(4)
        .max_in_flight(32)
        .register()
        .unwrap();
        bus.start().await.unwrap();
        bus
    };
    let writing = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn({
        let (kafka, stream, writing) = (kafka.clone(), stream.clone(), writing.clone());
        async move {
            let mut written = 0;
            while writing.load(Ordering::Relaxed) {
                let batch: Vec<_> = (written..written + 10)
                    .map(|i| {
                        let message = Message::builder(&stream).key(format!("key-{}", i % 40));
                        message.data(i.to_string()).build().unwrap()
                    })
                    .collect();
                kafka.writer().write(&batch).await.unwrap();
                written += 10;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            written
        }
    });
    let mut members = vec![member().await];
    let mut positions = HashMap::<usize, u64>::new();
    let started = Instant::now();
    let mut step = 0;
    while started.elapsed() < storm {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if members.len() < 2 || (members.len() < 5 && step % 3 != 2) {
            members.push(member().await);
        } else {
            let leaving = members.remove(step % members.len());
            tokio::spawn(async move { shut_down(&leaving).await });
        }
        step += 1;
        let committed = kafka.committed(stream.as_str(), &stream).await.unwrap();
        for (partition, position) in committed.into_iter().enumerate() {
            let position = position.unwrap_or(0);
            let last = positions.entry(partition).or_default();
            assert!(
                position >= *last,
                "partition {partition} went back from {last} to {position}"
            );
            *last = position;
        }
    }
    writing.store(false, Ordering::Relaxed);
    let written = writer.await.unwrap();
    arrived.wait(written).await;
    until("all is committed", || {
        members.iter().all(|bus| bus.activity().in_flight == 0)
    })
    .await;
    for member in &members {
        shut_down(member).await;
    }
    let committed = kafka.committed(stream.as_str(), &stream).await.unwrap();
    assert_eq!(committed.iter().flatten().sum::<u64>(), written as u64);
}

/// A handler that runs when its partition is to go finishes, and is committed, before it goes.
#[tokio::test(flavor = "multi_thread")]
async fn running_handlers_finish_before_their_partition_goes() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "finish", &NewTopics::new(2)).await;
    write(&kafka, &stream, 40, 40).await;
    let arrived = Arrived::default();
    let join = || async {
        let bus = Bus::new(kafka.clone());
        let arrived = arrived.clone();
        bus.subscribe_stream(&stream, move |message, _| {
            let arrived = arrived.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                arrived.add(&message);
            }
        })
        .group(stream.as_str())
        .concurrency(2)
        .register()
        .unwrap();
        bus.start().await.unwrap();
        bus
    };
    let first = join().await;
    arrived.wait(4).await;
    let second = join().await;
    arrived.wait(40).await;
    let report = (shut_down(&first).await, shut_down(&second).await);
    // Each exactly once: what ran was committed, what had not begun went with the partition.
    let mut all = arrived.all();
    all.sort_unstable();
    assert_eq!(all, (0..40).collect::<Vec<_>>());
    assert!(report.1.subscriptions[0].acknowledged > 0);
}

/// A static member that comes back gets its partitions back, and the other member never loses or
/// gains one.
#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_comes_back_without_a_rebalance() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "static", &NewTopics::new(2)).await;
    let options = |id: &str| {
        let mut options = ReadOptions::new(&stream)
            .unwrap()
            .group(stream.as_str())
            .unwrap();
        options.driver.insert(KafkaOptions::new().instance_id(id));
        options
    };
    let mut stays = subscribe(&kafka, &options("stays")).await;
    let mut leaves = subscribe(&kafka, &options("leaves")).await;
    let mut held = [0, 0];
    // Until each has one of the two partitions.
    let settle = async {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        while held != [1, 1] {
            let (received, member) = tokio::select! {
                received = stays.receive(MANY, &mut a) => (received, 0),
                received = leaves.receive(MANY, &mut b) => (received, 1),
            };
            match received.unwrap() {
                Received::Assigned(partitions) => held[member] += partitions.len(),
                Received::Revoking(partitions) | Received::Lost(partitions) => {
                    held[member] -= partitions.len();
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, settle).await.unwrap();
    leaves.close().await.unwrap();
    let mut leaves = subscribe(&kafka, &options("leaves")).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let back = async {
        tokio::select! {
            received = leaves.receive(MANY, &mut a) => received.unwrap(),
            received = stays.receive(MANY, &mut b) => panic!("{received:?}"),
        }
    };
    let back = tokio::time::timeout(PATIENCE, back).await.unwrap();
    assert!(
        matches!(&back, Received::Assigned(partitions) if partitions.len() == 1),
        "{back:?}"
    );
    stays.close().await.unwrap();
    leaves.close().await.unwrap();
}

/// What is settled after its partition went is reported as lost, and comes again elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_of_a_partition_that_went_is_reported_lost() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "went", &NewTopics::new(2)).await;
    write(&kafka, &stream, 40, 40).await;
    let options = ReadOptions::new(&stream)
        .unwrap()
        .group(stream.as_str())
        .unwrap();
    let mut first = subscribe(&kafka, &options).await;
    let deliveries = take(&mut *first, 40).await;
    // One of the two partitions moves.
    let mut second = subscribe(&kafka, &options).await;
    let (mut more, mut again) = (Vec::new(), Vec::new());
    let mut went = None;
    let moved = async {
        while again.is_empty() {
            tokio::select! {
                received = first.receive(MANY, &mut more) => {
                    if let Received::Revoking(going) = received.unwrap() {
                        assert_eq!(going.len(), 1);
                        went = Some(going[0]);
                    }
                }
                received = second.receive(MANY, &mut again) => {
                    received.unwrap();
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.unwrap();
    let went = went.unwrap();
    let of_it = |id: streams_core::TokenId| id.partition == went.partition;
    let ids: Vec<_> = deliveries.iter().map(|d| d.token.id()).collect();
    let mut settlements: Vec<_> = deliveries.into_iter().map(Delivery::ack).collect();
    let mut report = first.settle(&mut settlements).await.unwrap();
    let mut expected: Vec<_> = ids.into_iter().filter(|id| of_it(*id)).collect();
    expected.sort_unstable();
    report.lost.sort_unstable();
    assert_eq!(report.lost, expected);
    assert!(again.iter().all(|d| of_it(d.token.id())));
    first.close().await.unwrap();
    second.close().await.unwrap();
}

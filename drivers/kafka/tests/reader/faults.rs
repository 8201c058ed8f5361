//! Brokers that die, are not there, or refuse. Each test has a broker of its own.

use std::time::{Duration, Instant};

use streams_core::{Bus, Driver, ErrorKind, ReadOptions};
use streams_kafka::{Kafka, NewTopics};

use crate::support::{
    Arrived, PATIENCE, brokers, committed, kafka, on, own_broker, settings, shut_down, topic,
    unique, write,
};

fn counting(bus: &Bus<Kafka>, stream: &streams_core::StreamName, arrived: &Arrived) {
    let arrived = arrived.clone();
    bus.subscribe_stream(stream, move |message, _| {
        let arrived = arrived.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            arrived.add(&message);
        }
    })
    .group(stream.as_str())
    .concurrency(4)
    .max_in_flight(64)
    .register()
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_it_is_read_loses_nothing() {
    let broker = own_broker().await;
    let kafka = settings(&broker.address()).build().unwrap();
    let stream = topic(&kafka, "killed", &NewTopics::new(3)).await;
    write(&kafka, &stream, 3000, 50).await;
    let bus = Bus::new(kafka.clone());
    let arrived = Arrived::default();
    counting(&bus, &stream, &arrived);
    bus.start().await.unwrap();
    for part in [500, 1500] {
        arrived.wait(part).await;
        on(&broker, |broker| {
            broker.kill();
            broker.restart().unwrap();
            broker.wait_ready().unwrap();
        })
        .await;
    }
    arrived.wait(3000).await;
    // And all of it is acknowledged, by whoever holds the partitions in the end.
    committed(&kafka, stream.as_str(), &stream, 3000).await;
    shut_down(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_waited_for() {
    let broker = own_broker().await;
    let kafka = settings(&broker.address()).build().unwrap();
    let stream = topic(&kafka, "hangs", &NewTopics::new(1)).await;
    write(&kafka, &stream, 1000, 50).await;
    let bus = Bus::new(kafka.clone());
    let arrived = Arrived::default();
    counting(&bus, &stream, &arrived);
    bus.start().await.unwrap();
    arrived.wait(200).await;
    on(&broker, streams_services::Kafka::pause).await;
    // Longer than the session: the group gives the member up meanwhile.
    tokio::time::sleep(Duration::from_secs(8)).await;
    on(&broker, streams_services::Kafka::resume).await;
    arrived.wait(1000).await;
    shut_down(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_an_error_within_the_deadline() {
    let kafka = Kafka::builder("127.0.0.1:1")
        .connect_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let started = Instant::now();
    let options = ReadOptions::new("orders").unwrap().group("g").unwrap();
    let Err(error) = kafka.reader().subscribe(&options).await else {
        panic!("there is no broker");
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_retryable());
    assert!(started.elapsed() < Duration::from_secs(5), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_waits_for_a_broker_that_comes_later() {
    let broker = own_broker().await;
    let kafka = settings(&broker.address()).build().unwrap();
    let stream = topic(&kafka, "later", &NewTopics::new(1)).await;
    write(&kafka, &stream, 10, 1).await;
    on(&broker, streams_services::Kafka::kill).await;
    let kafka = settings(&broker.address())
        .connect_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let bus = Bus::new(kafka);
    let arrived = Arrived::default();
    counting(&bus, &stream, &arrived);
    let starting = tokio::spawn({
        let bus = bus.clone();
        async move { bus.start().await }
    });
    on(&broker, |broker| broker.restart().unwrap()).await;
    starting.await.unwrap().unwrap();
    arrived.wait(10).await;
    shut_down(&bus).await;
}

#[tokio::test]
async fn an_unknown_topic_is_not_found() {
    let kafka = kafka().await;
    let options = ReadOptions::new(unique("unknown")).unwrap();
    let Err(error) = kafka.reader().subscribe(&options).await else {
        panic!("there is no such topic");
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!error.is_retryable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_while_it_is_read_ends_the_subscription() {
    let kafka = settings(&brokers().await)
        // How long the client waits whether a topic that is gone comes back; by default 30 s.
        .property("topic.metadata.propagation.max.ms", "1000")
        .build()
        .unwrap();
    let stream = topic(&kafka, "deleted", &NewTopics::new(1)).await;
    write(&kafka, &stream, 10, 1).await;
    let bus = Bus::new(kafka.clone());
    let arrived = Arrived::default();
    counting(&bus, &stream, &arrived);
    bus.start().await.unwrap();
    arrived.wait(10).await;
    kafka.delete_topic(&stream).await.unwrap();
    let failed = tokio::time::timeout(PATIENCE, bus.failed());
    let error = failed.await.expect("the bus says that the topic is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    shut_down(&bus).await;
}

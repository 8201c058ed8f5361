//! Other ways to share partitions out: eager strategies, and assignment by the brokers (KIP-848).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{Bus, Delivery, ErrorKind, ReadOptions, StartFrom, StreamName};
use streams_kafka::{Kafka, KafkaControl, KafkaOptions, NewTopics};

use crate::logs::logged;
use crate::support::{
    Arrived, MANY, PATIENCE, brokers, committed, number, settings, shut_down, subscribe, take,
    topic, until, write, write_range,
};

const PARTITIONS: u32 = 2;
const KEYS: usize = 20;

/// The last number of each key, and what came too early.
#[derive(Default)]
struct Order {
    last: HashMap<usize, usize>,
    wrong: Vec<String>,
}

impl Order {
    /// Again is fine: what was handled beyond a message that was not comes again with it.
    fn add(&mut self, number: usize) {
        let key = number % KEYS;
        let next = self.last.get(&key).map_or(key, |last| last + KEYS);
        if number > next {
            self.wrong.push(format!("{number} came instead of {next}"));
        }
        let last = self.last.entry(key).or_default();
        *last = number.max(*last);
    }
}

struct Member {
    bus: Bus<Kafka>,
    control: KafkaControl,
}

impl Member {
    async fn join(
        kafka: &Kafka,
        stream: &StreamName,
        arrived: &Arrived,
        order: &Arc<Mutex<Order>>,
    ) -> Self {
        let bus = Bus::new(kafka.clone());
        let control = KafkaControl::new();
        let (arrived, order) = (arrived.clone(), order.clone());
        bus.subscribe_stream(stream, move |message, _| {
            let (arrived, order) = (arrived.clone(), order.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                order.lock().unwrap().add(number(&message));
                arrived.add(&message);
            }
        })
        .group(stream.as_str())
        .concurrency(4)
        .option(KafkaOptions::new().control(&control))
        .register()
        .unwrap();
        bus.start().await.unwrap();
        Self { bus, control }
    }
}

/// Members come and go while messages are written: nothing is lost, those of a key come in order, and
/// each time each member gets its part.
async fn members_come_and_go(kafka: &Kafka, what: &str) {
    let stream = topic(kafka, what, &NewTopics::new(PARTITIONS)).await;
    let (arrived, order) = (Arrived::default(), Arc::new(Mutex::new(Order::default())));
    let writing = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn({
        let (kafka, stream, writing) = (kafka.clone(), stream.clone(), writing.clone());
        async move {
            let mut written = 0;
            while writing.load(Ordering::Relaxed) {
                write_range(&kafka, &stream, written..written + KEYS, KEYS).await;
                written += KEYS;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            written
        }
    });
    let mut members = Vec::new();
    // For a while there is one too many.
    for joins in [true, true, true, false, true, false, false] {
        if joins {
            members.push(Member::join(kafka, &stream, &arrived, &order).await);
        } else {
            shut_down(&members.remove(0).bus).await;
        }
        until(
            &format!("{} members share the partitions", members.len()),
            || {
                let held = members.iter().map(|member| member.control.partitions());
                let held: Vec<_> = held.filter(|held| !held.is_empty()).collect();
                let mut all = held.concat();
                all.sort_unstable();
                all.into_iter().eq(0..PARTITIONS) && held.len() == members.len().min(2)
            },
        )
        .await;
        let before = arrived.distinct();
        arrived.wait(before + 100).await;
    }
    writing.store(false, Ordering::Relaxed);
    let written = writer.await.unwrap();
    arrived.wait(written).await;
    committed(kafka, stream.as_str(), &stream, written).await;
    for member in members {
        shut_down(&member.bus).await;
    }
    assert_eq!(order.lock().unwrap().wrong, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn eager_members_come_and_go() {
    let kafka = settings(&brokers().await)
        .property("partition.assignment.strategy", "range")
        .build()
        .unwrap();
    members_come_and_go(&kafka, "range").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_the_brokers_assign_to_come_and_go() {
    logged();
    // Members are told with their heartbeats what to give up; by default these come every 5 s.
    let start = || {
        streams_services::Kafka::builder()
            .property("group.consumer.min.heartbeat.interval.ms", 500)
            .property("group.consumer.heartbeat.interval.ms", 500)
            .start()
            .unwrap()
    };
    let broker = tokio::task::spawn_blocking(start).await.unwrap();
    let kafka = Kafka::builder(broker.address())
        .property("group.protocol", "consumer")
        .build()
        .unwrap();
    members_come_and_go(&kafka, "assigned-by-brokers").await;
}

/// The brokers decide on what these say.
#[test]
fn what_the_brokers_decide_cannot_be_set() {
    for (name, value) in [
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "500"),
        ("partition.assignment.strategy", "range"),
    ] {
        let kafka = Kafka::builder("127.0.0.1:9092")
            .property("group.protocol", "consumer")
            .property(name, value);
        let error = kafka.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error} {source:?}");
        assert!(text.contains(name), "{text}");
    }
}

/// As with the members' own protocol, nothing that is written from the start on is skipped. But here
/// a static member is not pushed out: the second one under its name waits until it has gone.
#[tokio::test]
async fn a_static_member_the_brokers_assign_to_keeps_its_place() {
    let kafka = Kafka::builder(brokers().await)
        .property("group.protocol", "consumer")
        .build()
        .unwrap();
    let stream = topic(&kafka, "unreleased", &NewTopics::new(1)).await;
    write(&kafka, &stream, 10, 1).await;
    let mut options = ReadOptions::new(&stream)
        .unwrap()
        .group(stream.as_str())
        .unwrap()
        .start_from(StartFrom::Latest);
    options
        .driver
        .insert(KafkaOptions::new().instance_id("the-only"));
    let mut first = subscribe(&kafka, &options).await;
    write_range(&kafka, &stream, 10..20, 1).await;
    let deliveries = take(&mut *first, 10).await;
    assert_eq!(number(&deliveries[0].message), 10);

    let mut second = subscribe(&kafka, &options).await;
    let received = tokio::time::timeout(PATIENCE, second.receive(MANY, &mut Vec::new())).await;
    let error = received.expect("the second is told").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.is_retryable());
    assert!(error.to_string().contains("instance id"), "{error}");
    second.close().await.unwrap();

    // The first has noticed nothing.
    let mut settlements: Vec<_> = deliveries.into_iter().take(5).map(Delivery::ack).collect();
    assert_eq!(first.settle(&mut settlements).await.unwrap().lost, []);
    first.close().await.unwrap();
    let mut second = subscribe(&kafka, &options).await;
    let deliveries = take(&mut *second, 5).await;
    assert_eq!(number(&deliveries[0].message), 15);
    second.close().await.unwrap();
}

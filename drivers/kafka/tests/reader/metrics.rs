//! What is measured of a subscription.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use streams_core::{Bus, Driver as _, ReadOptions, StartFrom, StreamName};
use streams_kafka::metrics::{IN_FLIGHT, LAG, PREFETCHED};
use streams_kafka::{Kafka, KafkaOptions, NewTopics};
use tokio::sync::Semaphore;

use crate::support::{Arrived, PATIENCE, kafka, next, shut_down, subscribe, topic, until, write};

/// The gauges of this process, by their keys. The client's threads set them, so that those of one
/// thread would not do.
static GAUGES: Mutex<BTreeMap<Key, Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());

struct Gauges;

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut gauges = GAUGES.lock().unwrap();
        Gauge::from_arc(gauges.entry(key.clone()).or_default().clone())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn record() {
    static RECORDS: Once = Once::new();
    RECORDS.call_once(|| metrics::set_global_recorder(Gauges).unwrap());
}

/// A gauge by partition, of those with just these labels.
fn gauges(name: &str, stream: &StreamName, group: &str) -> BTreeMap<u32, f64> {
    let mut found = BTreeMap::new();
    for (key, value) in &*GAUGES.lock().unwrap() {
        let labels: BTreeMap<_, _> = key.labels().map(|l| (l.key(), l.value())).collect();
        if key.name() == name
            && labels.len() == 3
            && labels.get("stream") == Some(&stream.as_str())
            && labels.get("group") == Some(&group)
        {
            let partition = labels["partition"].parse().unwrap();
            found.insert(partition, f64::from_bits(value.load(Ordering::SeqCst)));
        }
    }
    found
}

fn sum(name: &str, stream: &StreamName, group: &str) -> f64 {
    gauges(name, stream, group).values().sum()
}

fn often() -> KafkaOptions {
    KafkaOptions::new().statistics_interval(Duration::from_millis(100))
}

/// How many messages each partition has.
async fn ends(kafka: &Kafka, stream: &StreamName) -> BTreeMap<u32, f64> {
    let mut ends = BTreeMap::new();
    for partition in 0..2 {
        let (_, end) = kafka.watermarks(stream, partition).await.unwrap();
        ends.insert(partition, f64::from(u32::try_from(end).unwrap()));
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_what_is_not_handled_and_goes_to_zero() {
    record();
    let kafka = kafka().await;
    let stream = topic(&kafka, "measured", &NewTopics::new(2)).await;
    let group = format!("{stream}-group");
    write(&kafka, &stream, 40, 40).await;
    let bus = Bus::new(kafka.clone());
    let (arrived, gate) = (Arrived::default(), Arc::new(Semaphore::new(0)));
    let (handler, passes) = (arrived.clone(), gate.clone());
    bus.subscribe_stream(&stream, move |message, _| {
        let (arrived, gate) = (handler.clone(), passes.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            arrived.add(&message);
        }
    })
    .group(&group)
    .max_in_flight(5)
    .option(often())
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let ends = ends(&kafka, &stream).await;

    // Nothing is handled yet, not even by an earlier member.
    until("all is lag", || gauges(LAG, &stream, &group) == ends).await;
    until("what is in flight and what waits is told apart", || {
        sum(IN_FLIGHT, &stream, &group) == 5.0 && sum(PREFETCHED, &stream, &group) == 35.0
    })
    .await;
    gate.add_permits(10);
    arrived.wait(10).await;
    // Of which up to four may stand beyond one that is still in flight.
    until("the positions move", || sum(LAG, &stream, &group) <= 34.0).await;
    let mut left = BTreeMap::new();
    let agrees = async {
        while left.is_empty() || gauges(LAG, &stream, &group) != left {
            let positions = kafka.committed(&group, &stream).await.unwrap();
            left = ends.clone();
            for (partition, end) in &mut left {
                *end -= positions[*partition as usize].unwrap_or(0) as f64;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, agrees).await.is_ok(),
        "{left:?}"
    );
    assert!((30.0..=34.0).contains(&left.values().sum()), "{left:?}");
    gate.add_permits(30);
    for name in [LAG, IN_FLIGHT, PREFETCHED] {
        until(&format!("{name} is zero"), || {
            gauges(name, &stream, &group).values().eq(&[0.0, 0.0])
        })
        .await;
    }
    // Also of what comes later.
    gate.add_permits(20);
    write(&kafka, &stream, 20, 20).await;
    arrived.wait(40).await;
    until("nothing is left", || {
        arrived.all().len() == 60 && sum(LAG, &stream, &group) == 0.0
    })
    .await;
    shut_down(&bus).await;
}

/// The brokers' own records, by which transactions end, have offsets too.
#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_transactions_are_no_lag() {
    record();
    let kafka = kafka().await;
    let stream = topic(&kafka, "markers", &NewTopics::new(1)).await;
    let batch: Vec<_> = (0..10)
        .map(|i| {
            streams_core::Message::builder(&stream)
                .data(i.to_string())
                .build()
                .unwrap()
        })
        .collect();
    kafka.writer().write_in_transaction(&batch).await.unwrap();
    let bus = Bus::new(kafka.clone());
    let (arrived, gate) = (Arrived::default(), Arc::new(Semaphore::new(0)));
    let (handler, passes) = (arrived.clone(), gate.clone());
    bus.subscribe_stream(&stream, move |message, _| {
        let (arrived, gate) = (handler.clone(), passes.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            arrived.add(&message);
        }
    })
    .group(stream.as_str())
    .option(often())
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let lag = || gauges(LAG, &stream, stream.as_str()).get(&0).copied();
    until("there is lag", || lag().is_some_and(|lag| lag >= 10.0)).await;
    gate.add_permits(10);
    until("it is gone", || lag() == Some(0.0)).await;
    assert_eq!(arrived.distinct(), 10);
    shut_down(&bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_read_is_not_measured_on() {
    record();
    let kafka = kafka().await;
    let stream = topic(&kafka, "closed", &NewTopics::new(2)).await;
    write(&kafka, &stream, 40, 40).await;
    let ends = ends(&kafka, &stream).await;
    for group in ["", stream.as_str()] {
        let mut options = ReadOptions::new(&stream)
            .unwrap()
            .start_from(StartFrom::Earliest);
        if !group.is_empty() {
            options = options.group(group).unwrap();
        }
        options.driver.insert(often());
        let mut subscription = subscribe(&kafka, &options).await;
        next(&mut *subscription).await;
        until("all is lag", || gauges(LAG, &stream, group) == ends).await;
        subscription.close().await.unwrap();
        for name in [LAG, IN_FLIGHT, PREFETCHED] {
            until(&format!("{name} of {group:?} is zero"), || {
                gauges(name, &stream, group).values().eq(&[0.0, 0.0])
            })
            .await;
        }
    }
}

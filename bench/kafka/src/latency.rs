//! From publish to handled, at a thousand messages a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use streams_bench::SIZE;
use streams_core::{Bus, Driver as _, Message, StartFrom, StreamName, ksuid};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::setup::{Setup, headers};

/// Messages of one turn, one each millisecond.
const MESSAGES: u64 = 5_000;
/// Those of the start, which do not count.
const WARM_UP: u64 = 500;
const TURNS: usize = 5;

/// The p99 beyond that of the raw client, in milliseconds: the median of the turns.
pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let topic = setup.topic(1);
    let mut turns: Vec<_> = (0..TURNS)
        .map(|_| {
            let raw = setup.runtime.block_on(raw(setup, &topic));
            let ours = setup.runtime.block_on(ours(setup, &topic));
            (raw, ours)
        })
        .collect();
    setup.delete(&topic);
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    let beyond = |(raw, ours): &([Duration; 2], [Duration; 2])| millis(ours[1]) - millis(raw[1]);
    turns.sort_by(|a, b| beyond(a).total_cmp(&beyond(b)));
    let (raw, ours) = turns[TURNS / 2];
    let note = format!(
        "p50 {:.2} ms, p99 {:.2} ms; raw p50 {:.2} ms, p99 {:.2} ms",
        millis(ours[0]),
        millis(ours[1]),
        millis(raw[0]),
        millis(raw[1]),
    );
    (beyond(&(raw, ours)), note)
}

/// The message's data: when it was sent, from the start of the run.
fn data(start: Instant) -> Vec<u8> {
    let mut data = vec![b'x'; SIZE];
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(0);
    data[..8].copy_from_slice(&nanos.to_le_bytes());
    data
}

fn took(start: Instant, data: &[u8]) -> Duration {
    let mut sent = [0; 8];
    sent.copy_from_slice(&data[..8]);
    start
        .elapsed()
        .saturating_sub(Duration::from_nanos(u64::from_le_bytes(sent)))
}

/// The median and the p99.
async fn percentiles(mut measured: mpsc::UnboundedReceiver<Duration>) -> [Duration; 2] {
    let mut all = Vec::new();
    while (all.len() as u64) < MESSAGES {
        all.push(measured.recv().await.expect("all arrive"));
    }
    let mut all = all.split_off(usize::try_from(WARM_UP).unwrap_or(0));
    all.sort_unstable();
    [all[all.len() / 2], all[all.len() * 99 / 100]]
}

async fn every_millisecond(mut send: impl FnMut()) {
    let mut tick = interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..MESSAGES {
        tick.tick().await;
        send();
    }
}

async fn ours(setup: &Setup, topic: &StreamName) -> [Duration; 2] {
    let start = Instant::now();
    let bus = Bus::new(setup.kafka.clone());
    let (measure, measured) = mpsc::unbounded_channel();
    bus.subscribe_stream(topic, move |message: Message, _| {
        let _ = measure.send(took(start, message.data()));
        std::future::ready(())
    })
    .start_from(StartFrom::Latest)
    .register()
    .expect("a valid subscription");
    bus.start().await.expect("the bus starts");
    let writer = setup.kafka.writer();
    every_millisecond(|| {
        let message = Message::builder(topic).key("key").data(data(start)).build();
        let (message, writer) = (message.expect("valid"), writer.clone());
        tokio::spawn(async move { writer.write(&[message]).await.expect("written") });
    })
    .await;
    let measured = percentiles(measured).await;
    bus.shutdown(Duration::from_secs(10)).await;
    measured
}

async fn raw(setup: &Setup, topic: &StreamName) -> [Duration; 2] {
    let start = Instant::now();
    let consumer: StreamConsumer = setup
        .raw()
        .set("group.id", ksuid().expect("an id").as_str())
        .create()
        .expect("a consumer");
    let mut begin = rdkafka::TopicPartitionList::new();
    begin
        .add_partition_offset(topic.as_str(), 0, rdkafka::Offset::End)
        .expect("a valid offset");
    consumer.assign(&begin).expect("assigned");
    let (measure, measured) = mpsc::unbounded_channel();
    let ready = Arc::new(AtomicBool::new(false));
    let seen = ready.clone();
    let reading = tokio::spawn(async move {
        let mut left = MESSAGES;
        while left > 0 {
            let record = consumer.recv().await.expect("a message");
            let data = record.payload().expect("data");
            // The first ones only show that it reads.
            if seen.swap(true, Ordering::Relaxed) && data.len() == SIZE {
                let _ = measure.send(took(start, data));
                left -= 1;
            }
        }
        tokio::task::spawn_blocking(move || drop(consumer))
            .await
            .expect("dropped");
    });
    let producer: ThreadedProducer<DefaultProducerContext> = setup
        .raw()
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer");
    while !ready.load(Ordering::Relaxed) {
        let record = BaseRecord::<[u8], [u8]>::to(topic.as_str()).payload(b"?");
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    every_millisecond(|| {
        let data = data(start);
        let id = streams_core::uuid_v7().expect("an id");
        let record = BaseRecord::<[u8], [u8]>::to(topic.as_str())
            .key(b"key")
            .payload(&data)
            .headers(headers(id.as_str()));
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("sent");
    })
    .await;
    let measured = percentiles(measured).await;
    reading.await.expect("reading does not panic");
    tokio::task::spawn_blocking(move || drop(producer))
        .await
        .expect("dropped");
    measured
}

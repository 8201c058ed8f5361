//! Reading.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, Message as _};
use streams_bench::pairs::compare;
use streams_core::{Bus, Driver as _, StartFrom, StreamName, ksuid};

use crate::produce::per_second;
use crate::setup::{Setup, message};

/// Messages each side reads in a turn.
const MESSAGES: usize = 500_000;

pub(crate) fn measure(setup: &Setup, partitions: u32) -> (f64, String) {
    let topic = filled(setup, partitions, MESSAGES);
    // Against each of the raw consumers; the lesser ratio counts.
    let base = compare(|| read_base(setup, &topic, ignore), || read(setup, &topic));
    let stream = compare(|| read_stream(setup, &topic), || read(setup, &topic));
    // And against one that takes out of each record what a message holds.
    let alike = compare(|| read_base(setup, &topic, take), || read(setup, &topic));
    setup.delete(&topic);
    let rate = |took| per_second(MESSAGES, took);
    let note = format!(
        "{} messages/s; raw BaseConsumer {} (ratio {:.2}), raw StreamConsumer {} (ratio {:.2}), \
             raw BaseConsumer that reads key, value and headers {} (ratio {:.2})",
        rate(base.b),
        rate(base.a),
        base.ratio,
        rate(stream.a),
        stream.ratio,
        rate(alike.a),
        alike.ratio,
    );
    (base.ratio.min(stream.ratio), note)
}

/// A topic with messages in it.
pub(crate) fn filled(setup: &Setup, partitions: u32, count: usize) -> StreamName {
    let topic = setup.topic(partitions);
    setup.runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for part in 0..8 {
            let (writer, topic) = (setup.kafka.writer(), topic.clone());
            writers.spawn(async move {
                let numbers: Vec<_> = (0..count).filter(|i| i % 8 == part).collect();
                for chunk in numbers.chunks(1000) {
                    let batch: Vec<_> = chunk.iter().map(|i| message(&topic, *i)).collect();
                    writer.write(&batch).await.expect("written");
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.expect("writing does not panic");
        }
    });
    topic
}

/// From the first message handled to the last, through a bus with a handler that does nothing.
fn read(setup: &Setup, topic: &StreamName) -> Duration {
    setup.runtime.block_on(async {
        let bus = Bus::new(setup.kafka.clone());
        let count = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let first = Arc::new(AtomicU64::new(u64::MAX));
        let (tell, all) = tokio::sync::oneshot::channel();
        let tell = Arc::new(std::sync::Mutex::new(Some(tell)));
        let (counted, begun) = (count.clone(), first.clone());
        bus.subscribe_stream(topic, move |_, _| {
            let at = counted.fetch_add(1, Ordering::Relaxed);
            if at == 0 {
                let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(0);
                begun.store(nanos, Ordering::Relaxed);
            } else if at == MESSAGES - 1
                && let Some(tell) = tell.lock().expect("not poisoned").take()
            {
                let _ = tell.send(started.elapsed());
            }
            std::future::ready(())
        })
        .group(ksuid().expect("an id").as_str())
        .start_from(StartFrom::Earliest)
        .register()
        .expect("a valid subscription");
        bus.start().await.expect("the bus starts");
        let ended = all.await.expect("all are handled");
        bus.shutdown(Duration::from_secs(10)).await;
        ended - Duration::from_nanos(first.load(Ordering::Relaxed))
    })
}

fn group(setup: &Setup) -> ClientConfig {
    let mut config = setup.raw();
    config
        .set("group.id", ksuid().expect("an id").as_str())
        .set("auto.offset.reset", "earliest")
        // What the driver sets.
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "5");
    config
}

/// Looks at nothing of a record.
fn ignore(_: &BorrowedMessage<'_>) {}

/// Copies what a handler is given of a record.
fn take(record: &BorrowedMessage<'_>) {
    black_box(record.key().map(<[u8]>::to_vec));
    black_box(record.payload().map(<[u8]>::to_vec));
    let headers = record.headers().into_iter().flat_map(Headers::iter);
    for header in headers {
        black_box(header.value.map(<[u8]>::to_vec));
    }
}

fn read_base(setup: &Setup, topic: &StreamName, handle: impl Fn(&BorrowedMessage<'_>)) -> Duration {
    let consumer: BaseConsumer = group(setup).create().expect("a consumer");
    consumer.subscribe(&[topic.as_str()]).expect("subscribed");
    let mut first = None;
    let mut count = 0;
    while count < MESSAGES {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            handle(&message.expect("a message"));
            first.get_or_insert_with(Instant::now);
            count += 1;
        }
    }
    first.expect("messages came").elapsed()
}

fn read_stream(setup: &Setup, topic: &StreamName) -> Duration {
    setup.runtime.block_on(async {
        let consumer: StreamConsumer = group(setup).create().expect("a consumer");
        consumer.subscribe(&[topic.as_str()]).expect("subscribed");
        let mut first = None;
        for _ in 0..MESSAGES {
            consumer.recv().await.expect("a message");
            first.get_or_insert_with(Instant::now);
        }
        let took = first.expect("messages came").elapsed();
        // Leaving the group blocks.
        tokio::task::block_in_place(|| drop(consumer));
        took
    })
}

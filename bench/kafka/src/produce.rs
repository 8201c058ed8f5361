//! Writing.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use streams_bench::pairs::compare;
use streams_core::{Driver as _, Message, StreamName};

use crate::setup::{Setup, headers, message};

/// Messages each side writes in a turn.
const MESSAGES: usize = 200_000;
const BATCH: usize = 500;
/// Writers at once, each with a batch on its way. The raw client's queue holds more than they do.
const WRITERS: usize = 16;

pub(crate) fn measure(setup: &Setup, partitions: u32) -> (f64, String) {
    let topic = setup.topic(partitions);
    // Made before, on both sides: what is measured is writing them.
    let messages: Vec<_> = (0..MESSAGES).map(|i| message(&topic, i)).collect();
    let raw: ThreadedProducer<DefaultProducerContext> = setup
        .raw()
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer");
    let compared = compare(
        || write_raw(&raw, &topic, &messages),
        || write(setup, &messages),
    );
    setup.delete(&topic);
    let note = format!(
        "{} messages/s by {WRITERS} writers, raw ThreadedProducer {}",
        per_second(MESSAGES, compared.b),
        per_second(MESSAGES, compared.a),
    );
    (compared.ratio, note)
}

fn write(setup: &Setup, messages: &[Message]) -> Duration {
    let share = messages.len() / WRITERS;
    let writer = setup.kafka.writer();
    setup.runtime.block_on(async {
        let start = Instant::now();
        let mut writers = tokio::task::JoinSet::new();
        for part in messages.chunks(share) {
            let (part, writer) = (part.to_vec(), writer.clone());
            writers.spawn(async move {
                for batch in part.chunks(BATCH) {
                    writer.write(batch).await.expect("written");
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.expect("writing does not panic");
        }
        start.elapsed()
    })
}

fn write_raw(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &StreamName,
    messages: &[Message],
) -> Duration {
    let start = Instant::now();
    for message in messages {
        let key = message.key().map_or(&[][..], |key| key.as_bytes());
        let mut record = BaseRecord::<[u8], [u8]>::to(topic.as_str())
            .key(key)
            .payload(message.data())
            .headers(headers(message.id().as_str()));
        while let Err((error, again)) = producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            assert_eq!(error, full, "the raw client fails");
            producer.poll(Duration::from_millis(1));
            record = again;
        }
    }
    producer.flush(Duration::from_secs(60)).expect("flushed");
    start.elapsed()
}

pub(crate) fn per_second(messages: usize, took: Duration) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a figure to be read"
    )]
    let rate = (messages as f64 / took.as_secs_f64()) as u64;
    rate
}

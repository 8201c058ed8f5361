//! The partitions a subscription holds, each with a queue of its own.
//!
//! Each partition's messages are split off the consumer's queue. So the thread that serves the
//! consumer (rebalances, heartbeats of `max.poll.interval.ms`) never has to take messages that
//! there is no room for, and backpressure needs no pausing: what is not asked for stays in the
//! client, which stops fetching at `queued.max.messages.kbytes`. Pausing would throw away what is
//! prefetched each time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use streams_core::{AckToken, Assignment, Delivery, Metadata, Result, StreamName, TokenId};

use crate::callbacks::Callbacks;
use crate::consumer::fatal;
use crate::message::Decoder;
use crate::shared::Shared;

/// What the reader's facts are called.
const NAMES: &[&str] = &[
    "streams-kafka-client-id",
    "streams-kafka-group-id",
    "streams-kafka-partition-id",
    "streams-kafka-init-offset",
    "streams-kafka-current-offset",
    "streams-kafka-hwm-offset",
];

/// The facts all deliveries of an assignment share.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) client_id: Arc<str>,
    pub(crate) group: Option<Arc<str>>,
    /// The first offset that was read; -1 before that.
    pub(crate) first: AtomicI64,
    /// Where the partition ends, as far as is known; -1 before anything is.
    pub(crate) high_watermark: AtomicI64,
}

impl Metadata for Facts {
    fn names(&self) -> &'static [&'static str] {
        NAMES
    }

    fn get(&self, name: &str, delivery: TokenId) -> Option<String> {
        Some(match name {
            "streams-kafka-client-id" => self.client_id.to_string(),
            "streams-kafka-group-id" => self.group.as_ref()?.to_string(),
            "streams-kafka-partition-id" => delivery.partition.to_string(),
            "streams-kafka-init-offset" => self.first.load(Ordering::Relaxed).to_string(),
            "streams-kafka-current-offset" => delivery.sequence.to_string(),
            "streams-kafka-hwm-offset" => {
                let known = self.high_watermark.load(Ordering::Relaxed);
                // It is brought up to date now and then; this message shows where it is at least.
                let at_least = delivery.sequence.saturating_add(1);
                u64::try_from(known).unwrap_or(0).max(at_least).to_string()
            }
            _ => return None,
        })
    }
}

/// A partition under one epoch.
pub(crate) struct Partition {
    pub(crate) assignment: Assignment,
    pub(crate) queue: PartitionQueue<Callbacks>,
    /// Whether there may be something in the queue. Set by the client when there comes something
    /// into an empty one.
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) facts: Arc<Facts>,
    /// The next offset that will be read, as far as was delivered.
    pub(crate) delivered: Arc<AtomicI64>,
    /// A bounded read has come to its end here.
    pub(crate) ended: bool,
}

/// The partitions a subscription holds, taken from in turn.
pub(crate) struct Partitions {
    decoder: Decoder,
    until_end: bool,
    held: Vec<Partition>,
    /// How many have gone and not come back yet: without a group all do, for they go to be sought.
    away: usize,
    /// Whose turn it is.
    turn: usize,
}

impl Partitions {
    pub(crate) fn new(stream: StreamName, until_end: bool) -> Self {
        Self {
            decoder: Decoder::new(stream),
            until_end,
            held: Vec::new(),
            away: 0,
            turn: 0,
        }
    }

    pub(crate) fn add(&mut self, partitions: Vec<Partition>) {
        self.away = self.away.saturating_sub(partitions.len());
        self.held.extend(partitions);
    }

    pub(crate) fn remove(&mut self, gone: &[Assignment]) {
        let before = self.held.len();
        self.held.retain(|held| !gone.contains(&held.assignment));
        self.away += before - self.held.len();
    }

    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }

    /// Whether a bounded read has come to its end everywhere.
    pub(crate) fn is_at_end(&self) -> bool {
        self.until_end && self.away == 0 && self.held.iter().all(|partition| partition.ended)
    }

    /// Takes what is there, at most `max`.
    ///
    /// # Errors
    /// A message that is no message at all; everything before it was taken.
    pub(crate) fn take(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<()> {
        let mut left = max.get();
        let count = self.held.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let partition = &mut self.held[at];
            if partition.ended || !partition.ready.swap(false, Ordering::AcqRel) {
                continue;
            }
            let more = partition.take(&mut left, self.until_end, &mut self.decoder, out);
            if more.as_ref().copied().unwrap_or(true) {
                // There is more here: the others come first next time.
                partition.ready.store(true, Ordering::Release);
                self.turn = (at + 1) % count;
                return more.map(drop);
            }
        }
        Ok(())
    }
}

impl Partition {
    /// Splits it off the consumer's queue; `None` if the client has no such partition.
    pub(crate) fn new(
        shared: &Shared,
        consumer: &Arc<BaseConsumer<Callbacks>>,
        number: u32,
        epoch: u32,
    ) -> Option<Self> {
        let mut queue =
            consumer.split_partition_queue(shared.stream.as_str(), i32::try_from(number).ok()?)?;
        let ready = Arc::new(AtomicBool::new(true));
        let flag = ready.clone();
        let context = consumer.context().shared.clone();
        queue.set_nonempty_callback(move || {
            flag.store(true, Ordering::Release);
            context.wake.notify_one();
        });
        Some(Self {
            assignment: Assignment {
                partition: number,
                epoch,
            },
            queue,
            ready,
            facts: Arc::new(Facts {
                client_id: shared.client_id.clone(),
                group: shared.plan.group.as_deref().map(Into::into),
                first: AtomicI64::new(-1),
                high_watermark: AtomicI64::new(-1),
            }),
            delivered: Arc::new(AtomicI64::new(-1)),
            ended: false,
        })
    }

    /// Takes until the queue is empty or nothing is left to take; says whether there may be more.
    fn take(
        &mut self,
        left: &mut usize,
        until_end: bool,
        decoder: &mut Decoder,
        out: &mut Vec<Delivery>,
    ) -> Result<bool> {
        loop {
            if *left == 0 {
                return Ok(true);
            }
            match self.queue.poll(Duration::ZERO) {
                None => return Ok(false),
                Some(Ok(record)) => {
                    let offset = record.offset();
                    let message = decoder.message(&record)?;
                    if self.delivered.swap(offset + 1, Ordering::Relaxed) < 0 {
                        self.facts.first.store(offset, Ordering::Relaxed);
                    }
                    let Assignment { partition, epoch } = self.assignment;
                    let token = AckToken::new(partition, epoch, u64::try_from(offset).unwrap_or(0));
                    out.push(Delivery::new(message, token).metadata(self.facts.clone()));
                    *left -= 1;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    if until_end {
                        self.ended = true;
                        return Ok(false);
                    }
                }
                Some(Err(source)) => match fatal(&source) {
                    Some(error) => {
                        return Err(error.with("partition", self.assignment.partition));
                    }
                    None => tracing::warn!(
                        partition = self.assignment.partition, error = %source,
                        "reading a partition failed; the client tries again"
                    ),
                },
            }
        }
    }
}

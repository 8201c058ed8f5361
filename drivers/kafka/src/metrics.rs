//! Metrics of a subscription, through the `metrics` facade.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use metrics::{Gauge, SharedString, gauge};
use rdkafka::Statistics;

use crate::shared::Shared;

/// How many offsets behind the end of a partition the acknowledged position is, or where reading
/// begins before anything is acknowledged.
pub const LAG: &str = "streams_kafka_lag";
/// Offsets of a partition that were delivered and are not acknowledged.
pub const IN_FLIGHT: &str = "streams_kafka_in_flight";
/// Messages of a partition that the client has fetched and not delivered yet.
pub const PREFETCHED: &str = "streams_kafka_prefetched";

/// The gauges of a subscription's partitions.
pub(crate) struct Gauges {
    stream: SharedString,
    group: SharedString,
    partitions: Mutex<HashMap<u32, OfPartition>>,
}

struct OfPartition {
    lag: Gauge,
    in_flight: Gauge,
    prefetched: Gauge,
}

/// What is no longer read here is no longer measured here.
impl Drop for OfPartition {
    fn drop(&mut self) {
        self.lag.set(0);
        self.in_flight.set(0);
        self.prefetched.set(0);
    }
}

impl Gauges {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            stream: shared.stream.to_string().into(),
            group: shared.plan.group.clone().unwrap_or_default().into(),
            partitions: Mutex::default(),
        }
    }

    /// Takes over what the client measured.
    pub(crate) fn update(&self, shared: &Shared, statistics: &Statistics) {
        let Some(topic) = statistics.topics.get(shared.stream.as_str()) else {
            return;
        };
        let state = shared.lock();
        let mut gauges = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (number, measured) in &topic.partitions {
            let Ok(number) = u32::try_from(*number) else {
                continue; // those of no partition
            };
            let Some(held) = state.held.get(&number) else {
                continue;
            };
            if measured.hi_offset >= 0 {
                held.facts
                    .high_watermark
                    .store(measured.hi_offset, Ordering::Relaxed);
            }
            let of = gauges.entry(number).or_insert_with(|| self.of(number));
            let delivered = held.delivered.load(Ordering::Relaxed);
            // Before anything is acknowledged, where reading began; -1 before that.
            let first = held.facts.first.load(Ordering::Relaxed);
            let mut done = state.commits.settled(number).unwrap_or(first);
            of.in_flight.set(distance(done, delivered));
            if done == delivered {
                // With nothing in flight, the client's own place says more: it is also past offsets
                // that are no messages, such as those of the records by which transactions end.
                let place = measured.next_offset - measured.fetchq_cnt;
                done = done.max(place).max(measured.committed_offset);
            }
            if measured.hi_offset >= 0 && done >= 0 {
                of.lag.set(distance(done, measured.hi_offset));
            }
            of.prefetched.set(distance(0, measured.fetchq_cnt));
        }
    }

    /// These partitions are others' now: they count there.
    pub(crate) fn forget(&self, partitions: &[u32]) {
        let mut gauges = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for number in partitions {
            gauges.remove(number);
        }
    }

    fn of(&self, partition: u32) -> OfPartition {
        let make = |name: &'static str| {
            gauge!(
                name,
                "stream" => self.stream.clone(),
                "group" => self.group.clone(),
                "partition" => partition.to_string()
            )
        };
        OfPartition {
            lag: make(LAG),
            in_flight: make(IN_FLIGHT),
            prefetched: make(PREFETCHED),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floating point numbers"
)]
fn distance(from: i64, to: i64) -> f64 {
    (to - from).max(0) as f64
}

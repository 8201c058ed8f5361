//! Where a subscription begins.
//!
//! A group that begins anywhere but at the oldest message gets its positions committed before it
//! reads: from then on nothing it has not acknowledged is skipped, whatever happens before its
//! first acknowledgement. (With the client's own `auto.offset.reset=latest`, a crash before the
//! first commit skips what was written since.)

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use streams_core::{Result, StartFrom, unix_millis};

use crate::commits::add;
use crate::consumer::Events;
use crate::error::error;

/// What asks a broker for the next offset to be written, in place of a time.
const LATEST: i64 = -1;
/// What asks a broker for the oldest offset it keeps.
const EARLIEST: i64 = -2;

/// Commits where a group is to begin, for partitions for which it has no position yet. Blocks.
pub(crate) fn pin_group(
    consumer: &BaseConsumer<Events>,
    topic: &str,
    partitions: &[u32],
    start: &StartFrom,
    timeout: Duration,
) -> Result<()> {
    if matches!(start, StartFrom::Default | StartFrom::Earliest) {
        return Ok(()); // as the client does by itself
    }
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(topic, number(*partition));
    }
    let committed = consumer
        .committed_offsets(asked, timeout)
        .map_err(|source| error(&source, "subscribe"))?;
    let mut fresh = Vec::new();
    for element in committed.elements() {
        element
            .error()
            .map_err(|source| error(&source, "subscribe"))?;
        if element.offset() == Offset::Invalid {
            fresh.extend(u32::try_from(element.partition()));
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    let begin = resolve(consumer, topic, &fresh, start, timeout)?;
    match consumer.commit(&begin, CommitMode::Sync) {
        Ok(()) => Ok(()),
        Err(source) => match source.rdkafka_error_code() {
            // The group has members, who did the same before they joined it.
            Some(
                RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::RebalanceInProgress,
            ) => Ok(()),
            _ => Err(error(&source, "subscribe")),
        },
    }
}

/// The offset of each partition at which to begin. Blocks.
pub(crate) fn resolve(
    consumer: &BaseConsumer<Events>,
    topic: &str,
    partitions: &[u32],
    start: &StartFrom,
    timeout: Duration,
) -> Result<TopicPartitionList> {
    let ask = |time| offsets(consumer, topic, partitions, time, timeout);
    let earliest = |list: &mut TopicPartitionList| -> Result<()> {
        for (partition, offset) in ask(EARLIEST)? {
            add(list, topic, partition, offset);
        }
        Ok(())
    };
    let mut list = TopicPartitionList::new();
    match start {
        StartFrom::Earliest => earliest(&mut list)?,
        StartFrom::Position(position) => {
            let position = position.parse().unwrap_or(i64::MAX);
            let latest = ask(LATEST)?;
            for ((partition, low), (_, high)) in ask(EARLIEST)?.into_iter().zip(latest) {
                // Past either end there is nothing: at the nearest there is.
                add(&mut list, topic, partition, position.clamp(low, high.max(low)));
            }
        }
        StartFrom::Time(time) => {
            let latest = ask(LATEST)?;
            let found = ask(unix_millis(*time).max(0))?;
            for ((partition, offset), (_, high)) in found.into_iter().zip(latest) {
                // No message is that young: the next to be written will be.
                add(&mut list, topic, partition, if offset < 0 { high } else { offset });
            }
        }
        // Without a group, what is written from now on.
        _ => {
            for (partition, offset) in ask(LATEST)? {
                add(&mut list, topic, partition, offset);
            }
        }
    }
    Ok(list)
}

/// What each partition answers when asked for the first offset of a time, in order of partition.
fn offsets(
    consumer: &BaseConsumer<Events>,
    topic: &str,
    partitions: &[u32],
    time: i64,
    timeout: Duration,
) -> Result<Vec<(u32, i64)>> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        let offset = match time {
            LATEST => Offset::End,
            EARLIEST => Offset::Beginning,
            time => Offset::Offset(time),
        };
        asked
            .add_partition_offset(topic, number(*partition), offset)
            .map_err(|source| error(&source, "subscribe"))?;
    }
    let found = consumer
        .offsets_for_times(asked, timeout)
        .map_err(|source| error(&source, "subscribe"))?;
    let mut offsets = Vec::with_capacity(partitions.len());
    for element in found.elements() {
        element
            .error()
            .map_err(|source| error(&source, "subscribe"))?;
        let offset = element.offset().to_raw().unwrap_or(LATEST);
        offsets.push((u32::try_from(element.partition()).unwrap_or(0), offset));
    }
    offsets.sort_unstable();
    Ok(offsets)
}

fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

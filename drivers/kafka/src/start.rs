//! Where a subscription begins.
//!
//! A group that begins anywhere but at the oldest message gets its positions committed before its
//! subscription is open: from then on nothing it has not acknowledged is skipped, whatever happens
//! before its first acknowledgement. (With the client's own `auto.offset.reset=latest`, a crash
//! before the first commit skips what was written since.)
//!
//! Anybody may commit for a group without members. For one that has some, which read other topics,
//! only a member may: then each partition's position is committed by the member it is assigned to.
//!
//! A partition that has no position while others of its topic have was added later, and is read from
//! its oldest message.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use streams_core::{Result, StartFrom, unix_millis};

use crate::blocking::patiently;
use crate::callbacks::Callbacks;
use crate::commits::add;
use crate::error::error;

/// What asks a broker for the next offset to be written, in place of a time.
const LATEST: i64 = -1;
/// What asks a broker for the oldest offset it keeps.
const EARLIEST: i64 = -2;

/// Where the partitions of a topic begin for a group that has no position in any of them; empty if
/// there is nothing to commit. Blocks.
pub(crate) fn unpinned(
    consumer: &BaseConsumer<Callbacks>,
    topic: &str,
    partitions: &[u32],
    start: &StartFrom,
    timeout: Duration,
) -> Result<TopicPartitionList> {
    if matches!(start, StartFrom::Default | StartFrom::Earliest) {
        return Ok(TopicPartitionList::new()); // as the client does by itself
    }
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(topic, number(*partition));
    }
    if without_position(consumer, &asked, timeout)?.len() < partitions.len() {
        return Ok(TopicPartitionList::new());
    }
    resolve(consumer, topic, partitions, start, timeout)
}

/// Commits these positions; `false` if the group has members, and it takes one to do that. Blocks.
pub(crate) fn pin(consumer: &BaseConsumer<Callbacks>, begin: &TopicPartitionList) -> Result<bool> {
    if begin.count() == 0 {
        return Ok(true);
    }
    match consumer.commit(begin, CommitMode::Sync) {
        Ok(()) => Ok(true),
        Err(source) => match source.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::RebalanceInProgress,
            ) => Ok(false),
            _ => Err(error(&source, "subscribe")),
        },
    }
}

/// Commits, as the member they are assigned to, where these partitions begin, for those of them
/// that have no position yet. Blocks.
pub(crate) fn pin_assigned(
    consumer: &BaseConsumer<Callbacks>,
    begin: &TopicPartitionList,
    assigned: &TopicPartitionList,
    timeout: Duration,
) -> Result<()> {
    let mut asked = TopicPartitionList::new();
    for element in assigned.elements() {
        asked.add_partition(element.topic(), element.partition());
    }
    let fresh = without_position(consumer, &asked, timeout)?;
    let mut list = TopicPartitionList::new();
    for element in begin.elements() {
        if fresh.contains(&element.partition()) {
            list.add_partition_offset(element.topic(), element.partition(), element.offset())
                .map_err(|source| error(&source, "subscribe"))?;
        }
    }
    if list.count() == 0 {
        return Ok(());
    }
    consumer
        .commit(&list, CommitMode::Sync)
        .map_err(|source| error(&source, "subscribe"))
}

/// Which of these partitions the group has no position in. Blocks.
fn without_position(
    consumer: &BaseConsumer<Callbacks>,
    asked: &TopicPartitionList,
    timeout: Duration,
) -> Result<Vec<i32>> {
    let ask = |left| {
        let committed = consumer.committed_offsets(asked.clone(), left)?;
        let mut fresh = Vec::new();
        for element in committed.elements() {
            element.error()?;
            if element.offset() == Offset::Invalid {
                fresh.push(element.partition());
            }
        }
        Ok(fresh)
    };
    patiently(timeout, ask).map_err(|source| error(&source, "subscribe"))
}

/// The offset of each partition at which to begin. Blocks.
pub(crate) fn resolve(
    consumer: &BaseConsumer<Callbacks>,
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
                add(
                    &mut list,
                    topic,
                    partition,
                    position.clamp(low, high.max(low)),
                );
            }
        }
        StartFrom::Time(time) => {
            let latest = ask(LATEST)?;
            let found = ask(unix_millis(*time).max(0))?;
            for ((partition, offset), (_, high)) in found.into_iter().zip(latest) {
                // No message is that young: the next to be written will be.
                add(
                    &mut list,
                    topic,
                    partition,
                    if offset < 0 { high } else { offset },
                );
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
    consumer: &BaseConsumer<Callbacks>,
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
    let ask = |left| {
        let found = consumer.offsets_for_times(asked.clone(), left)?;
        let mut offsets = Vec::with_capacity(partitions.len());
        for element in found.elements() {
            element.error()?;
            let offset = element.offset().to_raw().unwrap_or(LATEST);
            offsets.push((u32::try_from(element.partition()).unwrap_or(0), offset));
        }
        offsets.sort_unstable();
        Ok(offsets)
    };
    patiently(timeout, ask).map_err(|source| error(&source, "subscribe"))
}

fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

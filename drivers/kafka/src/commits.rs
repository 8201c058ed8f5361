//! Which positions a subscription has settled, and which of them the group's coordinator has.

use std::collections::BTreeMap;

use rdkafka::{Offset, TopicPartitionList};
use streams_core::TokenId;

/// The positions of the partitions a subscription holds.
///
/// A position is the offset of the next message to read, as Kafka commits it: one more than the
/// last that is done.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    partitions: BTreeMap<u32, Position>,
}

#[derive(Debug)]
struct Position {
    epoch: u32,
    /// Everything before this is done.
    settled: Option<i64>,
    /// What was given to the coordinator last. It may not have it yet.
    sent: Option<i64>,
}

impl Commits {
    /// A partition has come.
    pub(crate) fn assigned(&mut self, partition: u32, epoch: u32) {
        let fresh = Position {
            epoch,
            settled: None,
            sent: None,
        };
        self.partitions.insert(partition, fresh);
    }

    /// A partition has gone.
    pub(crate) fn forget(&mut self, partition: u32) {
        self.partitions.remove(&partition);
    }

    /// Everything up to this delivery is done. `false` says that its partition was no longer held
    /// under that epoch.
    pub(crate) fn settle(&mut self, delivery: TokenId) -> bool {
        let Some(position) = self.held(delivery) else {
            return false;
        };
        let next = i64::try_from(delivery.sequence).map_or(i64::MAX, |offset| offset + 1);
        position.settled = position.settled.max(Some(next));
        true
    }

    /// As [`settle`](Commits::settle), and the coordinator has the position: it went with a
    /// transaction.
    pub(crate) fn committed(&mut self, delivery: TokenId) {
        if self.settle(delivery)
            && let Some(position) = self.held(delivery)
        {
            position.sent = position.settled;
        }
    }

    /// Whether the delivery's partition is held under its epoch.
    pub(crate) fn is_held(&self, delivery: TokenId) -> bool {
        self.partitions
            .get(&delivery.partition)
            .is_some_and(|position| position.epoch == delivery.epoch)
    }

    /// Up to here a partition is done.
    pub(crate) fn settled(&self, partition: u32) -> Option<i64> {
        self.partitions.get(&partition)?.settled
    }

    /// The positions that are to be committed, and counts them as sent. With `only`, those of these
    /// partitions.
    pub(crate) fn take(&mut self, topic: &str, only: Option<&[u32]>) -> Option<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, position) in &mut self.partitions {
            if only.is_some_and(|only| !only.contains(partition))
                || position.settled == position.sent
            {
                continue;
            }
            if let Some(settled) = position.settled {
                position.sent = Some(settled);
                add(&mut list, topic, *partition, settled);
            }
        }
        (list.count() > 0).then_some(list)
    }

    /// These positions could not be committed: they are to be sent again, unless there are newer
    /// ones.
    pub(crate) fn failed(&mut self, list: &TopicPartitionList) {
        for element in list.elements() {
            let partition = u32::try_from(element.partition()).unwrap_or(u32::MAX);
            if let Some(position) = self.partitions.get_mut(&partition)
                && position.sent.map(Offset::Offset) == Some(element.offset())
            {
                position.sent = None;
            }
        }
    }

    /// It is not known which of the positions sent have come: all are to be sent again.
    pub(crate) fn unanswered(&mut self) {
        for position in self.partitions.values_mut() {
            position.sent = None;
        }
    }

    fn held(&mut self, delivery: TokenId) -> Option<&mut Position> {
        self.partitions
            .get_mut(&delivery.partition)
            .filter(|position| position.epoch == delivery.epoch)
    }
}

/// Adds a position to a list.
pub(crate) fn add(list: &mut TopicPartitionList, topic: &str, partition: u32, offset: i64) {
    let partition = i32::try_from(partition).unwrap_or(i32::MAX);
    // It fails only for offsets Kafka does not know, below -2.
    let _ = list.add_partition_offset(topic, partition, Offset::Offset(offset));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(partition: u32, epoch: u32, sequence: u64) -> TokenId {
        TokenId {
            partition,
            epoch,
            sequence,
        }
    }

    fn taken(commits: &mut Commits) -> Vec<(i32, Offset)> {
        let list = commits.take("t", None);
        list.map_or_else(Vec::new, |list| {
            list.elements()
                .iter()
                .map(|e| (e.partition(), e.offset()))
                .collect()
        })
    }

    #[test]
    fn the_next_offset_is_committed_once() {
        let mut commits = Commits::default();
        commits.assigned(0, 1);
        assert!(taken(&mut commits).is_empty());
        assert!(commits.settle(id(0, 1, 41)));
        assert_eq!(taken(&mut commits), [(0, Offset::Offset(42))]);
        assert!(taken(&mut commits).is_empty());
    }

    #[test]
    fn what_went_with_a_transaction_is_not_committed_again() {
        let mut commits = Commits::default();
        commits.assigned(0, 1);
        commits.committed(id(0, 1, 41));
        assert_eq!(commits.settled(0), Some(42));
        assert!(taken(&mut commits).is_empty());
        commits.committed(id(0, 2, 50));
        assert_eq!(commits.settled(0), Some(42));
    }

    #[test]
    fn a_position_never_goes_back() {
        let mut commits = Commits::default();
        commits.assigned(0, 1);
        assert!(commits.settle(id(0, 1, 41)));
        assert!(commits.settle(id(0, 1, 7)));
        assert_eq!(commits.settled(0), Some(42));
    }

    #[test]
    fn what_is_of_another_epoch_is_lost() {
        let mut commits = Commits::default();
        commits.assigned(0, 1);
        commits.assigned(0, 2);
        assert!(!commits.settle(id(0, 1, 41)));
        assert!(!commits.settle(id(1, 1, 41)));
        commits.forget(0);
        assert!(!commits.settle(id(0, 2, 41)));
        assert!(taken(&mut commits).is_empty());
    }

    #[test]
    fn a_failed_commit_is_sent_again_unless_it_is_old() {
        let mut commits = Commits::default();
        commits.assigned(0, 1);
        commits.settle(id(0, 1, 1));
        let first = commits.take("t", None).unwrap();
        commits.failed(&first);
        assert_eq!(taken(&mut commits), [(0, Offset::Offset(2))]);
        commits.settle(id(0, 1, 5));
        assert_eq!(taken(&mut commits), [(0, Offset::Offset(6))]);
        commits.failed(&first);
        assert!(taken(&mut commits).is_empty());
    }

    #[test]
    fn what_was_not_answered_is_sent_again() {
        let mut commits = Commits::default();
        commits.assigned(0, 1);
        commits.settle(id(0, 1, 1));
        assert_eq!(taken(&mut commits).len(), 1);
        commits.unanswered();
        assert_eq!(taken(&mut commits).len(), 1);
    }

    #[test]
    fn only_the_partitions_asked_for_are_taken() {
        let mut commits = Commits::default();
        for partition in [0, 1] {
            commits.assigned(partition, 1);
            commits.settle(id(partition, 1, 1));
        }
        let list = commits.take("t", Some(&[1])).unwrap();
        assert_eq!(list.elements()[0].partition(), 1);
        assert_eq!(taken(&mut commits), [(0, Offset::Offset(2))]);
    }
}

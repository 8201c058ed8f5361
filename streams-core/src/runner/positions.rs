//! Which positions may be committed, for drivers that acknowledge by position.

use std::collections::{BTreeMap, VecDeque};

use crate::{AckToken, Assignment, Settlement, TokenId};

/// Per partition, what was delivered and not yet done. Only the contiguous low-water mark is
/// committed: everything up to it is done.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    partitions: BTreeMap<u32, Partition>,
}

#[derive(Debug)]
struct Partition {
    epoch: u32,
    /// Delivered positions in rising order, each with whether it is done. The first is not done.
    outstanding: VecDeque<(u64, bool)>,
    /// The highest position that is done together with all before it.
    watermark: Option<u64>,
    /// Whether the watermark has moved since it was last taken.
    moved: bool,
}

impl Partition {
    /// Where a position stands among the outstanding ones, or would.
    fn find(&self, sequence: u64) -> usize {
        // Positions mostly follow one another without gaps.
        if let Some((first, _)) = self.outstanding.front()
            && let Some(guess) = sequence
                .checked_sub(*first)
                .and_then(|d| usize::try_from(d).ok())
            && self
                .outstanding
                .get(guess)
                .is_some_and(|(p, _)| *p == sequence)
        {
            return guess;
        }
        self.outstanding.partition_point(|(p, _)| *p < sequence)
    }
}

impl Positions {
    /// A delivery has come.
    pub(crate) fn delivered(&mut self, id: TokenId) {
        let fresh = || Partition {
            epoch: id.epoch,
            outstanding: VecDeque::new(),
            watermark: None,
            moved: false,
        };
        let partition = self.partitions.entry(id.partition).or_insert_with(fresh);
        if partition.epoch != id.epoch {
            *partition = fresh();
        }
        if partition.watermark.is_some_and(|mark| id.sequence <= mark) {
            return; // again, after it was done: nothing to track
        }
        match partition.outstanding.back() {
            Some((last, _)) if *last >= id.sequence => {
                let at = partition.find(id.sequence);
                if partition.outstanding[at].0 != id.sequence {
                    partition.outstanding.insert(at, (id.sequence, false));
                }
            }
            _ => partition.outstanding.push_back((id.sequence, false)),
        }
    }

    /// A delivery is done. `false` says that it was already, or is nobody's any more.
    pub(crate) fn done(&mut self, id: TokenId) -> bool {
        let Some(partition) = self.partitions.get_mut(&id.partition) else {
            return false;
        };
        if partition.epoch != id.epoch {
            return false;
        }
        let at = partition.find(id.sequence);
        match partition.outstanding.get_mut(at) {
            Some((position, done)) if *position == id.sequence && !*done => *done = true,
            _ => return false,
        }
        while let Some((position, true)) = partition.outstanding.front() {
            partition.watermark = Some(*position);
            partition.moved = true;
            partition.outstanding.pop_front();
        }
        true
    }

    /// Forgets partitions that are gone, under these epochs.
    pub(crate) fn forget(&mut self, gone: &[Assignment]) {
        for assignment in gone {
            if self
                .partitions
                .get(&assignment.partition)
                .is_some_and(|p| p.epoch == assignment.epoch)
            {
                self.partitions.remove(&assignment.partition);
            }
        }
    }

    /// Forgets everything: the subscription was opened anew.
    pub(crate) fn clear(&mut self) {
        self.partitions.clear();
    }

    /// How many partitions have a watermark to commit.
    pub(crate) fn moved(&self) -> usize {
        self.partitions.values().filter(|p| p.moved).count()
    }

    /// Takes the watermarks that have moved, as settlements.
    pub(crate) fn take_moved(&mut self, out: &mut Vec<Settlement>) {
        for (number, partition) in &mut self.partitions {
            if let (true, Some(mark)) = (partition.moved, partition.watermark) {
                partition.moved = false;
                out.push(AckToken::new(*number, partition.epoch, mark).ack());
            }
        }
    }
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

    fn moved(positions: &mut Positions) -> Vec<(u32, u64)> {
        let mut out = Vec::new();
        positions.take_moved(&mut out);
        out.iter()
            .map(|s| (s.token.id().partition, s.token.id().sequence))
            .collect()
    }

    #[test]
    fn only_the_contiguous_low_water_mark_is_committed() {
        let mut positions = Positions::default();
        for sequence in [10, 11, 13, 14] {
            positions.delivered(id(0, 1, sequence));
        }
        positions.done(id(0, 1, 13));
        positions.done(id(0, 1, 11));
        assert!(moved(&mut positions).is_empty());
        positions.done(id(0, 1, 10));
        assert_eq!(moved(&mut positions), [(0, 13)]);
        assert!(moved(&mut positions).is_empty());
        positions.done(id(0, 1, 14));
        assert_eq!(moved(&mut positions), [(0, 14)]);
    }

    #[test]
    fn a_position_delivered_again_does_not_move_the_mark_back() {
        let mut positions = Positions::default();
        positions.delivered(id(0, 1, 1));
        positions.delivered(id(0, 1, 2));
        positions.delivered(id(0, 1, 1));
        positions.done(id(0, 1, 1));
        assert_eq!(moved(&mut positions), [(0, 1)]);
        positions.delivered(id(0, 1, 1));
        positions.done(id(0, 1, 1));
        assert!(moved(&mut positions).is_empty());
        positions.done(id(0, 1, 2));
        assert_eq!(moved(&mut positions), [(0, 2)]);
    }

    #[test]
    fn another_epoch_counts_for_nothing() {
        let mut positions = Positions::default();
        positions.delivered(id(0, 1, 5));
        positions.delivered(id(0, 2, 3));
        positions.done(id(0, 1, 5));
        assert!(moved(&mut positions).is_empty());
        positions.forget(&[Assignment {
            partition: 0,
            epoch: 1,
        }]);
        positions.done(id(0, 2, 3));
        assert_eq!(moved(&mut positions), [(0, 3)]);
        positions.forget(&[Assignment {
            partition: 0,
            epoch: 2,
        }]);
        positions.done(id(0, 2, 3));
        assert_eq!(positions.moved(), 0);
    }
}

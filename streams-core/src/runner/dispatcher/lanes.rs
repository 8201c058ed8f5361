//! Lanes: messages that are handled one after another.
//!
//! A lane is a list through the entries, in the order received. Its first entry may run, runs, or
//! waits for its retry; the others are queued, or at the same worker as the first.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use super::{Dispatcher, Index, Lane, LaneKey, NO_LANE, NONE, State};
use crate::runner::settings::Ordering;
use crate::{Message, SettleAction, TokenId};

impl Dispatcher {
    pub(super) fn lane_of(&self, message: &Message, id: TokenId) -> LaneKey {
        let hash = match self.ordering {
            Ordering::None => return NO_LANE,
            Ordering::Stream => self.hasher.hash_one(id.partition),
            Ordering::PerKey => match message.key() {
                Some(key) => self.hasher.hash_one(key.as_bytes()),
                None => return NO_LANE,
            },
        };
        hash.max(1)
    }

    /// Gives a message back to the driver, and with it all behind it in its lane, so that they come
    /// again in their order.
    pub(super) fn give_up_lane(&mut self, index: Index, action: SettleAction) {
        self.push_settlement(index, action);
        self.give_up_behind(index);
        self.remove(index);
    }

    /// Gives back all behind a message in its lane. Those of the same worker that are under way with
    /// it count for nothing. (There are some only behind one that ended well: a worker gives back
    /// what it has not started before it reports one that did not.)
    pub(super) fn give_up_behind(&mut self, index: Index) {
        let mut unstarted = Vec::new();
        let mut next = self.entries[index as usize].next;
        while next != NONE {
            let entry = &mut self.entries[next as usize];
            let (index, behind) = (next, entry.next);
            if !std::mem::replace(&mut entry.orphan, true) {
                if entry.state != State::Running {
                    unstarted.push(index);
                }
                self.push_settlement(index, SettleAction::Release);
            }
            next = behind;
        }
        self.drop_many(unstarted);
    }

    /// Takes an entry that is first of its lane, or in none, out; the next of the lane may run.
    pub(super) fn remove(&mut self, index: Index) {
        let entry = self.entries.remove(index as usize);
        self.bytes -= entry.size as usize;
        if entry.lane == NO_LANE {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&entry.lane) else {
            return;
        };
        debug_assert_eq!(lane.head, index, "only the first of a lane can be done");
        if entry.next == NONE {
            self.lanes.remove(&entry.lane);
            return;
        }
        lane.head = entry.next;
        let next = &mut self.entries[entry.next as usize];
        if next.state == State::Queued {
            next.state = State::Ready;
            self.ready.push_back(entry.next);
        }
    }

    /// Takes entries that are not at a worker out, wherever they are in their lanes.
    pub(super) fn drop_many(&mut self, gone: Vec<Index>) {
        if gone.is_empty() {
            return;
        }
        let gone: BTreeSet<Index> = gone.into_iter().collect();
        let mut lanes = BTreeSet::new();
        for index in &gone {
            let entry = &self.entries[*index as usize];
            self.waiting -= usize::from(entry.state == State::Waiting);
            if entry.lane != NO_LANE {
                // By first entry, not by hash: the same on every run.
                lanes.insert((self.lanes[&entry.lane].head, entry.lane));
            }
        }
        self.ready.retain(|index| !gone.contains(index));
        for (head, key) in lanes {
            self.relink(key, head, &gone);
        }
        for index in gone {
            let entry = self.entries.remove(index as usize);
            self.bytes -= entry.size as usize;
        }
    }

    /// Closes the gaps that `gone` leave in a lane, and lets its new first run.
    pub(super) fn relink(&mut self, key: LaneKey, head: Index, gone: &BTreeSet<Index>) {
        let mut kept = Vec::new();
        let mut index = head;
        while index != NONE {
            if !gone.contains(&index) {
                kept.push(index);
            }
            index = self.entries[index as usize].next;
        }
        let (Some(first), Some(last)) = (kept.first().copied(), kept.last().copied()) else {
            self.lanes.remove(&key);
            return;
        };
        for pair in kept.windows(2) {
            self.entries[pair[0] as usize].next = pair[1];
        }
        self.entries[last as usize].next = NONE;
        self.lanes.insert(
            key,
            Lane {
                head: first,
                tail: last,
            },
        );
        let first_entry = &mut self.entries[first as usize];
        if first_entry.state == State::Queued {
            first_entry.state = State::Ready;
            self.ready.push_back(first);
        }
    }
}

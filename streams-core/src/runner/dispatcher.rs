//! The runner's state: what is in flight, what may run next, what is to be settled.
//!
//! Plain data without I/O, threads or clocks: every method is a step that a test can take.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use slab::Slab;
use tokio::time::Instant;

use super::positions::Positions;
use super::settings::{Ordering, RunSettings};
use crate::bus::Activity;
use crate::handler::ContextParts;
use crate::{
    AckToken, Acknowledgement, Assignment, Capabilities, Delivery, Message, Metadata, SettleAction,
    Settlement, TokenId,
};

/// Index of an entry; `NONE` for none.
type Index = u32;
const NONE: Index = Index::MAX;

/// Key of a lane: the hash of what is handled in order. Two keys that collide merely wait for each
/// other. 0 is no lane.
type LaneKey = u64;
const NO_LANE: LaneKey = 0;

/// A message on its way to a handler.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) index: Index,
    pub(crate) message: Message,
    pub(crate) parts: ContextParts,
}

/// What became of it there.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) index: Index,
    pub(crate) verdict: Verdict,
    /// What is needed to hand it to a handler again; `None` for a final verdict.
    pub(crate) again: Option<Again>,
}

/// What a handler gives back of a message that is to be handled again.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) message: Message,
    pub(crate) metadata: Option<Arc<dyn Metadata>>,
    pub(crate) failed_at: Option<SystemTime>,
}

/// The runner's decision on a handled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Acknowledge: handled.
    Ack,
    /// Acknowledge: written to the dead letters.
    DeadLettered,
    /// Hand it to a handler again after this long.
    Retry(Duration),
    /// Give it back to the driver.
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May run.
    Ready,
    /// Behind another of its lane.
    Queued,
    /// At a worker.
    Running,
    /// Until its retry is due.
    Waiting,
}

struct Entry {
    /// `None` while at a worker.
    message: Option<Message>,
    metadata: Option<Arc<dyn Metadata>>,
    id: TokenId,
    lane: LaneKey,
    first_failure: Option<Box<SystemTime>>,
    /// End of the lease and time of receipt, where the driver leases.
    lease: Option<Box<Lease>>,
    next: Index,
    attempt: u32,
    size: u32,
    /// Names the timer that is for this entry; timers of earlier ones are stale.
    stamp: u32,
    worker: u16,
    state: State,
    /// Lost or revoked: it is not to be settled.
    orphan: bool,
}

struct Lease {
    until: Instant,
    received: Instant,
}

struct Lane {
    head: Index,
    tail: Index,
}

/// What happened, counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) retried: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) lost: u64,
    pub(crate) in_flight_at_shutdown: u64,
    pub(crate) finished: u64,
    pub(crate) given_back_to_retry: u64,
    pub(crate) released: u64,
}

pub(crate) struct Dispatcher {
    entries: Slab<Entry>,
    ready: VecDeque<Index>,
    lanes: HashMap<LaneKey, Lane, RandomState>,
    hasher: RandomState,
    timers: BinaryHeap<Reverse<(Instant, u32, Index)>>,
    next_stamp: u32,
    bytes: usize,
    /// What a message to come may weigh: the heaviest of late, so that one fetch does not bring many
    /// times what there is room for.
    typical_size: usize,
    running: usize,
    waiting: usize,
    /// For individual acknowledgement.
    settlements: Vec<Settlement>,
    /// For cumulative acknowledgement.
    positions: Positions,
    pub(crate) counts: Counts,
    stopping: bool,
    longest_lease_seen: Duration,

    ordering: Ordering,
    max_in_flight: usize,
    max_bytes: usize,
    cumulative: bool,
    /// Longest delay the backend keeps by itself.
    delayed_redelivery: Option<Duration>,
    longest_wait: Duration,
}

impl Dispatcher {
    pub(crate) fn new(settings: &RunSettings, driver: &Capabilities) -> Self {
        Self {
            entries: Slab::new(),
            ready: VecDeque::new(),
            lanes: HashMap::default(),
            hasher: RandomState::default(),
            timers: BinaryHeap::new(),
            next_stamp: 0,
            bytes: 0,
            typical_size: settings.max_in_flight_bytes / 16,
            running: 0,
            waiting: 0,
            settlements: Vec::new(),
            positions: Positions::default(),
            counts: Counts::default(),
            stopping: false,
            longest_lease_seen: Duration::ZERO,
            ordering: settings.ordering,
            max_in_flight: settings.max_in_flight,
            max_bytes: settings.max_in_flight_bytes,
            cumulative: driver.acknowledgement == Acknowledgement::Cumulative,
            delayed_redelivery: driver.delayed_redelivery,
            longest_wait: settings.longest_wait,
        }
    }

    /// How many more messages may be fetched.
    pub(crate) fn room(&self) -> usize {
        if self.bytes >= self.max_bytes {
            return 0;
        }
        let by_bytes = (self.max_bytes - self.bytes) / self.typical_size.max(1);
        self.max_in_flight
            .saturating_sub(self.entries.len())
            .min(by_bytes.max(1))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn unsettled(&self) -> usize {
        self.settlements.len()
            + if self.cumulative {
                self.positions.moved()
            } else {
                0
            }
    }

    pub(crate) fn activity(&self) -> Activity {
        let in_flight = self.entries.len();
        Activity {
            in_flight,
            queued: in_flight - self.running - self.waiting,
            running: self.running,
            waiting: self.waiting,
            unsettled: self.unsettled(),
        }
    }

    /// A delivery has come.
    pub(crate) fn push(&mut self, delivery: Delivery, now: Instant) {
        let Delivery {
            message,
            attempt,
            lease,
            metadata,
            token,
        } = delivery;
        let id = token.id();
        let lane = self.lane_of(&message, id);
        let size = u32::try_from(message.size()).unwrap_or(u32::MAX);
        self.bytes += size as usize;
        self.typical_size = (self.typical_size - self.typical_size / 64).max(size as usize);
        if self.cumulative {
            self.positions.delivered(id);
        }
        if let Some(until) = lease {
            self.longest_lease_seen = self
                .longest_lease_seen
                .max(until.saturating_duration_since(now));
        }
        let entry = Entry {
            message: Some(message),
            metadata,
            id,
            lane,
            first_failure: None,
            lease: lease.map(|until| {
                Box::new(Lease {
                    until,
                    received: now,
                })
            }),
            next: NONE,
            // The driver counts this delivery; a handler's attempt is counted when it begins.
            attempt: attempt.unwrap_or(1).saturating_sub(1),
            size,
            stamp: 0,
            worker: 0,
            state: State::Ready,
            orphan: false,
        };
        let index = self.entries.insert(entry) as Index;
        if lane == NO_LANE {
            self.ready.push_back(index);
            return;
        }
        match self.lanes.entry(lane) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Lane {
                    head: index,
                    tail: index,
                });
                self.ready.push_back(index);
            }
            std::collections::hash_map::Entry::Occupied(mut lane) => {
                let tail = std::mem::replace(&mut lane.get_mut().tail, index);
                self.entries[tail as usize].next = index;
                self.entries[index as usize].state = State::Queued;
            }
        }
    }

    fn lane_of(&self, message: &Message, id: TokenId) -> LaneKey {
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

    /// Moves up to `max` messages that may run to `out`, for a worker that handles them one after
    /// another in this order. Those of one lane follow each other.
    pub(crate) fn take(&mut self, max: usize, worker: u16, out: &mut VecDeque<Work>) {
        let mut taken = 0;
        while taken < max {
            let Some(mut index) = self.ready.pop_front() else {
                break;
            };
            loop {
                let entry = &mut self.entries[index as usize];
                let Some(message) = entry.message.take() else {
                    unreachable!("a message that may run is here");
                };
                entry.state = State::Running;
                entry.worker = worker;
                entry.attempt = entry.attempt.saturating_add(1);
                out.push_back(Work {
                    index,
                    message,
                    parts: ContextParts {
                        id: entry.id,
                        attempt: entry.attempt,
                        metadata: entry.metadata.take(),
                        first_failure: entry.first_failure.as_deref().copied(),
                        deadline: None,
                    },
                });
                self.running += 1;
                taken += 1;
                index = entry.next;
                if taken == max || entry.lane == NO_LANE || index == NONE {
                    break;
                }
            }
        }
    }

    /// A worker gives back what it took and has not started, in the order taken.
    pub(crate) fn give_back(&mut self, works: &mut VecDeque<Work>) {
        while let Some(work) = works.pop_back() {
            self.running -= 1;
            let entry = &mut self.entries[work.index as usize];
            entry.attempt -= 1;
            entry.message = Some(work.message);
            entry.metadata = work.parts.metadata;
            if entry.orphan {
                entry.state = State::Queued;
                self.counts.lost += 1;
                if !self.cumulative {
                    self.give_up_behind(work.index);
                }
                self.drop_many(vec![work.index]);
                continue;
            }
            let is_head = entry.lane == NO_LANE
                || self
                    .lanes
                    .get(&entry.lane)
                    .is_some_and(|lane| lane.head == work.index);
            if is_head {
                entry.state = State::Ready;
                self.ready.push_front(work.index);
            } else {
                entry.state = State::Queued;
            }
        }
    }

    /// A worker is done with a message.
    pub(crate) fn finish(&mut self, done: Done, now: impl FnOnce() -> Instant) {
        self.running -= 1;
        let entry = &mut self.entries[done.index as usize];
        if entry.orphan {
            self.counts.lost += 1;
            let ended_well = matches!(done.verdict, Verdict::Ack | Verdict::DeadLettered);
            if ended_well || self.cumulative {
                self.remove(done.index);
            } else {
                // It comes again, and what is behind it must come after it.
                self.give_up_behind(done.index);
                self.remove(done.index);
            }
            return;
        }
        match (done.verdict, done.again) {
            (Verdict::Ack, _) => {
                self.counts.acknowledged += 1;
                self.counts.finished += u64::from(self.stopping);
                self.settle(done.index, SettleAction::Ack);
            }
            (Verdict::DeadLettered, _) => {
                self.counts.dead_lettered += 1;
                self.counts.finished += u64::from(self.stopping);
                self.settle(done.index, SettleAction::Ack);
            }
            (Verdict::Retry(delay), Some(again)) => {
                self.counts.retried += 1;
                if entry.first_failure.is_none() {
                    entry.first_failure = again.failed_at.map(Box::new);
                }
                self.retry(done.index, delay, again, now);
            }
            (Verdict::Release, Some(again)) if self.cumulative => {
                // There is nobody to give it to: the position is this reader's.
                self.retry(done.index, RELEASE_DELAY, again, now);
            }
            (Verdict::Release, _) => {
                self.counts.released += u64::from(self.stopping);
                self.give_up_lane(done.index, SettleAction::Release);
            }
            (Verdict::Retry(delay), None) => {
                self.give_up_lane(done.index, SettleAction::Retry { after: Some(delay) });
            }
        }
    }

    fn retry(
        &mut self,
        index: Index,
        delay: Duration,
        again: Again,
        now: impl FnOnce() -> Instant,
    ) {
        let entry = &mut self.entries[index as usize];
        let backend_can = self.delayed_redelivery.is_some_and(|limit| delay <= limit);
        if !self.cumulative
            && (self.stopping || (entry.lane == NO_LANE && delay > self.longest_wait))
        {
            if backend_can {
                self.counts.given_back_to_retry += u64::from(self.stopping);
                self.give_up_lane(index, SettleAction::Retry { after: Some(delay) });
                return;
            }
            if self.stopping {
                self.counts.given_back_to_retry += 1;
                self.give_up_lane(index, SettleAction::Release);
                return;
            }
        }
        if self.stopping {
            self.counts.given_back_to_retry += 1;
            self.remove(index);
            return;
        }
        self.next_stamp = self.next_stamp.wrapping_add(1);
        entry.message = Some(again.message);
        entry.metadata = again.metadata;
        entry.stamp = self.next_stamp;
        entry.state = State::Waiting;
        self.waiting += 1;
        self.timers
            .push(Reverse((now() + delay, self.next_stamp, index)));
    }

    /// Settles a message and lets the next of its lane run.
    fn settle(&mut self, index: Index, action: SettleAction) {
        let id = self.entries[index as usize].id;
        if self.cumulative {
            if action == SettleAction::Ack {
                self.positions.done(id);
            }
        } else {
            let token = AckToken::new(id.partition, id.epoch, id.sequence);
            self.settlements.push(token.settle(action));
        }
        self.remove(index);
    }

    /// Gives a message back to the driver, and with it all behind it in its lane, so that they come
    /// again in their order. None of those is at a worker: it gives back what it has not started
    /// before it reports a message that did not end well.
    fn give_up_lane(&mut self, index: Index, action: SettleAction) {
        self.push_settlement(index, action);
        self.give_up_behind(index);
        self.remove(index);
    }

    fn give_up_behind(&mut self, index: Index) {
        let mut behind = Vec::new();
        let mut next = self.entries[index as usize].next;
        while next != NONE {
            behind.push(next);
            next = self.entries[next as usize].next;
        }
        for index in &behind {
            self.push_settlement(*index, SettleAction::Release);
        }
        self.drop_many(behind);
    }

    fn push_settlement(&mut self, index: Index, action: SettleAction) {
        let id = self.entries[index as usize].id;
        if !self.cumulative {
            let token = AckToken::new(id.partition, id.epoch, id.sequence);
            self.settlements.push(token.settle(action));
        }
    }

    /// Takes an entry that is first of its lane, or in none, out; the next of the lane may run.
    fn remove(&mut self, index: Index) {
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
    fn drop_many(&mut self, gone: Vec<Index>) {
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
    fn relink(&mut self, key: LaneKey, head: Index, gone: &BTreeSet<Index>) {
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

    /// Retries that are due may run.
    pub(crate) fn fire(&mut self, now: Instant) {
        while let Some(Reverse((due, stamp, index))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            let Some(entry) = self.entries.get_mut(index as usize) else {
                continue;
            };
            if entry.state == State::Waiting && entry.stamp == stamp {
                entry.state = State::Ready;
                self.waiting -= 1;
                self.ready.push_back(index);
            }
        }
    }

    /// When the next retry is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((due, _, _))| *due)
    }

    /// Takes what is to be settled.
    pub(crate) fn take_settlements(&mut self, out: &mut Vec<Settlement>) {
        if self.cumulative {
            self.positions.take_moved(out);
        } else if out.is_empty() {
            std::mem::swap(&mut self.settlements, out);
        } else {
            out.append(&mut self.settlements);
        }
    }

    /// The leases that end before `before`, to be extended; those held for longer than `longest`
    /// are left to run out.
    pub(crate) fn leases_ending(
        &self,
        before: Instant,
        now: Instant,
        longest: Duration,
    ) -> Vec<TokenId> {
        let held = |lease: &Lease| now.saturating_duration_since(lease.received);
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.orphan)
            .filter_map(|(_, entry)| entry.lease.as_ref().map(|lease| (entry, lease)))
            .filter(|(_, lease)| lease.until <= before && held(lease) <= longest)
            .map(|(entry, _)| entry.id)
            .collect()
    }

    /// How long the driver's leases are.
    pub(crate) fn lease_length(&self) -> Duration {
        self.longest_lease_seen
    }

    /// When the first lease ends.
    pub(crate) fn first_lease_end(&self) -> Option<Instant> {
        let live = self.entries.iter().filter(|(_, entry)| !entry.orphan);
        live.filter_map(|(_, entry)| entry.lease.as_ref().map(|lease| lease.until))
            .min()
    }

    /// Leases were extended.
    pub(crate) fn extended(&mut self, ids: &[TokenId], until: Instant) {
        let ids: BTreeSet<_> = ids.iter().collect();
        for (_, entry) in &mut self.entries {
            if let Some(lease) = &mut entry.lease
                && ids.contains(&entry.id)
            {
                lease.until = until;
            }
        }
    }

    /// Deliveries whose lease has run out.
    pub(crate) fn leases_ended(&self, now: Instant) -> Vec<TokenId> {
        let live = self.entries.iter().filter(|(_, entry)| !entry.orphan);
        live.filter(|(_, entry)| entry.lease.as_ref().is_some_and(|lease| lease.until <= now))
            .map(|(_, entry)| entry.id)
            .collect()
    }

    /// These deliveries are no longer ours. Returns the workers that hold some of them.
    pub(crate) fn lose(&mut self, ids: &[TokenId]) -> Vec<(u16, Index)> {
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        self.orphan(|entry| ids.contains(&entry.id))
    }

    /// Partitions are gone. Returns the workers that hold some of their messages.
    pub(crate) fn lose_partitions(&mut self, gone: &[Assignment]) -> Vec<(u16, Index)> {
        let hit = |entry: &Entry| is_of(entry.id, gone);
        let workers = self.orphan(hit);
        self.positions.forget(gone);
        workers
    }

    /// The subscription was opened anew: nothing in flight can be settled any more. What runs may
    /// finish; the rest will be delivered again.
    pub(crate) fn lose_all(&mut self) {
        self.orphan(|_| true);
        self.positions.clear();
        self.settlements.clear();
    }

    /// Stops starting messages of these partitions; returns how many are still in a handler.
    pub(crate) fn hold_partitions(&mut self, going: &[Assignment]) -> usize {
        let unstarted: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_of(entry.id, going) && entry.state != State::Running)
            .map(|(index, _)| index as Index)
            .collect();
        self.drop_many(unstarted);
        let of = |entry: &Entry| is_of(entry.id, going) && !entry.orphan;
        self.entries.iter().filter(|(_, entry)| of(entry)).count()
    }

    fn orphan(&mut self, mut hit: impl FnMut(&Entry) -> bool) -> Vec<(u16, Index)> {
        let mut workers = Vec::new();
        let mut unstarted = Vec::new();
        for (index, entry) in &mut self.entries {
            if entry.orphan || !hit(entry) {
                continue;
            }
            if entry.state == State::Running {
                entry.orphan = true;
                workers.push((entry.worker, index as Index));
            } else {
                unstarted.push(index as Index);
            }
        }
        self.counts.lost += unstarted.len() as u64;
        let behind = self.behind(&unstarted);
        for index in &behind {
            self.push_settlement(*index, SettleAction::Release);
        }
        unstarted.extend(behind);
        self.drop_many(unstarted);
        workers
    }

    /// What waits in a lane behind one of `lost`, which comes again: it goes back too, to come after
    /// it. Positional drivers lose whole partitions, and with them whole lanes.
    fn behind(&self, lost: &[Index]) -> Vec<Index> {
        let mut behind = BTreeSet::new();
        if !self.cumulative {
            for index in lost {
                let mut next = self.entries[*index as usize].next;
                while next != NONE && behind.insert(next) {
                    next = self.entries[next as usize].next;
                }
            }
            for index in lost {
                behind.remove(index);
            }
        }
        behind.into_iter().collect()
    }

    /// Begins the shutdown: gives back everything that is not in a handler.
    pub(crate) fn stop(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.counts.in_flight_at_shutdown = self.entries.len() as u64;
        let due: HashMap<Index, Instant> = self
            .timers
            .drain()
            .filter(|Reverse((_, stamp, index))| {
                let entry = self.entries.get(*index as usize);
                entry.is_some_and(|e| e.state == State::Waiting && e.stamp == *stamp)
            })
            .map(|Reverse((due, _, index))| (index, due))
            .collect();
        let unstarted: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.state != State::Running)
            .map(|(index, _)| index as Index)
            .collect();
        for index in unstarted.iter().copied() {
            let left = due
                .get(&index)
                .map(|due| due.saturating_duration_since(now));
            let backend_can =
                left.is_some_and(|left| self.delayed_redelivery.is_some_and(|l| left <= l));
            let action = if backend_can {
                SettleAction::Retry { after: left }
            } else {
                SettleAction::Release
            };
            if left.is_some() {
                self.counts.given_back_to_retry += 1;
            } else {
                self.counts.released += 1;
            }
            self.push_settlement(index, action);
        }
        self.drop_many(unstarted);
    }

    /// Everything in the slab, for tests of its invariants.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let count = |state: State| {
            self.entries
                .iter()
                .filter(|(_, e)| e.state == state)
                .count()
        };
        assert_eq!(count(State::Running), self.running);
        assert_eq!(count(State::Waiting), self.waiting);
        assert_eq!(count(State::Ready), self.ready.len());
        let bytes: usize = self.entries.iter().map(|(_, e)| e.size as usize).sum();
        assert_eq!(bytes, self.bytes);
        let mut in_lanes = 0;
        for (key, lane) in &self.lanes {
            let mut index = lane.head;
            loop {
                let entry = &self.entries[index as usize];
                assert_eq!(entry.lane, *key);
                assert!(
                    index == lane.head || matches!(entry.state, State::Queued | State::Running)
                );
                in_lanes += 1;
                if entry.next == NONE {
                    assert_eq!(lane.tail, index);
                    break;
                }
                index = entry.next;
            }
            assert_ne!(
                self.entries[lane.head as usize].state,
                State::Queued,
                "a lane is stuck"
            );
        }
        let laned = self
            .entries
            .iter()
            .filter(|(_, e)| e.lane != NO_LANE)
            .count();
        assert_eq!(laned, in_lanes);
    }
}

/// How long a released message of a positional driver waits before it is handled again.
const RELEASE_DELAY: Duration = Duration::from_millis(100);

fn is_of(id: TokenId, assignments: &[Assignment]) -> bool {
    assignments
        .iter()
        .any(|a| a.partition == id.partition && a.epoch == id.epoch)
}

//! The runner's state: what is in flight, what may run next, what is to be settled.
//!
//! Plain data without I/O, threads or clocks: every method is a step that a test can take.
//!
//! - [`lanes`]: what is handled in order.
//! - [`loss`]: leases, lost partitions, and the end.
//! - [`settle`]: what the driver is to be told, and what is written with it.

mod lanes;
mod loss;
mod settle;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use settle::Outputs;
use slab::Slab;
use tokio::time::Instant;

use super::positions::Positions;
use super::settings::{Ordering, RunSettings};
use crate::bus::Activity;
use crate::handler::ContextParts;
use crate::{
    Acknowledgement, Capabilities, Delivery, Message, Metadata, SettleAction, Settlement, TokenId,
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
    pub(crate) after: After,
}

/// What goes on with it.
#[derive(Debug)]
pub(crate) enum After {
    /// Nothing.
    Nothing,
    /// It is handed to a handler again.
    Again(Again),
    /// It ended well, and this is to be written with the acknowledgement.
    Written(Vec<Message>),
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
    /// As `Retry`, without an attempt having been made.
    Postpone(Duration),
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
    rare: Option<Box<Rare>>,
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

/// What most messages do without.
#[derive(Default)]
struct Rare {
    first_failure: Option<SystemTime>,
    lease: Option<Lease>,
}

#[derive(Clone, Copy)]
struct Lease {
    until: Instant,
    received: Instant,
}

impl Entry {
    fn first_failure(&self) -> Option<SystemTime> {
        self.rare.as_ref()?.first_failure
    }

    fn lease(&self) -> Option<Lease> {
        self.rare.as_ref()?.lease
    }
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
    /// Of the entries, and of what waits to be written with their acknowledgement.
    bytes: usize,
    /// What a message to come may weigh: the heaviest of late, so that one fetch does not bring many
    /// times what there is room for.
    typical_size: usize,
    running: usize,
    waiting: usize,
    /// For individual acknowledgement.
    settlements: Vec<Settlement>,
    /// How many of them were taken, and the driver was not told yet.
    settling: usize,
    /// Lanes of which something was given back that the driver does not know of yet.
    barred: HashSet<LaneKey, RandomState>,
    /// For cumulative acknowledgement.
    positions: Positions,
    outputs: Outputs,
    pub(crate) counts: Counts,
    stopping: bool,
    longest_lease_seen: Duration,

    ordering: Ordering,
    max_in_flight: usize,
    max_bytes: usize,
    cumulative: bool,
    exactly_once: bool,
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
            settling: 0,
            barred: HashSet::default(),
            positions: Positions::default(),
            outputs: Outputs::default(),
            counts: Counts::default(),
            stopping: false,
            longest_lease_seen: Duration::ZERO,
            ordering: settings.ordering,
            max_in_flight: settings.max_in_flight,
            max_bytes: settings.max_in_flight_bytes,
            cumulative: driver.acknowledgement == Acknowledgement::Cumulative,
            exactly_once: settings.exactly_once,
            delayed_redelivery: driver.delayed_redelivery,
            longest_wait: settings.longest_wait,
        }
    }

    /// How many more messages may be fetched.
    pub(crate) fn room(&self) -> usize {
        self.room_beside(self.entries.len() + self.settlements.len() + self.settling)
    }

    /// As [`room`](Self::room), once the driver is told of what is done.
    pub(crate) fn room_once_settled(&self) -> usize {
        self.room_beside(self.entries.len())
    }

    fn room_beside(&self, unsettled: usize) -> usize {
        if self.bytes >= self.max_bytes || !self.barred.is_empty() {
            return 0;
        }
        let by_bytes = (self.max_bytes - self.bytes) / self.typical_size.max(1);
        self.max_in_flight
            .saturating_sub(unsettled)
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

    pub(crate) fn activity(&self, now: Instant) -> Activity {
        let in_flight = self.entries.len();
        let (mut waiting, mut blocked) = (0, 0);
        for Reverse((due, stamp, index)) in &self.timers {
            let Some(entry) = self.entries.get(*index as usize) else {
                continue;
            };
            if *due <= now || entry.state != State::Waiting || entry.stamp != *stamp {
                continue;
            }
            waiting += 1;
            let mut next = entry.next;
            while next != NONE {
                blocked += 1;
                next = self.entries[next as usize].next;
            }
        }
        Activity {
            in_flight,
            queued: in_flight - self.running - waiting,
            blocked,
            running: self.running,
            waiting,
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
        if self.barred.contains(&lane) {
            self.settlements.push(token.release());
            return;
        }
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
            rare: lease.map(|until| {
                Box::new(Rare {
                    first_failure: None,
                    lease: Some(Lease {
                        until,
                        received: now,
                    }),
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
        if self.entries.len() == self.entries.capacity() {
            // In smaller steps than a vector's own, which may leave half of it unused.
            self.entries.reserve_exact((self.entries.len() / 4).max(64));
        }
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
                        first_failure: entry.first_failure(),
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
            if self.cumulative || (ended_well && !self.exactly_once) {
                self.remove(done.index);
            } else {
                // It comes again, and what is behind it must come after it.
                self.give_up_behind(done.index);
                self.remove(done.index);
            }
            return;
        }
        match (done.verdict, done.after) {
            (Verdict::Ack, after) => {
                self.counts.acknowledged += 1;
                self.counts.finished += u64::from(self.stopping);
                self.acknowledge(done.index, after);
            }
            (Verdict::DeadLettered, after) => {
                self.counts.dead_lettered += 1;
                self.counts.finished += u64::from(self.stopping);
                self.acknowledge(done.index, after);
            }
            (Verdict::Retry(delay), After::Again(again)) => {
                self.counts.retried += 1;
                if entry.first_failure().is_none() && again.failed_at.is_some() {
                    entry.rare.get_or_insert_default().first_failure = again.failed_at;
                }
                self.retry(done.index, delay, again, now);
            }
            (Verdict::Postpone(delay), After::Again(again)) => {
                entry.attempt -= 1;
                self.retry(done.index, delay, again, now);
            }
            (Verdict::Release, After::Again(again)) if self.cumulative => {
                // There is nobody to give it to: the position is this reader's.
                self.retry(done.index, RELEASE_DELAY, again, now);
            }
            (Verdict::Release, _) => {
                self.counts.released += u64::from(self.stopping);
                self.give_up_lane(done.index, SettleAction::Release);
            }
            (Verdict::Retry(delay) | Verdict::Postpone(delay), _) => {
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
}

/// How long a released message of a positional driver waits before it is handled again.
const RELEASE_DELAY: Duration = Duration::from_millis(100);

//! A consumer group: its position in the log, what it has given out, and what comes again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;
use streams_core::{AckToken, Delivery, Message, SettleAction, TokenId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::stream::Log;

/// How many messages are set aside behind busy keys before the group looks no further.
const LOOK_AHEAD: usize = 1024;
/// Lower bits of a token's epoch: tells deliveries apart that use the same slot.
const SERIAL_BITS: u32 = 12;

pub(crate) type MemberId = u32;

pub(crate) struct Group {
    /// `None` for a reader without a group.
    pub(crate) name: Option<String>,
    /// The offset of the next message to give out for the first time.
    pub(crate) cursor: u64,
    unsettled: Slab<Unsettled>,
    /// To be given out before anything from the log: what comes again, and what was set aside behind
    /// a busy key.
    pending: BTreeMap<u64, Pending>,
    pub(crate) members: Vec<Member>,
    /// Which member holds messages of a key. Kept only while there are several members.
    owners: Option<HashMap<u64, Owner, RandomState>>,
    hasher: RandomState,
    /// Ends of leases: time, slot, serial. Entries whose delivery was settled or extended are stale.
    leases: BTreeSet<(Instant, usize, u32)>,
    serial: u32,
}

pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) wake: Arc<Notify>,
    /// Waits to be woken. Set and cleared under the stream's lock.
    pub(crate) waiting: bool,
}

struct Unsettled {
    message: Message,
    offset: u64,
    attempts: u32,
    member: MemberId,
    serial: u32,
    until: Option<Instant>,
}

struct Pending {
    message: Message,
    /// Earlier deliveries.
    attempts: u32,
    not_before: Option<Instant>,
}

struct Owner {
    member: MemberId,
    count: u32,
}

/// The end of a settlement.
pub(crate) enum Settled {
    /// It was that member's.
    Done,
    /// It was not, any more.
    Lost,
}

impl Group {
    pub(crate) fn new(name: Option<&str>, cursor: u64) -> Self {
        Self {
            name: name.map(str::to_owned),
            cursor,
            unsettled: Slab::new(),
            pending: BTreeMap::new(),
            members: Vec::new(),
            owners: None,
            hasher: RandomState::default(),
            leases: BTreeSet::new(),
            serial: 0,
        }
    }

    /// Messages the group holds back, beside those still in the log.
    pub(crate) fn held(&self) -> usize {
        self.unsettled.len() + self.pending.len()
    }

    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Messages set aside or coming again: those that can be given out now, and the others.
    pub(crate) fn pending_counts(&self, now: Instant) -> (usize, usize) {
        let mut blocked = BTreeSet::new();
        let mut ready = 0;
        for pending in self.pending.values() {
            let key = self.key(&pending.message);
            let owned =
                key.is_some_and(|key| self.owners.as_ref().is_some_and(|o| o.contains_key(&key)));
            let due = pending.not_before.is_none_or(|at| at <= now);
            if due && !owned && key.is_none_or(|key| !blocked.contains(&key)) {
                ready += 1;
            } else {
                blocked.extend(key);
            }
        }
        (ready, self.pending.len() - ready)
    }

    pub(crate) fn join(&mut self, id: MemberId, wake: Arc<Notify>) {
        self.members.push(Member {
            id,
            wake,
            waiting: false,
        });
        if self.members.len() == 2 {
            let mut owners: HashMap<_, Owner, _> = HashMap::default();
            for (_, unsettled) in &self.unsettled {
                if let Some(key) = self.key(&unsettled.message) {
                    let member = unsettled.member;
                    owners
                        .entry(key)
                        .or_insert(Owner { member, count: 0 })
                        .count += 1;
                }
            }
            self.owners = Some(owners);
        }
    }

    /// A member goes: what it has not settled comes again.
    pub(crate) fn leave(&mut self, id: MemberId) {
        self.members.retain(|member| member.id != id);
        let its: Vec<_> = self
            .unsettled
            .iter()
            .filter(|(_, u)| u.member == id)
            .map(|(slot, _)| slot)
            .collect();
        for slot in its {
            self.again(slot, None, true);
        }
        if self.members.len() < 2 {
            self.owners = None;
        }
        self.wake(usize::MAX);
    }

    /// Gives out up to `max` messages to a member.
    pub(crate) fn take(
        &mut self,
        log: &mut Log,
        only_reader: bool,
        member: MemberId,
        max: usize,
        lease: Option<Duration>,
        out: &mut Vec<Delivery>,
    ) {
        let before = out.len();
        if self.pending.is_empty() && self.owners.is_none() {
            let until = lease.map(|lease| Instant::now() + lease);
            let count = max.min(usize::try_from(log.end() - self.cursor).unwrap_or(usize::MAX));
            out.reserve(count);
            for _ in 0..count {
                let Some(message) = log.read(self.cursor, only_reader) else {
                    break;
                };
                self.deliver(message, self.cursor, 1, member, until, out);
                self.cursor += 1;
            }
        } else {
            let now = Instant::now();
            let until = lease.map(|lease| now + lease);
            // Leave the others that wait for work their part of it.
            let others = self
                .members
                .iter()
                .filter(|m| m.waiting && m.id != member)
                .count();
            let there =
                self.pending.len() + usize::try_from(log.end() - self.cursor).unwrap_or(usize::MAX);
            let max = max.min(there.div_ceil(others + 1));
            self.take_in_key_order(log, only_reader, member, max, now, until, out);
        }
        if out.len() - before > 0 && (self.cursor < log.end() || !self.pending.is_empty()) {
            self.wake(1);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn take_in_key_order(
        &mut self,
        log: &mut Log,
        only_reader: bool,
        member: MemberId,
        max: usize,
        now: Instant,
        until: Option<Instant>,
        out: &mut Vec<Delivery>,
    ) {
        let mut taken = 0;
        // Keys of which an earlier message is not given out: later ones wait behind it.
        let mut blocked = BTreeSet::new();
        let mut offsets = Vec::new();
        for (offset, pending) in &self.pending {
            if taken == max {
                break;
            }
            let key = self.key(&pending.message);
            if key.is_some_and(|key| blocked.contains(&key)) {
                continue;
            }
            let due = pending.not_before.is_none_or(|at| at <= now);
            if due && key.is_none_or(|key| self.may_have(key, member)) {
                offsets.push(*offset);
                taken += 1;
            } else {
                blocked.extend(key);
            }
        }
        for offset in offsets {
            if let Some(pending) = self.pending.remove(&offset) {
                self.deliver(
                    pending.message,
                    offset,
                    pending.attempts + 1,
                    member,
                    until,
                    out,
                );
            }
        }
        while taken < max && self.pending.len() < LOOK_AHEAD {
            let offset = self.cursor;
            let Some(message) = log.read(offset, only_reader) else {
                break;
            };
            self.cursor += 1;
            let key = self.key(&message);
            if key.is_none_or(|key| !blocked.contains(&key) && self.may_have(key, member)) {
                self.deliver(message, offset, 1, member, until, out);
                taken += 1;
            } else {
                blocked.extend(key);
                let pending = Pending {
                    message,
                    attempts: 0,
                    not_before: None,
                };
                self.pending.insert(offset, pending);
            }
        }
    }

    fn key(&self, message: &Message) -> Option<u64> {
        message
            .key()
            .map(|key| self.hasher.hash_one(key.as_bytes()))
    }

    /// Whether no other member holds messages of the key.
    fn may_have(&self, key: u64, member: MemberId) -> bool {
        match self.owners.as_ref().and_then(|owners| owners.get(&key)) {
            Some(owner) => owner.member == member,
            None => true,
        }
    }

    fn deliver(
        &mut self,
        message: Message,
        offset: u64,
        attempts: u32,
        member: MemberId,
        until: Option<Instant>,
        out: &mut Vec<Delivery>,
    ) {
        if self.owners.is_some()
            && let Some(key) = self.key(&message)
            && let Some(owners) = &mut self.owners
        {
            owners
                .entry(key)
                .or_insert(Owner { member, count: 0 })
                .count += 1;
        }
        self.serial = (self.serial + 1) & ((1 << SERIAL_BITS) - 1);
        let slot = self.unsettled.insert(Unsettled {
            message: message.clone(),
            offset,
            attempts,
            member,
            serial: self.serial,
            until,
        });
        if let Some(until) = until {
            self.leases.insert((until, slot, self.serial));
        }
        let epoch = (slot as u32) << SERIAL_BITS | self.serial;
        let mut delivery =
            Delivery::new(message, AckToken::new(0, epoch, offset)).attempt(attempts);
        delivery.lease = until;
        out.push(delivery);
    }

    fn find(&self, id: TokenId, member: MemberId) -> Option<usize> {
        let slot = (id.epoch >> SERIAL_BITS) as usize;
        let serial = id.epoch & ((1 << SERIAL_BITS) - 1);
        let unsettled = self.unsettled.get(slot)?;
        let same = unsettled.serial == serial && unsettled.offset == id.sequence;
        (same && unsettled.member == member).then_some(slot)
    }

    pub(crate) fn settle(
        &mut self,
        member: MemberId,
        id: TokenId,
        action: SettleAction,
    ) -> Settled {
        let Some(slot) = self.find(id, member) else {
            return Settled::Lost;
        };
        match action {
            SettleAction::Ack => {
                let unsettled = self.unsettled.remove(slot);
                self.let_key_go(&unsettled.message);
            }
            SettleAction::Retry { after } => {
                let not_before = after.and_then(|after| Instant::now().checked_add(after));
                self.again(slot, not_before, true);
                self.wake(1);
            }
            SettleAction::Release => {
                self.again(slot, None, false);
                self.wake(1);
            }
        }
        Settled::Done
    }

    /// A delivery that was not acknowledged comes again.
    fn again(&mut self, slot: usize, not_before: Option<Instant>, counted: bool) {
        let unsettled = self.unsettled.remove(slot);
        self.let_key_go(&unsettled.message);
        let pending = Pending {
            attempts: unsettled.attempts - u32::from(!counted),
            message: unsettled.message,
            not_before,
        };
        self.pending.insert(unsettled.offset, pending);
    }

    fn let_key_go(&mut self, message: &Message) {
        if self.owners.is_none() {
            return;
        }
        let Some(key) = self.key(message) else {
            return;
        };
        if let Some(owners) = &mut self.owners
            && let Some(owner) = owners.get_mut(&key)
        {
            owner.count -= 1;
            if owner.count == 0 {
                owners.remove(&key);
                // What was set aside behind it may go to anybody.
                if !self.pending.is_empty() {
                    self.wake(1);
                }
            }
        }
    }

    pub(crate) fn extend(&mut self, member: MemberId, id: TokenId, until: Instant) -> bool {
        let Some(slot) = self.find(id, member) else {
            return false;
        };
        let unsettled = &mut self.unsettled[slot];
        if let Some(before) = unsettled.until.replace(until) {
            self.leases.remove(&(before, slot, unsettled.serial));
        }
        self.leases.insert((until, slot, unsettled.serial));
        true
    }

    /// Takes back deliveries whose lease has run out.
    pub(crate) fn expire(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((until, slot, serial)) = self.leases.first().copied() {
            let live = self
                .unsettled
                .get(slot)
                .is_some_and(|u| u.serial == serial && u.until == Some(until));
            if live && until > now {
                break;
            }
            self.leases.pop_first();
            if live {
                self.again(slot, None, true);
                self.wake(1);
            }
        }
    }

    /// When something can be given out, or must be taken back, by the clock alone.
    pub(crate) fn next_time(&self, now: Instant) -> Option<Instant> {
        // One that is due and still here waits for its key, which wakes by itself.
        let retry = self
            .pending
            .values()
            .filter_map(|pending| pending.not_before)
            .filter(|at| *at > now);
        let lease = self.leases.first().map(|(until, _, _)| *until);
        retry.chain(lease).min()
    }

    /// Wakes up to `count` waiting members.
    pub(crate) fn wake(&mut self, count: usize) {
        for member in self
            .members
            .iter_mut()
            .filter(|member| member.waiting)
            .take(count)
        {
            member.waiting = false;
            member.wake.notify_one();
        }
    }

    pub(crate) fn member(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }
}

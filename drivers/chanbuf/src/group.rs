//! A consumer group: its position in the log, what it has given out, and what comes again.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;
use streams_core::{AckToken, Delivery, Message, SettleAction, TokenId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::log::Log;
use crate::members::{MemberId, Members};
use crate::pending::{Held, KeyHash, Pending, Place};

/// Lower bits of a token's epoch: tells deliveries apart that use the same slot.
const SERIAL_BITS: u32 = 12;
/// Most deliveries that can be unsettled at once: the slot takes the upper bits.
pub(crate) const MOST_UNSETTLED: usize = 1 << (u32::BITS - SERIAL_BITS);
/// Times further off than the clock reaches are this far off.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

pub(crate) struct Group {
    /// `None` for a reader without a group.
    pub(crate) name: Option<String>,
    /// The offset of the next message to give out for the first time.
    pub(crate) cursor: u64,
    unsettled: Slab<Unsettled>,
    /// To be given out before anything from the log.
    pending: Pending,
    pub(crate) members: Members,
    /// Which member holds messages of a key. Kept only while there are several members.
    owners: Option<HashMap<KeyHash, Owner, RandomState>>,
    hasher: RandomState,
    /// Ends of leases, with the slot of the delivery.
    leases: BTreeSet<(Instant, usize)>,
    serial: u32,
}

struct Unsettled {
    message: Message,
    offset: u64,
    attempts: u32,
    serial: u32,
    member: MemberId,
    /// Boxed, for most brokers do not lease.
    until: Option<Box<Instant>>,
}

struct Owner {
    member: MemberId,
    count: u32,
}

/// Who takes, and how much.
pub(crate) struct Ask {
    pub(crate) member: MemberId,
    pub(crate) max: usize,
    pub(crate) lease: Option<Duration>,
    /// Whether it lets others run before it asks again when it is told to give way.
    pub(crate) yields: bool,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Some,
    None,
    /// There may be something, which others are about to ask for, who have had nothing yet.
    GiveWay,
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
            pending: Pending::default(),
            members: Members::default(),
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

    /// Whether nothing can be given out before something is settled.
    pub(crate) fn is_full(&self) -> bool {
        self.unsettled.len() == MOST_UNSETTLED
    }

    /// Messages set aside or coming again: those that can be given out now, and the others.
    pub(crate) fn pending_counts(&mut self) -> (usize, usize) {
        self.expire();
        self.fire(Instant::now());
        let ready = self.pending.ready();
        (ready, self.pending.len() - ready)
    }

    pub(crate) fn join(&mut self, id: MemberId, wake: Arc<Notify>) {
        self.members.join(id, wake);
        if self.members.len() == 2 {
            self.track_keys();
        }
    }

    /// From now on it matters who holds which keys.
    fn track_keys(&mut self) {
        let mut owners: HashMap<_, Owner, _> = HashMap::default();
        for (_, unsettled) in &self.unsettled {
            if let Some(key) = self.hash(&unsettled.message) {
                let member = unsettled.member;
                let owner = owners.entry(key).or_insert(Owner { member, count: 0 });
                owner.count += 1;
            }
        }
        self.pending.reassign(|key| holder(Some(&owners), key));
        self.owners = Some(owners);
    }

    /// A member goes: what it has not settled comes again.
    pub(crate) fn leave(&mut self, id: MemberId) {
        self.members.leave(id);
        let its: Vec<_> = self
            .unsettled
            .iter()
            .filter(|(_, u)| u.member == id)
            .map(|(slot, _)| slot)
            .collect();
        for slot in its {
            self.again(slot, None, true);
        }
        if self.members.len() < 2 && self.owners.take().is_some() {
            self.pending.reassign(|_| None);
        }
        self.members.wake(usize::MAX);
    }

    /// Gives out up to `max` messages to a member, from `pending` and then from the log.
    pub(crate) fn take(
        &mut self,
        log: &mut Log,
        only_reader: bool,
        ask: &Ask,
        out: &mut Vec<Delivery>,
    ) -> Taken {
        let before = out.len();
        let room = MOST_UNSETTLED.saturating_sub(self.unsettled.len());
        let max = ask.max.min(room);
        if self.owners.is_none() && self.pending.is_empty() {
            let until = ask.lease.map(|lease| later(Instant::now(), lease));
            let count = max.min(self.unread(log));
            out.reserve(count);
            for _ in 0..count {
                let Some(message) = log.read(self.cursor, only_reader) else {
                    break;
                };
                self.deliver(message, None, self.cursor, 1, ask.member, until, out);
                self.cursor += 1;
            }
        } else {
            let now = Instant::now();
            self.fire(now);
            let there = self.pending.due() + self.unread(log);
            let (others, gives_way) = self.members.others(ask.member);
            if gives_way && there > 0 {
                // Once is enough, whether or not it comes to asking again.
                self.members.asked(ask.member, !ask.yields);
                return Taken::GiveWay;
            }
            // Leave the others that are about to ask their part.
            let max = max.min(there.div_ceil(others + 1));
            self.take_in_key_order(log, only_reader, ask, max, now, out);
        }
        let taken = out.len() > before;
        self.members.asked(ask.member, taken);
        if !taken {
            return Taken::None;
        }
        if self.cursor < log.end() || self.pending.is_ready() {
            self.members.wake(1);
        }
        Taken::Some
    }

    fn take_in_key_order(
        &mut self,
        log: &mut Log,
        only_reader: bool,
        ask: &Ask,
        max: usize,
        now: Instant,
        out: &mut Vec<Delivery>,
    ) {
        let member = ask.member;
        let until = ask.lease.map(|lease| later(now, lease));
        let mut taken = 0;
        while taken < max
            && let Some((offset, held)) = self.pending.pop(member, self.owners.is_some(), now)
        {
            let attempts = held.attempts.saturating_add(1);
            self.deliver(held.message, held.key, offset, attempts, member, until, out);
            taken += 1;
        }
        // Every message behind a busy key is looked at once and set aside, so that a slow key never
        // hides the others. The stream's capacity bounds how many that are.
        while taken < max
            && let Some(message) = log.read(self.cursor, only_reader)
        {
            let offset = self.cursor;
            self.cursor += 1;
            let key = if self.owners.is_some() || self.pending.has_keys() {
                self.hash(&message)
            } else {
                None
            };
            let holder = key.and_then(|key| self.holder(key));
            let behind = key.is_some_and(|key| self.pending.has(key));
            if behind || holder.is_some_and(|holder| holder != member) {
                let held = Held::new(message, key, 0, None);
                let place = self.pending.insert(offset, held, holder);
                self.wake_for(place);
            } else {
                self.deliver(message, key, offset, 1, member, until, out);
                taken += 1;
            }
        }
    }

    fn unread(&self, log: &Log) -> usize {
        usize::try_from(log.end() - self.cursor).unwrap_or(usize::MAX)
    }

    fn hash(&self, message: &Message) -> Option<KeyHash> {
        let key = message.key()?;
        Some(self.hasher.hash_one(key.as_bytes()))
    }

    fn holder(&self, key: KeyHash) -> Option<MemberId> {
        holder(self.owners.as_ref(), key)
    }

    #[allow(clippy::too_many_arguments)]
    fn deliver(
        &mut self,
        message: Message,
        key: Option<KeyHash>,
        offset: u64,
        attempts: u32,
        member: MemberId,
        until: Option<Instant>,
        out: &mut Vec<Delivery>,
    ) {
        if let (Some(owners), Some(key)) = (&mut self.owners, key) {
            let owner = owners.entry(key).or_insert(Owner { member, count: 0 });
            owner.count += 1;
        }
        self.serial = (self.serial + 1) & ((1 << SERIAL_BITS) - 1);
        if self.unsettled.len() == self.unsettled.capacity() {
            // In smaller steps than a vector's own, which may leave half of it unused.
            self.unsettled
                .reserve_exact((self.unsettled.len() / 4).max(64));
        }
        let slot = self.unsettled.insert(Unsettled {
            message: message.clone(),
            offset,
            attempts,
            serial: self.serial,
            member,
            until: until.map(Box::new),
        });
        if let Some(until) = until {
            self.leases.insert((until, slot));
        }
        let epoch = (slot as u32) << SERIAL_BITS | self.serial;
        let token = AckToken::new(0, epoch, offset);
        let mut delivery = Delivery::new(message, token).attempt(attempts);
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

    /// Whether a delivery is unsettled and the member's.
    pub(crate) fn holds(&self, member: MemberId, id: TokenId) -> bool {
        self.find(id, member).is_some()
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
                self.end_lease(slot);
                let unsettled = self.unsettled.remove(slot);
                self.let_key_go(&unsettled.message);
            }
            SettleAction::Retry { after } => {
                let after = after.filter(|after| !after.is_zero());
                self.again(slot, after.map(|after| later(Instant::now(), after)), true);
            }
            SettleAction::Release => self.again(slot, None, false),
        }
        Settled::Done
    }

    fn end_lease(&mut self, slot: usize) {
        if let Some(until) = &self.unsettled[slot].until {
            self.leases.remove(&(**until, slot));
        }
    }

    /// A delivery that was not acknowledged comes again.
    fn again(&mut self, slot: usize, not_before: Option<Instant>, counted: bool) {
        self.end_lease(slot);
        let Unsettled {
            message,
            offset,
            attempts,
            ..
        } = self.unsettled.remove(slot);
        let key = self.hash(&message);
        let attempts = attempts - u32::from(!counted);
        let held = Held::new(message.clone(), key, attempts, not_before);
        let holder = key.and_then(|key| self.holder(key));
        let place = self.pending.insert(offset, held, holder);
        self.let_key_go(&message);
        self.wake_for(place);
    }

    #[inline]
    fn let_key_go(&mut self, message: &Message) {
        if self.owners.is_some() {
            self.let_owned_key_go(message);
        }
    }

    fn let_owned_key_go(&mut self, message: &Message) {
        if let Some(key) = self.hash(message)
            && let Some(owners) = &mut self.owners
            && let Some(owner) = owners.get_mut(&key)
        {
            owner.count -= 1;
            if owner.count == 0 {
                owners.remove(&key);
                // What was set aside behind it may go to anybody.
                if self.pending.free(key) {
                    self.members.wake(1);
                }
            }
        }
    }

    pub(crate) fn extend(&mut self, member: MemberId, id: TokenId, by: Duration) -> bool {
        let Some(slot) = self.find(id, member) else {
            return false;
        };
        let until = later(Instant::now(), by);
        if let Some(before) = self.unsettled[slot].until.replace(Box::new(until)) {
            self.leases.remove(&(*before, slot));
        }
        self.leases.insert((until, slot));
        true
    }

    /// Takes back deliveries whose lease has run out.
    pub(crate) fn expire(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((until, slot)) = self.leases.first().copied()
            && until <= now
        {
            self.again(slot, None, true);
        }
    }

    /// Lets those come again whose time has come.
    fn fire(&mut self, now: Instant) {
        let owners = self.owners.as_ref();
        let mut fired = Vec::new();
        self.pending
            .fire(now, |key| holder(owners, key), |one| fired.push(one));
        for holder in fired {
            self.wake_for(Place::Ready(holder));
        }
    }

    /// When something can be given out, or must be taken back, by the clock alone.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        let lease = self.leases.first().map(|(until, _)| *until);
        [self.pending.next_time(), lease]
            .into_iter()
            .flatten()
            .min()
    }

    /// Wakes who may take what is now there.
    fn wake_for(&mut self, place: Place) {
        match place {
            Place::Ready(None) => self.members.wake(1),
            Place::Ready(Some(id)) => self.members.wake_only(id),
            Place::Behind | Place::Timer(_) => {}
        }
    }
}

fn holder(owners: Option<&HashMap<KeyHash, Owner, RandomState>>, key: KeyHash) -> Option<MemberId> {
    owners?.get(&key).map(|owner| owner.member)
}

fn later(now: Instant, by: Duration) -> Instant {
    now + by.min(FAR)
}

#[cfg(test)]
mod tests;

//! The messages a group holds back: those that come again, and those set aside behind others of
//! their key.
//!
//! What can be given out is known at any time: no operation looks at more than the messages it is
//! about, however many are held back.

use std::collections::{BTreeMap, BTreeSet};

use streams_core::Message;
use tokio::time::Instant;

use crate::members::MemberId;

/// The hash of a message's key. Two keys with the same hash wait for each other, and that is all.
pub(crate) type KeyHash = u64;

/// Messages by offset.
#[derive(Default)]
pub(crate) struct Pending {
    messages: BTreeMap<u64, Held>,
    /// The offsets of each key. Only the first of a key is anywhere else than [`Place::Behind`].
    by_key: BTreeSet<(KeyHash, u64)>,
    /// Those whose time has not come.
    timers: BTreeSet<(Instant, u64)>,
    /// Those that can be given out, to anybody or to one member.
    ready: BTreeSet<(Option<MemberId>, u64)>,
}

/// A message held back.
pub(crate) struct Held {
    pub(crate) message: Message,
    pub(crate) key: Option<KeyHash>,
    /// Earlier deliveries.
    pub(crate) attempts: u32,
    not_before: Option<Instant>,
    place: Place,
}

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// For an earlier message of its key.
    Behind,
    /// For its time.
    Timer(Instant),
    /// To be taken, by anybody or by the member that holds other messages of its key.
    Ready(Option<MemberId>),
}

impl Held {
    pub(crate) fn new(
        message: Message,
        key: Option<KeyHash>,
        attempts: u32,
        not_before: Option<Instant>,
    ) -> Self {
        Self {
            message,
            key,
            attempts,
            not_before,
            place: Place::Behind,
        }
    }
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many can be given out.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// About how many could be given out: all but those whose time has not come.
    pub(crate) fn due(&self) -> usize {
        self.messages.len() - self.timers.len()
    }

    /// Whether some can be given to anybody.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
            .first()
            .is_some_and(|(holder, _)| holder.is_none())
    }

    pub(crate) fn has_keys(&self) -> bool {
        !self.by_key.is_empty()
    }

    /// Whether messages of a key are held back.
    pub(crate) fn has(&self, key: KeyHash) -> bool {
        self.head(key).is_some()
    }

    /// When the next timer ends.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Holds a message back. `holder` is the member that holds others of its key.
    pub(crate) fn insert(&mut self, offset: u64, held: Held, holder: Option<MemberId>) -> Place {
        let key = held.key;
        let not_before = held.not_before;
        let head = key.and_then(|key| self.head(key));
        self.messages.insert(offset, held);
        if let Some(key) = key {
            self.by_key.insert((key, offset));
        }
        match head {
            Some(head) if head < offset => return Place::Behind,
            Some(head) => self.put(head, Place::Behind),
            None => {}
        }
        let place = not_before.map_or(Place::Ready(holder), Place::Timer);
        self.put(offset, place);
        place
    }

    /// Takes the first that `member` may have. With `keeps`, the next of its key is kept for the
    /// same member.
    pub(crate) fn pop(
        &mut self,
        member: MemberId,
        keeps: bool,
        now: Instant,
    ) -> Option<(u64, Held)> {
        let first = |holder| {
            let mut range = self.ready.range((holder, 0)..=(holder, u64::MAX));
            range.next().map(|(_, offset)| *offset)
        };
        let offset = match (first(None), first(Some(member))) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        self.put(offset, Place::Behind);
        let held = self.messages.remove(&offset)?;
        if let Some(key) = held.key {
            self.by_key.remove(&(key, offset));
            if let Some(next) = self.head(key) {
                let holder = keeps.then_some(member);
                let waits = self.messages.get(&next).and_then(|held| held.not_before);
                let place = match waits.filter(|at| *at > now) {
                    Some(at) => Place::Timer(at),
                    None => Place::Ready(holder),
                };
                self.put(next, place);
            }
        }
        Some((offset, held))
    }

    /// Makes those ready whose time has come; says for whom.
    pub(crate) fn fire(
        &mut self,
        now: Instant,
        holder_of: impl Fn(KeyHash) -> Option<MemberId>,
        mut fired: impl FnMut(Option<MemberId>),
    ) {
        while let Some((at, offset)) = self.timers.first().copied()
            && at <= now
        {
            let key = self.messages.get(&offset).and_then(|held| held.key);
            let holder = key.and_then(&holder_of);
            self.put(offset, Place::Ready(holder));
            fired(holder);
        }
    }

    /// No member holds messages of the key any more. Says whether anybody may have one now.
    pub(crate) fn free(&mut self, key: KeyHash) -> bool {
        let Some(head) = self.head(key) else {
            return false;
        };
        let kept = self.messages.get(&head).map(|held| held.place);
        if let Some(Place::Ready(Some(_))) = kept {
            self.put(head, Place::Ready(None));
            return true;
        }
        false
    }

    /// Looks anew who holds which keys.
    pub(crate) fn reassign(&mut self, holder_of: impl Fn(KeyHash) -> Option<MemberId>) {
        for (_, offset) in std::mem::take(&mut self.ready) {
            if let Some(held) = self.messages.get_mut(&offset) {
                let holder = held.key.and_then(&holder_of);
                held.place = Place::Ready(holder);
                self.ready.insert((holder, offset));
            }
        }
    }

    fn head(&self, key: KeyHash) -> Option<u64> {
        let mut range = self.by_key.range((key, 0)..=(key, u64::MAX));
        range.next().map(|(_, offset)| *offset)
    }

    fn put(&mut self, offset: u64, place: Place) {
        let Some(held) = self.messages.get_mut(&offset) else {
            return;
        };
        match std::mem::replace(&mut held.place, place) {
            Place::Behind => {}
            Place::Timer(at) => {
                self.timers.remove(&(at, offset));
            }
            Place::Ready(holder) => {
                self.ready.remove(&(holder, offset));
            }
        }
        match place {
            Place::Behind => {}
            Place::Timer(at) => {
                self.timers.insert((at, offset));
            }
            Place::Ready(holder) => {
                self.ready.insert((holder, offset));
            }
        }
    }
}

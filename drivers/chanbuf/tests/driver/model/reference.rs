//! The model: a stream and its groups, as simple as can be.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use streams_core::{Clock, Delivery, Message};
use tokio::time::Instant;

use crate::common::number;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// Not given out, and not to be before then.
    Here { from: Instant },
    /// At a member, until then where it is leased.
    Held {
        member: usize,
        until: Option<Instant>,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) message: Message,
    pub(super) attempts: u32,
    pub(super) place: Place,
}

/// A group's unsettled copies by offset.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) name: Option<&'static str>,
    pub(super) copies: BTreeMap<u64, Copy>,
}

impl Group {
    /// What a member may be given next: due, and of its key nothing earlier is here and nothing is
    /// at another member.
    pub(super) fn next(&self, member: usize, now: Instant) -> Option<u64> {
        let may = |(offset, copy): &(&u64, &Copy)| {
            let due = matches!(copy.place, Place::Here { from } if from <= now);
            let key = copy.message.key();
            let free = |(other, its): (&u64, &Copy)| {
                its.message.key() != key
                    || match its.place {
                        Place::Here { .. } => other >= *offset,
                        Place::Held { member: at, .. } => at == member,
                    }
            };
            due && (key.is_none() || self.copies.iter().all(free))
        };
        self.copies.iter().find(may).map(|(offset, _)| *offset)
    }

    pub(super) fn let_go(&mut self, member: usize, now: Instant) {
        for copy in self.copies.values_mut() {
            if matches!(copy.place, Place::Held { member: at, .. } if at == member) {
                copy.place = Place::Here { from: now };
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        for copy in self.copies.values_mut() {
            if matches!(copy.place, Place::Held { until: Some(until), .. } if until <= now) {
                copy.place = Place::Here { from: now };
            }
        }
    }
}

/// What the broker should do.
pub(super) struct Model {
    pub(super) capacity: usize,
    pub(super) retain: usize,
    pub(super) lease: Option<Duration>,
    pub(super) clock: Clock,
    /// Everything ever written, by offset.
    pub(super) log: Vec<Message>,
    /// By number, as members know them.
    pub(super) groups: BTreeMap<usize, Group>,
    /// By due time, then in order.
    pub(super) scheduled: BTreeMap<(SystemTime, usize), Message>,
}

impl Model {
    pub(super) fn is_held(&self) -> bool {
        self.retain > 0 || !self.groups.is_empty()
    }

    pub(super) fn room(&self) -> usize {
        let used = self.groups.values().map(|group| group.copies.len()).max();
        used.map_or(usize::MAX, |used| self.capacity.saturating_sub(used))
    }

    pub(super) fn add(&mut self, message: &Message) {
        let offset = self.log.len() as u64;
        self.log.push(message.clone());
        let from = Instant::now();
        for group in self.groups.values_mut() {
            let copy = Copy {
                message: message.clone(),
                attempts: 0,
                place: Place::Here { from },
            };
            group.copies.insert(offset, copy);
        }
    }

    /// What comes by the clock alone.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        self.groups.values_mut().for_each(|group| group.expire(now));
        while self.is_held()
            && self.room() > 0
            && let Some(first) = self.scheduled.first_entry()
            && first.key().0 <= self.clock.now()
        {
            let message = first.remove();
            self.add(&message);
        }
    }

    pub(super) fn deliver(&mut self, group: usize, member: usize, delivery: &Delivery) {
        let now = Instant::now();
        let lease = self.lease;
        let group = self.groups.get_mut(&group).expect("the group is there");
        let offset = delivery.token.id().sequence;
        assert_eq!(group.next(member, now), Some(offset), "what comes next");
        let copy = group.copies.get_mut(&offset).expect("it is there");
        copy.attempts += 1;
        assert_eq!(delivery.attempt, Some(copy.attempts));
        assert_eq!(number(&delivery.message), number(&copy.message));
        let until = lease.map(|lease| now + lease);
        assert_eq!(delivery.lease, until);
        copy.place = Place::Held { member, until };
    }
}

//! Messages that are not due yet.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use streams_core::{Message, MessageId, Scheduled};

/// When a message is due, and how many were scheduled before it.
type Place = (SystemTime, u64);

/// Scheduled messages by due time, then in the order they were scheduled.
#[derive(Default)]
pub(crate) struct Delayed {
    queue: BTreeMap<Place, Message>,
    /// One id may have been scheduled more than once.
    by_id: HashMap<MessageId, Vec<Place>, foldhash::fast::RandomState>,
    next: u64,
}

impl Delayed {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn insert(&mut self, message: Message, due: SystemTime) {
        let place = (due, self.next);
        self.next += 1;
        let places = self.by_id.entry(message.id().clone()).or_default();
        places.push(place);
        self.queue.insert(place, message);
    }

    /// Takes back all that is scheduled under an id: a copy that came all the same would be as if
    /// nothing had been cancelled.
    pub(crate) fn cancel(&mut self, id: &MessageId) -> bool {
        let places = self.by_id.remove(id).unwrap_or_default();
        for place in &places {
            self.queue.remove(place);
        }
        !places.is_empty()
    }

    /// The first of them, with when they are due.
    pub(crate) fn list(&self, limit: usize) -> Vec<Scheduled> {
        let first = self.queue.iter().take(limit);
        first
            .map(|((due, _), message)| Scheduled::new(message.clone(), *due))
            .collect()
    }

    /// When the first is due.
    pub(crate) fn first(&self) -> Option<SystemTime> {
        self.queue.first_key_value().map(|((due, _), _)| *due)
    }

    /// When the first that is not due yet will be.
    #[cfg(feature = "testing")]
    pub(crate) fn first_after(&self, now: SystemTime) -> Option<SystemTime> {
        let later = self.queue.range((now, u64::MAX)..);
        later.map(|((due, _), _)| *due).next()
    }

    /// Takes the first, if it is due.
    pub(crate) fn pop(&mut self, now: SystemTime) -> Option<Message> {
        let entry = self.queue.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let (place, message) = entry.remove_entry();
        if let Some(places) = self.by_id.get_mut(message.id()) {
            places.retain(|other| *other != place);
            if places.is_empty() {
                self.by_id.remove(message.id());
            }
        }
        Some(message)
    }
}

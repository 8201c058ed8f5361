//! Messages that are not due yet.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use streams_core::{Message, MessageId};

/// Scheduled messages by due time, then in the order they were scheduled.
#[derive(Default)]
pub(crate) struct Delayed {
    queue: BTreeMap<(SystemTime, u64), Message>,
    by_id: HashMap<MessageId, (SystemTime, u64), foldhash::fast::RandomState>,
    next: u64,
}

impl Delayed {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Schedules a message. One already scheduled under the same id stays too, and can then only be
    /// cancelled by the later.
    pub(crate) fn insert(&mut self, message: Message, due: SystemTime) {
        let at = (due, self.next);
        self.next += 1;
        self.by_id.insert(message.id().clone(), at);
        self.queue.insert(at, message);
    }

    pub(crate) fn cancel(&mut self, id: &MessageId) -> bool {
        let at = self.by_id.remove(id);
        at.is_some_and(|at| self.queue.remove(&at).is_some())
    }

    /// When the first is due.
    pub(crate) fn first(&self) -> Option<SystemTime> {
        self.queue.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes the first, if it is due.
    pub(crate) fn pop(&mut self, now: SystemTime) -> Option<Message> {
        let entry = self.queue.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let (at, message) = entry.remove_entry();
        if self.by_id.get(message.id()) == Some(&at) {
            self.by_id.remove(message.id());
        }
        Some(message)
    }
}

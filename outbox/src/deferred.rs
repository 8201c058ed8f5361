//! Rows that are tried again later, and what must not overtake them.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher as _;

use streams_core::Message;
use tokio::time::Instant;

/// What keeps its order: the messages of one key in one stream, by a hash of both. Two that share a
/// hash wait for each other needlessly, and that is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u64);

/// The rows that were deferred, in their order.
#[derive(Debug, Default)]
pub struct Deferred {
    hasher: RandomState,
    /// By a number that rises with each row.
    rows: BTreeMap<u64, Entry>,
    numbers: HashMap<String, u64>,
    next: u64,
    /// How many rows hold each lane.
    lanes: HashMap<Lane, u32>,
    /// How much of it there is: lanes of rows, but each row counts.
    size: usize,
}

#[derive(Debug)]
struct Entry {
    id: String,
    due: Instant,
    /// It has failed before.
    suspect: bool,
    lanes: Vec<Lane>,
}

impl Entry {
    fn size(&self) -> usize {
        self.lanes.len().max(1)
    }
}

impl Deferred {
    /// The lane of a message. One without a key has no order to keep.
    pub fn lane(&self, message: &Message) -> Option<Lane> {
        let key = message.key()?.as_bytes();
        Some(Lane(self.hasher.hash_one((message.stream().as_str(), key))))
    }

    /// The lanes of messages, each once.
    pub fn lanes(&self, messages: &[Message]) -> Vec<Lane> {
        let mut lanes: Vec<_> = messages.iter().filter_map(|m| self.lane(m)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    /// Whether a row here holds the lane.
    pub fn holds(&self, lane: Lane) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// The names of the rows, in their order.
    pub fn ids(&self) -> Vec<String> {
        self.rows.values().map(|entry| entry.id.clone()).collect()
    }

    /// Whether a row is here.
    pub fn contains(&self, id: &str) -> bool {
        self.numbers.contains_key(id)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// What it takes of its limit: the keys of each row, at least one a row.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Keeps a row. One that is here already stays in its place.
    pub fn put(&mut self, id: &str, due: Instant, suspect: bool, lanes: Vec<Lane>) {
        let number = self.take(id).unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        for lane in &lanes {
            *self.lanes.entry(*lane).or_default() += 1;
        }
        let entry = Entry {
            id: id.to_owned(),
            due,
            suspect,
            lanes,
        };
        self.size += entry.size();
        self.numbers.insert(id.to_owned(), number);
        self.rows.insert(number, entry);
    }

    /// Forgets a row, if it is here.
    pub fn remove(&mut self, id: &str) {
        self.take(id);
    }

    fn take(&mut self, id: &str) -> Option<u64> {
        let number = self.numbers.remove(id)?;
        let entry = self.rows.remove(&number)?;
        self.size -= entry.size();
        for lane in &entry.lanes {
            if let Some(count) = self.lanes.get_mut(lane) {
                *count -= 1;
                if *count == 0 {
                    self.lanes.remove(lane);
                }
            }
        }
        Some(number)
    }

    /// The rows whose turn it is, in their order, at most so many; and when to ask again if nothing
    /// happens before.
    ///
    /// A row that has failed before goes alone: what follows it on its lanes waits until it is known
    /// to have gone out.
    pub fn due(&self, now: Instant, most: usize) -> (Vec<String>, Option<Instant>) {
        let mut ids = Vec::new();
        let mut next: Option<Instant> = None;
        let mut closed = HashSet::new();
        for entry in self.rows.values() {
            let free = !entry.lanes.iter().any(|lane| closed.contains(lane));
            if free && entry.due <= now {
                if ids.len() == most {
                    return (ids, Some(now));
                }
                ids.push(entry.id.clone());
                if !entry.suspect {
                    continue;
                }
            } else if free {
                next = Some(next.map_or(entry.due, |next| next.min(entry.due)));
            }
            closed.extend(entry.lanes.iter().copied());
        }
        (ids, next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lanes(numbers: &[u64]) -> Vec<Lane> {
        numbers.iter().copied().map(Lane).collect()
    }

    #[test]
    fn messages_of_a_key_in_a_stream_share_a_lane() {
        let deferred = Deferred::default();
        let message = |stream: &str, key: Option<&str>| {
            let message = Message::builder(stream).maybe_key(key.map(Into::into));
            message.data("x").build().unwrap()
        };
        let lane = |stream, key| deferred.lane(&message(stream, key));
        assert_eq!(lane("a", Some("k")), lane("a", Some("k")));
        assert_ne!(lane("a", Some("k")), lane("b", Some("k")));
        assert_ne!(lane("a", Some("k")), lane("a", Some("")));
        assert_eq!(lane("a", None), None);
        let twice = [message("a", Some("k")), message("a", Some("k"))];
        assert_eq!(deferred.lanes(&twice).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order_and_after_the_delay() {
        let mut deferred = Deferred::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        deferred.put("failed", later, true, lanes(&[1]));
        deferred.put("behind", now, false, lanes(&[1, 2]));
        deferred.put("behind both", now, false, lanes(&[2]));
        deferred.put("free", now, false, lanes(&[3]));
        deferred.put("after free", now, false, lanes(&[3]));
        assert_eq!(deferred.size(), 6);
        let (ids, next) = deferred.due(now, 10);
        assert_eq!(ids, ["free", "after free"]);
        assert_eq!(next, Some(later));
        let (ids, next) = deferred.due(now, 1);
        assert_eq!((ids.len(), next), (1, Some(now)), "there is more at once");

        // A row that has failed goes alone.
        let (ids, _) = deferred.due(later, 1);
        assert_eq!(ids, ["failed"]);
        let (ids, next) = deferred.due(later, 10);
        assert_eq!(ids, ["failed", "free", "after free"]);
        assert_eq!(next, None);

        // It fails again, and keeps its place.
        deferred.put("failed", later + Duration::from_secs(1), true, lanes(&[1]));
        let (ids, _) = deferred.due(later, 10);
        assert_eq!(ids, ["free", "after free"]);

        // Once it is gone the others are free, all at once.
        deferred.remove("failed");
        deferred.remove("failed");
        let (ids, _) = deferred.due(now, 2);
        assert_eq!(ids, ["behind", "behind both"]);
        for id in ["behind", "behind both", "free", "after free"] {
            deferred.remove(id);
        }
        assert_eq!((deferred.len(), deferred.size()), (0, 0));
        assert!(!deferred.holds(Lane(1)) && deferred.lanes.is_empty());
    }
}

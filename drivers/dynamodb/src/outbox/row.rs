//! What stands in the outbox table.
//!
//! | `partition_id` | `sequence_id` | |
//! | --- | --- | --- |
//! | `ready-<n>` | place in the order, in hex, and the batch's KSUID | messages that wait, in their order |
//! | `key-<hash>` | `last` | how far a key of a stream has come |
//! | `set-aside` | as it was | messages that could not be relayed |
//! | `kept-<n>` | as it was | messages that were relayed and are kept |
//! | `settings` | `settings` | the number of partitions |
//!
//! All that waits of one key is in one partition, and a partition holds nothing else: whoever reads it
//! from its beginning finds what waits, and skips nothing, however late it was committed.

use sha2::{Digest as _, Sha256};
use streams_core::Message;

use crate::item::{Item, item, text};

pub(crate) const PARTITION: &str = "partition_id";
pub(crate) const SEQUENCE: &str = "sequence_id";
pub(crate) const RAW_DATA: &str = "raw_data";
pub(crate) const MESSAGES: &str = "message_count";
pub(crate) const ATTEMPTS: &str = "write_retries";
pub(crate) const LAST_ERROR: &str = "last_write_error";
pub(crate) const LAST_SEQUENCE: &str = "last_sequence";
pub(crate) const PARTITIONS: &str = "partition_count";

pub(crate) const SETTINGS: &str = "settings";
pub(crate) const SET_ASIDE: &str = "set-aside";
/// How the partitions of messages that wait begin.
pub(crate) const READY: &str = "ready-";
/// How those of messages that are kept begin.
pub(crate) const KEPT: &str = "kept-";

/// The name of a partition of messages that wait.
pub(crate) fn ready(partition: u32) -> String {
    format!("{READY}{partition}")
}

/// Where a row is: its partition and its place there, in one text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RowId(String);

impl RowId {
    pub(crate) fn new(partition: &str, sequence: &str) -> Self {
        Self(format!("{partition} {sequence}"))
    }

    /// One that was made by `new`, as text.
    pub(crate) fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn partition(&self) -> &str {
        self.0
            .split_once(' ')
            .map_or("", |(partition, _)| partition)
    }

    pub(crate) fn sequence(&self) -> &str {
        self.0.split_once(' ').map_or("", |(_, sequence)| sequence)
    }

    pub(crate) fn key(&self) -> Item {
        key(self.partition(), self.sequence())
    }
}

/// The key of an item.
pub(crate) fn key(partition: &str, sequence: &str) -> Item {
    item([(PARTITION, text(partition)), (SEQUENCE, text(sequence))])
}

/// A hash of a key in a stream, which is the same in all processes and versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyHash([u8; 16]);

impl KeyHash {
    /// `None` if the message has no key.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let stream = message.stream().as_str().as_bytes();
        let mut hash = Sha256::new();
        hash.update((stream.len() as u64).to_be_bytes());
        hash.update(stream);
        hash.update(message.key()?.as_bytes());
        let hash = hash.finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        Some(Self(first))
    }

    /// The partition of its messages, one of so many.
    pub(crate) fn partition(self, partitions: u32) -> u32 {
        let number = u128::from_be_bytes(self.0) % u128::from(partitions);
        u32::try_from(number).unwrap_or_default()
    }

    /// The key of the item that says how far it has come.
    pub(crate) fn head(self) -> Item {
        let hash = u128::from_be_bytes(self.0);
        key(&format!("key-{hash:032x}"), "last")
    }
}

/// A place in the order, as text that sorts like it.
pub(crate) fn place(place: u64) -> String {
    format!("{place:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(stream: &str, key: &str) -> KeyHash {
        let message = Message::builder(stream).key(key).data("x").build();
        KeyHash::of(&message.unwrap()).unwrap()
    }

    #[test]
    fn partitions_are_those_of_every_version() {
        // Changing these would break the order of what waits during an upgrade.
        let partitions = ["a", "b", "c", "17"].map(|key| hash("payment.made", key).partition(8));
        assert_eq!(partitions, [6, 6, 6, 2]);
        assert_ne!(hash("ab", "c"), hash("a", "bc"));
    }

    #[test]
    fn rows_are_named_by_where_they_are() {
        let row = RowId::new("ready-1", "0001-x");
        assert_eq!(RowId::from_text(row.as_str()), row);
        assert_eq!((row.partition(), row.sequence()), ("ready-1", "0001-x"));
        assert!(place(9) < place(16) && place(u64::MAX).len() == 16);
    }
}

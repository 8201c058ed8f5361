//! Benchmarks of the workspace against their targets. Run them with `cargo xtask bench`.
//!
//! - `times`: ratios of times, each the median of interleaved pairs in one process, so that a slow
//!   or busy machine slows both sides. They say what this machine did, and gate nothing by
//!   themselves.
//! - `counts`: allocations, bytes, instructions and wake-ups, which are the same on every machine
//!   of one kind.
//! - `instructions`: the workload that `counts` runs under callgrind.
//!
//! The folders beside `src` have programs of their own for the drivers.

pub mod bare;
pub mod bus;
pub mod flood;
pub mod pairs;
pub mod report;

use bytes::Bytes;
use streams_core::{Key, Message, StreamName};

/// Bytes of data in a message.
pub const SIZE: usize = 256;

/// Messages in a batch.
pub const BATCH: usize = 64;

/// What makes the messages of a run, the same for both sides of a comparison.
#[derive(Debug, Clone)]
pub struct Source {
    stream: StreamName,
    data: Bytes,
    keys: Vec<Key>,
    next: usize,
}

impl Source {
    /// Messages of `keys` different keys in turn; of none if that is 0.
    ///
    /// # Panics
    /// Never: the stream's name is valid.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        Self {
            stream: StreamName::new("bench").expect("a valid name"),
            data: Bytes::from(vec![b'x'; SIZE]),
            keys: (0..keys)
                .map(|key| Key::from(format!("key-{key}")))
                .collect(),
            next: 0,
        }
    }

    /// The stream of its messages.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// The next message. Its data is shared, its key and id are its own.
    ///
    /// # Panics
    /// Never: the message is valid.
    #[must_use]
    pub fn message(&mut self) -> Message {
        let mut message = Message::builder(&self.stream).data(self.data.clone());
        if !self.keys.is_empty() {
            message = message.key(self.keys[self.next % self.keys.len()].clone());
            self.next += 1;
        }
        message.build().expect("a valid message")
    }
}

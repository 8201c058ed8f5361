//! Writes whose delivery reports are awaited, and how much is on its way to the brokers.
//!
//! A write has a slot with a count of the reports it waits for. Each record carries the slot and its
//! index in one number, so that a report costs neither an allocation nor a task, and the last of
//! them wakes the write.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use rdkafka::error::KafkaError;
use slab::Slab;
use streams_core::Error;
use tokio::sync::Notify;

use crate::gate::Pass;

/// A record's number has the write's slot in its upper half and the message's index in the lower.
const HALF: u32 = usize::BITS / 2;

/// How many messages one write can have; longer ones are written in parts.
pub(crate) const LONGEST_WRITE: usize = (1 << 16) - 1;

/// Why a message was not written.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was not given to the client.
    Refused(Error),
    /// The client or the brokers could not write it.
    Client(KafkaError),
}

/// A message to be written: its index in the batch, and its size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) index: usize,
    pub(crate) bytes: usize,
}

/// The writes of one producer.
pub(crate) struct Deliveries {
    most_messages: usize,
    most_bytes: usize,
    state: Mutex<State>,
    /// Writes that find no room wait for their turn, so that each gets its part.
    turn: tokio::sync::Mutex<()>,
    /// Told to the one whose turn it is.
    room: Notify,
}

#[derive(Default)]
struct State {
    writes: Slab<Write>,
    /// On their way to the brokers.
    messages: usize,
    bytes: usize,
    /// How many writes wait for their turn, the one that has it included.
    waiting: usize,
    /// The one whose turn it is found no room.
    needs_room: bool,
}

struct Write {
    /// Reports that have not come, also of what was not sent yet.
    left: usize,
    /// Of what was sent: how many reports have not come, and the bytes that are given back with them.
    sent: usize,
    bytes: usize,
    failures: Vec<(usize, Failure)>,
    waker: Option<Waker>,
    /// Whether it is woken by the first failure.
    first_failure: bool,
    /// Nobody waits for it any longer.
    abandoned: bool,
    /// What closing the writer waits for.
    _pass: Option<Pass>,
}

impl Deliveries {
    pub(crate) fn new(most_messages: usize, most_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            most_messages,
            most_bytes,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            room: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for the reports of so many messages. `None` says that too many writes are
    /// waiting already.
    pub(crate) fn begin(self: &Arc<Self>, count: usize, pass: Option<Pass>) -> Option<Reports> {
        let mut state = self.lock();
        if count > LONGEST_WRITE || state.writes.vacant_key() >> HALF != 0 {
            return None;
        }
        let slot = state.writes.insert(Write {
            left: count,
            sent: 0,
            bytes: 0,
            failures: Vec::new(),
            waker: None,
            first_failure: false,
            abandoned: false,
            _pass: pass,
        });
        Some(Reports {
            deliveries: self.clone(),
            slot,
            unsent: count,
        })
    }

    /// Takes the report of the message of that number.
    pub(crate) fn report(&self, number: usize, failure: Option<Failure>) {
        let (slot, index) = (number >> HALF, number & ((1 << HALF) - 1));
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(write) = state.writes.get_mut(slot) else {
            return;
        };
        let bytes = write.bytes / write.sent.max(1);
        write.bytes -= bytes;
        write.sent -= 1;
        state.messages -= 1;
        state.bytes -= bytes;
        if let Some(failure) = failure {
            write.failures.push((index, failure));
        }
        write.left -= 1;
        let is_over = write.left == 0;
        let mut waker = None;
        let mut ended = None;
        if is_over && write.abandoned {
            ended = Some(state.writes.remove(slot));
        } else if is_over || (write.first_failure && !write.failures.is_empty()) {
            waker = write.waker.take();
        }
        // Not for every single one: who waits would be woken for each.
        let has_room = self.most_messages - state.messages.min(self.most_messages)
            >= self.most_messages.div_ceil(4)
            && self.most_bytes - state.bytes.min(self.most_bytes) >= self.most_bytes / 4;
        let tell_room = state.needs_room && (has_room || state.messages == 0);
        if tell_room {
            state.needs_room = false;
        }
        drop(guard);
        drop(ended);
        if let Some(waker) = waker {
            waker.wake();
        }
        if tell_room {
            self.room.notify_one();
        }
    }
}

/// The reports of one write. Dropped, they are no longer waited for; what was sent is written all
/// the same.
pub(crate) struct Reports {
    deliveries: Arc<Deliveries>,
    slot: usize,
    unsent: usize,
}

impl Reports {
    /// Waits for room for one of these messages, then takes it for as many as there is room for.
    /// They must be [sent](Reports::number) or [refused](Reports::refuse) at once.
    pub(crate) async fn reserve(&self, items: &[Item]) -> usize {
        if let Some(count) = self.try_reserve(items, false) {
            return count;
        }
        let deliveries = &*self.deliveries;
        let _waiting = Waiting::new(deliveries);
        let _turn = deliveries.turn.lock().await;
        loop {
            if let Some(count) = self.try_reserve(items, true) {
                return count;
            }
            deliveries.room.notified().await;
        }
    }

    fn try_reserve(&self, items: &[Item], has_turn: bool) -> Option<usize> {
        let deliveries = &*self.deliveries;
        let mut state = deliveries.lock();
        let state = &mut *state;
        if !has_turn && state.waiting > 0 {
            return None;
        }
        let mut count = 0;
        let mut bytes = 0;
        for item in items {
            let fits = state.messages + count < deliveries.most_messages
                && state.bytes + bytes + item.bytes <= deliveries.most_bytes;
            // One that is larger than all the room there is goes alone.
            if !fits && state.messages + count > 0 {
                break;
            }
            count += 1;
            bytes += item.bytes;
        }
        if count == 0 {
            state.needs_room = has_turn;
            return None;
        }
        state.messages += count;
        state.bytes += bytes;
        if let Some(write) = state.writes.get_mut(self.slot) {
            write.sent += count;
            write.bytes += bytes;
        }
        Some(count)
    }

    /// The number the record of a message is sent with.
    pub(crate) fn number(&mut self, index: usize) -> usize {
        self.unsent -= 1;
        self.slot << HALF | index
    }

    /// Waits for all reports; what failed, by index.
    pub(crate) async fn all(&mut self) -> Vec<(usize, Failure)> {
        self.wait(false).await
    }

    /// Waits for all reports or the first that tells a failure.
    pub(crate) async fn all_or_failure(&mut self) -> Vec<(usize, Failure)> {
        self.wait(true).await
    }

    async fn wait(&mut self, first_failure: bool) -> Vec<(usize, Failure)> {
        poll_fn(|cx| {
            let mut state = self.deliveries.lock();
            let Some(write) = state.writes.get_mut(self.slot) else {
                return Poll::Ready(Vec::new());
            };
            if write.left == 0 || (first_failure && !write.failures.is_empty()) {
                return Poll::Ready(std::mem::take(&mut write.failures));
            }
            write.first_failure = first_failure;
            match &mut write.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let mut state = self.deliveries.lock();
        let Some(write) = state.writes.get_mut(self.slot) else {
            return;
        };
        write.left -= self.unsent;
        write.abandoned = true;
        write.waker = None;
        let ended = (write.left == 0).then(|| state.writes.remove(self.slot));
        drop(state);
        drop(ended);
    }
}

/// One that waits for its turn.
struct Waiting<'a>(&'a Deliveries);

impl<'a> Waiting<'a> {
    fn new(deliveries: &'a Deliveries) -> Self {
        deliveries.lock().waiting += 1;
        Self(deliveries)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests;

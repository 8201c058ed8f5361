//! Writing to several streams and settling, all or nothing.
//!
//! All streams of a transaction are locked together, in the order of their names, so that two
//! transactions never wait for each other. Whoever sees one message of it finds the others.

use std::sync::{Arc, MutexGuard};

use streams_core::{Message, SettleReport, StreamName, TransactionPart};

use crate::Broker;
use crate::members::MemberId;
use crate::refused::Refused;
use crate::stream::{GroupId, State, Stream};

/// The streams of a transaction, by name.
pub(crate) struct Streams(Vec<Arc<Stream>>);

/// Which stream refused, and why.
pub(crate) type RefusedBy = (Arc<Stream>, Refused);

impl Streams {
    pub(crate) fn of<'a>(broker: &Broker, names: impl IntoIterator<Item = &'a StreamName>) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable_by_key(|name| name.as_str());
        names.dedup();
        Self(names.into_iter().map(|name| broker.stream(name)).collect())
    }

    /// Writes all of a batch, or nothing.
    pub(crate) fn write(&self, batch: &[Message]) -> Result<(), RefusedBy> {
        let mut states = self.lock();
        let sorted = self.sort(batch);
        self.check(&mut states, &sorted)?;
        self.add(&mut states, &sorted);
        Ok(())
    }

    /// Settles what is still the member's and writes what came of it, or nothing of either.
    pub(crate) fn settle(
        &self,
        stream: &Stream,
        group: GroupId,
        member: MemberId,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport, RefusedBy> {
        let mut states = self.lock();
        let own = self.index(&stream.name);
        let its = states[own].its(group, member, parts);
        let sorted = self.sort(its.into_iter().flat_map(|part| &part.outputs));
        self.check(&mut states, &sorted)?;
        self.add(&mut states, &sorted);
        let settlements = parts.drain(..).map(|part| part.settlement);
        let report = states[own].settle(group, member, settlements, &stream.config);
        drop(states);
        stream.made_room();
        Ok(report)
    }

    /// Forgets those that nobody has any use for.
    pub(crate) fn forget_unused(self, broker: &Broker) {
        for stream in self.0 {
            broker.forget_unused(&stream);
        }
    }

    /// The handle of one of them.
    pub(crate) fn handle(&self, name: &StreamName) -> Arc<Stream> {
        self.0[self.index(name)].clone()
    }

    fn lock(&self) -> Vec<MutexGuard<'_, State>> {
        self.0.iter().map(|stream| stream.lock()).collect()
    }

    fn index(&self, name: &StreamName) -> usize {
        let by_name = |stream: &Arc<Stream>| stream.name.as_str().cmp(name.as_str());
        match self.0.binary_search_by(by_name) {
            Ok(index) => index,
            Err(_) => unreachable!("every stream of the transaction is here"),
        }
    }

    /// The messages of each stream.
    fn sort<'a>(&self, batch: impl IntoIterator<Item = &'a Message>) -> Vec<Vec<Message>> {
        let mut sorted = vec![Vec::new(); self.0.len()];
        for message in batch {
            sorted[self.index(message.stream())].push(message.clone());
        }
        sorted
    }

    fn check(
        &self,
        states: &mut [MutexGuard<'_, State>],
        sorted: &[Vec<Message>],
    ) -> Result<(), RefusedBy> {
        for ((stream, state), messages) in self.0.iter().zip(states).zip(sorted) {
            if messages.is_empty() {
                continue;
            }
            match state.accepts(&stream.config) {
                Ok(room) if room >= messages.len() => {}
                Ok(_) => return Err((stream.clone(), Refused::Full)),
                Err(refused) => return Err((stream.clone(), refused)),
            }
        }
        Ok(())
    }

    fn add(&self, states: &mut [MutexGuard<'_, State>], sorted: &[Vec<Message>]) {
        for ((stream, state), messages) in self.0.iter().zip(states).zip(sorted) {
            if !messages.is_empty() {
                state.add(messages, &stream.config);
            }
        }
    }
}

//! What is no longer ours: leases that ran out, partitions that went, and what the shutdown gives
//! back.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Entry, Index, Lease, NONE, State};
use crate::{Assignment, SettleAction, TokenId};

impl Dispatcher {
    /// The leases that end before `before`, to be extended; those held for longer than `longest`
    /// are left to run out.
    pub(crate) fn leases_ending(
        &self,
        before: Instant,
        now: Instant,
        longest: Duration,
    ) -> Vec<TokenId> {
        let held = |lease: &Lease| now.saturating_duration_since(lease.received);
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.orphan)
            .filter_map(|(_, entry)| entry.lease().map(|lease| (entry, lease)))
            .filter(|(_, lease)| lease.until <= before && held(lease) <= longest)
            .map(|(entry, _)| entry.id)
            .collect()
    }

    /// How long the driver's leases are.
    pub(crate) fn lease_length(&self) -> Duration {
        self.longest_lease_seen
    }

    /// When the first lease ends.
    pub(crate) fn first_lease_end(&self) -> Option<Instant> {
        let live = self.entries.iter().filter(|(_, entry)| !entry.orphan);
        live.filter_map(|(_, entry)| entry.lease().map(|lease| lease.until))
            .min()
    }

    /// Leases were extended.
    pub(crate) fn extended(&mut self, ids: &[TokenId], until: Instant) {
        let ids: BTreeSet<_> = ids.iter().collect();
        for (_, entry) in &mut self.entries {
            if let Some(lease) = entry.rare.as_mut().and_then(|rare| rare.lease.as_mut())
                && ids.contains(&entry.id)
            {
                lease.until = until;
            }
        }
    }

    /// Deliveries whose lease has run out.
    pub(crate) fn leases_ended(&self, now: Instant) -> Vec<TokenId> {
        let live = self.entries.iter().filter(|(_, entry)| !entry.orphan);
        live.filter(|(_, entry)| entry.lease().is_some_and(|lease| lease.until <= now))
            .map(|(_, entry)| entry.id)
            .collect()
    }

    /// These deliveries are no longer ours. Returns the workers that hold some of them.
    pub(crate) fn lose(&mut self, ids: &[TokenId]) -> Vec<(u16, Index)> {
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        self.orphan(|entry| ids.contains(&entry.id))
    }

    /// Partitions are gone. Returns the workers that hold some of their messages.
    pub(crate) fn lose_partitions(&mut self, gone: &[Assignment]) -> Vec<(u16, Index)> {
        let hit = |entry: &Entry| is_of(entry.id, gone);
        let workers = self.orphan(hit);
        self.positions.forget(gone);
        self.drop_outputs(gone);
        workers
    }

    /// The subscription was opened anew: nothing in flight can be settled any more. What runs may
    /// finish; the rest will be delivered again.
    pub(crate) fn lose_all(&mut self) {
        self.orphan(|_| true);
        self.positions.clear();
        self.settlements.clear();
        self.settling = 0;
        self.drop_all_outputs();
        self.barred.clear();
    }

    /// Stops starting messages of these partitions; returns how many are still in a handler.
    pub(crate) fn hold_partitions(&mut self, going: &[Assignment]) -> usize {
        let unstarted: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_of(entry.id, going) && entry.state != State::Running)
            .map(|(index, _)| index as Index)
            .collect();
        self.drop_many(unstarted);
        let of = |entry: &Entry| is_of(entry.id, going) && !entry.orphan;
        self.entries.iter().filter(|(_, entry)| of(entry)).count()
    }

    fn orphan(&mut self, mut hit: impl FnMut(&Entry) -> bool) -> Vec<(u16, Index)> {
        let mut workers = Vec::new();
        let mut unstarted = Vec::new();
        for (index, entry) in &mut self.entries {
            if entry.orphan || !hit(entry) {
                continue;
            }
            if entry.state == State::Running {
                entry.orphan = true;
                workers.push((entry.worker, index as Index));
            } else {
                unstarted.push(index as Index);
            }
        }
        self.counts.lost += unstarted.len() as u64;
        let behind = self.behind(&unstarted);
        for index in &behind {
            self.push_settlement(*index, SettleAction::Release);
        }
        unstarted.extend(behind);
        self.drop_many(unstarted);
        workers
    }

    /// What waits in a lane behind one of `lost`, which comes again: it goes back too, to come after
    /// it. Positional drivers lose whole partitions, and with them whole lanes.
    fn behind(&self, lost: &[Index]) -> Vec<Index> {
        let mut behind = BTreeSet::new();
        if !self.cumulative {
            for index in lost {
                let mut next = self.entries[*index as usize].next;
                while next != NONE && behind.insert(next) {
                    next = self.entries[next as usize].next;
                }
            }
            for index in lost {
                behind.remove(index);
            }
        }
        behind.into_iter().collect()
    }

    /// Begins the shutdown: gives back everything that is not in a handler.
    pub(crate) fn stop(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.counts.in_flight_at_shutdown = self.entries.len() as u64;
        let due: HashMap<Index, Instant> = self
            .timers
            .drain()
            .filter(|Reverse((_, stamp, index))| {
                let entry = self.entries.get(*index as usize);
                entry.is_some_and(|e| e.state == State::Waiting && e.stamp == *stamp)
            })
            .map(|Reverse((due, _, index))| (index, due))
            .collect();
        let unstarted: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.state != State::Running)
            .map(|(index, _)| index as Index)
            .collect();
        for index in unstarted.iter().copied() {
            let left = due
                .get(&index)
                .map(|due| due.saturating_duration_since(now));
            let backend_can =
                left.is_some_and(|left| self.delayed_redelivery.is_some_and(|l| left <= l));
            let action = if backend_can {
                SettleAction::Retry { after: left }
            } else {
                SettleAction::Release
            };
            if left.is_some() {
                self.counts.given_back_to_retry += 1;
            } else {
                self.counts.released += 1;
            }
            self.push_settlement(index, action);
        }
        self.drop_many(unstarted);
    }
}

fn is_of(id: TokenId, assignments: &[Assignment]) -> bool {
    assignments
        .iter()
        .any(|a| a.partition == id.partition && a.epoch == id.epoch)
}

//! The model of a backend: what it keeps, and what it checks of what the runner tells it.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;
use streams_core::{Assignment, SettleAction, TokenId};
use tokio::time::Instant;

use crate::world::{Plan, Record, key};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Offsets in partitions, as Kafka.
    Positional,
    /// Leases on single messages, in order per key, as SQS FIFO.
    Leasing,
}

pub(crate) struct Broker {
    plan: Plan,
    pub(crate) partitions: Vec<Partition>,
    leased: Vec<Leased>,
    next_token: u64,
    /// Rises with each subscription; what an earlier one holds counts for nothing.
    pub(crate) session: u32,
}

pub(crate) struct Partition {
    pub(crate) log: Vec<usize>,
    /// Everything before this is done for good.
    pub(crate) committed: usize,
    /// What is delivered next.
    pub(crate) position: usize,
    pub(crate) epoch: u32,
}

/// A message of the leasing kind.
struct Leased {
    acked: bool,
    attempts: u32,
    not_before: Option<Instant>,
    /// Token, session and end of the leases given out; only the last is valid.
    held: Option<(u64, u32, Instant)>,
}

/// A message on its way out.
pub(crate) struct Out {
    pub(crate) message: usize,
    pub(crate) token: TokenId,
    pub(crate) attempt: Option<u32>,
    pub(crate) lease: Option<Instant>,
}

impl Broker {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut partitions: Vec<_> = (0..plan.partitions)
            .map(|_| Partition {
                log: Vec::new(),
                committed: 0,
                position: 0,
                epoch: 0,
            })
            .collect();
        for message in 0..plan.messages {
            let at = key(plan, message).unwrap_or(message) % plan.partitions as usize;
            partitions[at].log.push(message);
        }
        let leased = (0..plan.messages).map(|_| Leased {
            acked: false,
            attempts: 0,
            not_before: None,
            held: None,
        });
        Self {
            plan: plan.clone(),
            partitions,
            leased: leased.collect(),
            next_token: 0,
            session: 0,
        }
    }

    /// A new subscription: what the one before held comes again.
    pub(crate) fn subscribe(&mut self) -> u32 {
        self.session += 1;
        for partition in &mut self.partitions {
            partition.epoch += 1;
            partition.position = partition.committed;
        }
        for message in &mut self.leased {
            message.held = None;
        }
        self.session
    }

    /// A partition goes away and comes back under another epoch.
    pub(crate) fn reassign(&mut self, partition: u32) {
        let partition = &mut self.partitions[partition as usize];
        partition.epoch += 1;
        partition.position = partition.committed;
    }

    pub(crate) fn assignment(&self, partition: u32) -> Assignment {
        Assignment {
            partition,
            epoch: self.partitions[partition as usize].epoch,
        }
    }

    pub(crate) fn all_done(&self) -> bool {
        match self.plan.kind {
            Kind::Positional => self.partitions.iter().all(|p| p.committed == p.log.len()),
            Kind::Leasing => self.leased.iter().all(|message| message.acked),
        }
    }

    /// How many of the leasing kind a subscription has and has not settled.
    pub(crate) fn unsettled(&self, session: u32) -> usize {
        let now = Instant::now();
        let is_its = |held: (u64, u32, Instant)| held.1 == session && held.2 > now;
        let held = self.leased.iter().filter_map(|message| message.held);
        held.filter(|held| is_its(*held)).count()
    }

    /// The next messages for a subscription, at most `max`.
    pub(crate) fn deliver(&mut self, session: u32, max: usize, rng: &mut Rng) -> Vec<Out> {
        let mut out = Vec::new();
        let max = rng.usize(1..=max);
        match self.plan.kind {
            Kind::Positional => self.deliver_positions(max, rng, &mut out),
            Kind::Leasing => self.deliver_leases(session, max, rng, &mut out),
        }
        out
    }

    fn deliver_positions(&mut self, max: usize, rng: &mut Rng, out: &mut Vec<Out>) {
        let start = rng.usize(0..self.partitions.len());
        for i in 0..self.partitions.len() {
            let at = (start + i) % self.partitions.len();
            let partition = &mut self.partitions[at];
            if rng.u32(0..1000) < self.plan.duplicates {
                let back_to = partition.committed.min(partition.position);
                partition.position = rng.usize(back_to..=partition.position);
            }
            while out.len() < max && partition.position < partition.log.len() && rng.u8(0..5) > 0 {
                out.push(Out {
                    message: partition.log[partition.position],
                    token: TokenId {
                        partition: at as u32,
                        epoch: partition.epoch,
                        sequence: partition.position as u64,
                    },
                    attempt: None,
                    lease: None,
                });
                partition.position += 1;
            }
        }
    }

    fn deliver_leases(&mut self, session: u32, max: usize, rng: &mut Rng, out: &mut Vec<Out>) {
        let now = Instant::now();
        // A key is closed once one of its messages is neither done nor this subscription's.
        let mut closed = HashMap::new();
        for message in 0..self.leased.len() {
            if out.len() == max {
                return;
            }
            let key = key(&self.plan, message);
            let this = &mut self.leased[message];
            if this.acked || key.is_some_and(|key| closed.contains_key(&key)) {
                continue;
            }
            if this.held.is_some_and(|(_, _, until)| until <= now) {
                this.held = None;
            }
            let held = this.held.is_some();
            let twice = held && key.is_none() && rng.u32(0..1000) < self.plan.duplicates;
            if held && !twice {
                continue;
            }
            if this.not_before.is_some_and(|at| at > now) || rng.u8(0..6) == 0 {
                if let Some(key) = key {
                    closed.insert(key, ());
                }
                continue;
            }
            this.attempts += 1;
            self.next_token += 1;
            let until = now + self.plan.lease;
            this.held = Some((self.next_token, session, until));
            out.push(Out {
                message,
                token: TokenId {
                    partition: 0,
                    epoch: session,
                    sequence: self.next_token,
                },
                attempt: Some(this.attempts),
                lease: Some(until),
            });
        }
    }

    /// When a message that nobody may have now can be had.
    pub(crate) fn next_change(&self) -> Option<Instant> {
        let waiting = self.leased.iter().filter(|message| !message.acked);
        waiting
            .filter_map(|message| {
                message
                    .held
                    .map(|(_, _, until)| until)
                    .or(message.not_before)
            })
            .min()
    }

    /// A settlement has arrived; `false` says that its delivery is no longer the sender's.
    pub(crate) fn settle(
        &mut self,
        record: &mut Record,
        token: TokenId,
        action: SettleAction,
    ) -> bool {
        match self.plan.kind {
            Kind::Positional => self.commit(record, token, action),
            Kind::Leasing => self.settle_one(record, token, action),
        }
    }

    /// Whether a delivery is still the one who has its token.
    pub(crate) fn is_valid(&self, token: TokenId) -> bool {
        match self.plan.kind {
            Kind::Positional => self.partitions[token.partition as usize].epoch == token.epoch,
            Kind::Leasing => self.find(token).is_some(),
        }
    }

    fn find(&self, token: TokenId) -> Option<usize> {
        let now = Instant::now();
        let valid = |held: Option<(u64, u32, Instant)>| {
            held.is_some_and(|(t, s, until)| t == token.sequence && s == token.epoch && until > now)
        };
        self.leased.iter().position(|message| valid(message.held))
    }

    fn commit(&mut self, record: &mut Record, token: TokenId, action: SettleAction) -> bool {
        record.expect(action == SettleAction::Ack, || {
            format!("{action:?} of a position")
        });
        let partition = &mut self.partitions[token.partition as usize];
        if partition.epoch != token.epoch {
            return false;
        }
        let next = token.sequence as usize + 1;
        record.expect(next >= partition.committed, || {
            "the position went back".to_owned()
        });
        for message in &partition.log[partition.committed.min(next)..next] {
            let handled = record.handled.contains(message);
            record.expect(handled, || format!("{message} committed, never handled"));
        }
        partition.committed = next;
        true
    }

    fn settle_one(&mut self, record: &mut Record, token: TokenId, action: SettleAction) -> bool {
        let Some(at) = self.find(token) else {
            return false;
        };
        let now = Instant::now();
        let message = &mut self.leased[at];
        message.held = None;
        match action {
            SettleAction::Ack => {
                let handled = record.handled.contains(&at);
                record.expect(handled, || format!("{at} acknowledged, never handled"));
                message.acked = true;
            }
            SettleAction::Retry { after } => {
                message.not_before = Some(now + after.unwrap_or(Duration::ZERO));
            }
            SettleAction::Release => message.not_before = None,
        }
        true
    }

    /// Takes a message away from whoever holds it.
    pub(crate) fn take_away(&mut self, token: TokenId) {
        for message in &mut self.leased {
            message.held = message.held.filter(|(t, _, _)| *t != token.sequence);
        }
    }

    /// Makes leases last; returns those that were gone.
    pub(crate) fn extend(&mut self, tokens: &[TokenId], by: Duration) -> Vec<TokenId> {
        let now = Instant::now();
        let mut lost = Vec::new();
        for token in tokens {
            let held = self
                .leased
                .iter_mut()
                .filter_map(|message| message.held.as_mut());
            let live = held
                .into_iter()
                .find(|(t, s, until)| *t == token.sequence && *s == token.epoch && *until > now);
            match live {
                Some((_, _, until)) => *until = now + by,
                None => lost.push(*token),
            }
        }
        lost
    }
}

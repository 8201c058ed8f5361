//! A driver of partitions and positions, as one for Kafka is, small enough to be read in one go: logs
//! in memory, groups whose members share the partitions, and an honest hand-over of each. It shows
//! what [`Acknowledgement::Cumulative`] and the capability `partitions` ask of a driver, and the kit
//! is tried on it. (It can break a promise too, for the kit to find: see [`Fault`].)
//!
//! - A partition is a list of messages; a position is an index into it. A group keeps the position
//!   before which everything is done. Nothing is kept of single messages.
//! - Whenever a member joins or leaves, the group stands still for a while and then shares the
//!   partitions anew. What another is to have is announced with `Revoking` and goes when its owner
//!   asks for more; an owner that does not ask for long loses it.
//! - Each time a partition comes to a member its epoch rises. What is settled under an earlier one is
//!   reported as lost.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams_core::{
    AckToken, Acknowledgement, Assignment, Capabilities, Delivery, Driver, Error, ErrorKind,
    Message, Order, ReadOptions, Reader, Received, Result, SettleAction, SettleReport, Settlement,
    StartFrom, StartPositions, StreamName, Subscription, TokenId, TransactionPart, WriteError,
    Writer, async_trait,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

pub(crate) const PARTITIONS: usize = 8;
/// How long it may take at most until a new member has joined.
pub(crate) const JOIN: Duration = Duration::from_millis(500);
/// How long a group stands still when its members change.
pub(crate) const STANDSTILL: Duration = Duration::from_millis(50);
/// An owner that is to give a partition up and does not ask for more loses it after this.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often, at most, a member that waits looks by itself.
const TICK: Duration = Duration::from_millis(5);
const LARGEST: usize = 64 << 10;

static CAPABILITIES: Capabilities = Capabilities::none("partitioned")
    .groups(true)
    .keeps_before_group(true)
    .order(Order::PerKey)
    .acknowledgement(Acknowledgement::Cumulative)
    .partitions(true)
    .start(StartPositions {
        earliest: true,
        latest: true,
        position: false,
        time: false,
    })
    .transactions(true)
    .exactly_once(true)
    .creates_streams(true)
    .largest_message(Some(LARGEST))
    .binary_headers(true);

/// The promise that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Partitions are not announced.
    AssignsSilently,
    /// A partition goes without a word, and the next owner has it before the last is done.
    TakesSilently,
    /// One more message of a partition comes after it was revoked.
    DeliversRevoked,
    /// A partition always comes under the same epoch.
    RepeatsEpochs,
    /// Who has lost a partition can settle it all the same.
    SettlesStale,
    /// The first member has all partitions, the others none.
    FavoursOne,
}

/// The driver. Clones share their logs.
#[derive(Clone, Default)]
pub(crate) struct Partitioned {
    store: Arc<Store>,
    fault: Fault,
}

impl Partitioned {
    pub(crate) fn broken(fault: Fault) -> Self {
        Self {
            fault,
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct Store {
    state: Mutex<State>,
    /// Something was written, or a group has changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    streams: HashMap<StreamName, Log>,
    hasher: std::hash::RandomState,
    next_member: u64,
    /// Spreads messages without a key.
    next_partition: usize,
}

struct Log {
    partitions: Vec<Vec<Message>>,
    groups: HashMap<String, Group>,
}

struct Group {
    /// Of each partition.
    shares: Vec<Share>,
    /// In the order they joined.
    members: Vec<u64>,
    stands_still_until: Instant,
}

struct Share {
    /// Everything before this is done.
    committed: usize,
    owner: Option<u64>,
    epoch: u32,
    /// Since when its owner is to give it up.
    asked: Option<Instant>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn log(&mut self, stream: &StreamName) -> &mut Log {
        self.streams.entry(stream.clone()).or_insert_with(|| Log {
            partitions: vec![Vec::new(); PARTITIONS],
            groups: HashMap::new(),
        })
    }

    fn write(&mut self, message: &Message) {
        let at = match message.key() {
            Some(key) => self.hasher.hash_one(key.as_bytes()) as usize,
            None => {
                self.next_partition += 1;
                self.next_partition
            }
        };
        let log = self.log(message.stream());
        log.partitions[at % PARTITIONS].push(message.clone());
    }
}

fn check(message: &Message) -> Result<()> {
    if message.data().len() <= LARGEST {
        return Ok(());
    }
    let error = Error::new(ErrorKind::TooLarge, "the data is too large; split it");
    Err(error.driver(CAPABILITIES.driver))
}

impl Group {
    fn new(log: &[Vec<Message>], start: &StartFrom) -> Self {
        let share = |partition: &Vec<Message>| Share {
            committed: match start {
                StartFrom::Earliest => 0,
                _ => partition.len(),
            },
            owner: None,
            epoch: 0,
            asked: None,
        };
        Self {
            shares: log.iter().map(share).collect(),
            members: Vec::new(),
            stands_still_until: Instant::now(),
        }
    }

    fn leave(&mut self, member: u64) {
        self.members.retain(|other| *other != member);
        for share in &mut self.shares {
            share.owner = share.owner.filter(|owner| *owner != member);
        }
        self.stands_still_until = Instant::now() + STANDSTILL;
    }

    fn is_owner(&self, member: u64, assignment: Assignment) -> bool {
        let share = &self.shares[assignment.partition as usize];
        share.owner == Some(member) && share.epoch == assignment.epoch
    }
}

/// Who of the members is to have a partition.
fn heir(members: &[u64], partition: u32, fault: Fault) -> Option<u64> {
    let count = match fault {
        Fault::FavoursOne => 1,
        _ => members.len().max(1),
    };
    members.get(partition as usize % count).copied()
}

impl Driver for Partitioned {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.clone())
    }

    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(LogWriter {
            store: self.store.clone(),
            closed: AtomicBool::new(false),
        })
    }
}

struct LogWriter {
    store: Arc<Store>,
    closed: AtomicBool,
}

#[async_trait]
impl Writer for LogWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let mut failures = Vec::new();
        let state = &mut *self.store.lock();
        for (index, message) in batch.iter().enumerate() {
            if self.closed.load(Ordering::Acquire) {
                failures.push((index, Error::closed("the writer")));
            } else if let Err(error) = check(message) {
                failures.push((index, error));
            } else {
                state.write(message);
            }
        }
        self.store.changed.notify_waiters();
        match failures.is_empty() {
            true => Ok(()),
            false => Err(WriteError::new(failures)),
        }
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("the writer"));
        }
        for (index, message) in batch.iter().enumerate() {
            check(message).map_err(|error| error.with("index", index))?;
        }
        let state = &mut *self.store.lock();
        batch.iter().for_each(|message| state.write(message));
        self.store.changed.notify_waiters();
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }
}

#[async_trait]
impl Reader for Partitioned {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        options.driver.check(CAPABILITIES.driver, &[])?;
        let unsupported = |what: &str| Err(Error::unsupported(CAPABILITIES.driver, what));
        let Some(group) = options.group.clone() else {
            return unsupported("reads only as part of a group; name one");
        };
        if matches!(options.start, StartFrom::Position(_) | StartFrom::Time(_)) {
            return unsupported("cannot start there; start at the earliest or the latest");
        }
        let state = &mut *self.store.lock();
        state.next_member += 1;
        let member = state.next_member;
        let log = state.log(&options.stream);
        let make = || Group::new(&log.partitions, &options.start);
        log.groups.entry(group.clone()).or_insert_with(make);
        // Nobody knows when: members that subscribe together join one after another.
        let joins_in = JOIN.mul_f32(fastrand::f32());
        Ok(Box::new(Member {
            store: self.store.clone(),
            stream: options.stream.clone(),
            group,
            member,
            joins_at: Some(Instant::now() + joins_in),
            held: Vec::new(),
            going: Vec::new(),
            fault: self.fault,
            closed: false,
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }
}

struct Member {
    store: Arc<Store>,
    stream: StreamName,
    group: String,
    member: u64,
    /// `None` once it is a member.
    joins_at: Option<Instant>,
    /// What it was told that it has, and what is delivered next of each.
    held: Vec<(Assignment, usize)>,
    /// What it was told to give up.
    going: Vec<Assignment>,
    fault: Fault,
    closed: bool,
}

impl Member {
    fn with<T>(&self, act: impl FnOnce(&mut Group, &[Vec<Message>]) -> T) -> T {
        let state = &mut *self.store.lock();
        let log = state.log(&self.stream);
        let group = log.groups.get_mut(&self.group);
        act(
            group.expect("it was made when it was joined"),
            &log.partitions,
        )
    }

    /// Lets go what it was told to give up: the runner asks for more only when it is done with that.
    fn let_go(&mut self) {
        let going = std::mem::take(&mut self.going);
        if going.is_empty() {
            return;
        }
        self.with(|group, _| {
            for one in &going {
                if group.is_owner(self.member, *one) {
                    group.shares[one.partition as usize].owner = None;
                }
            }
        });
        self.held.retain(|(held, _)| !going.contains(held));
        self.store.changed.notify_waiters();
    }

    /// Joins when its time has come.
    fn join(&mut self) {
        if self.joins_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.with(|group, _| {
                group.members.push(self.member);
                group.stands_still_until = Instant::now() + STANDSTILL;
            });
            self.store.changed.notify_waiters();
        }
    }

    /// What has changed for this member since it last asked, one thing at a time.
    fn change(&mut self) -> Option<Received> {
        let (member, fault, now) = (self.member, self.fault, Instant::now());
        let lost = self.lost();
        if !lost.is_empty() {
            self.held.retain(|(held, _)| !lost.contains(held));
            if fault != Fault::TakesSilently {
                return Some(Received::Lost(lost));
            }
        }
        let going: Vec<_> = self.with(|group, _| {
            let goes = |(held, _): &&(Assignment, usize)| {
                heir(&group.members, held.partition, fault) != Some(member)
            };
            let going: Vec<_> = self
                .held
                .iter()
                .filter(goes)
                .map(|(held, _)| *held)
                .collect();
            for one in &going {
                group.shares[one.partition as usize]
                    .asked
                    .get_or_insert(now);
            }
            going
        });
        if !going.is_empty() && fault != Fault::TakesSilently {
            self.going.clone_from(&going);
            return Some(Received::Revoking(going));
        }
        let new: Vec<_> = self.with(|group, _| {
            let mut new = Vec::new();
            for (partition, share) in (0..).zip(&mut group.shares) {
                let late = share.asked.is_some_and(|asked| asked + PATIENCE <= now);
                let free = share.owner.is_none() || late || fault == Fault::TakesSilently;
                let is_heir = heir(&group.members, partition, fault) == Some(member);
                if is_heir && free && share.owner != Some(member) {
                    share.owner = Some(member);
                    share.asked = None;
                    share.epoch += u32::from(fault != Fault::RepeatsEpochs);
                    let epoch = share.epoch;
                    new.push((Assignment { partition, epoch }, share.committed));
                }
            }
            new
        });
        self.held.extend(&new);
        let assigned: Vec<_> = new.into_iter().map(|(assignment, _)| assignment).collect();
        let said = !assigned.is_empty() && fault != Fault::AssignsSilently;
        said.then_some(Received::Assigned(assigned))
    }

    /// What it was told it has and has no more.
    fn lost(&self) -> Vec<Assignment> {
        let held = self.held.iter().map(|(held, _)| *held);
        self.with(|group, _| {
            held.filter(|one| !group.is_owner(self.member, *one))
                .collect()
        })
    }

    /// Takes up to `max` messages of what it holds.
    fn take(&mut self, max: usize, out: &mut Vec<Delivery>) {
        let mut held = std::mem::take(&mut self.held);
        self.with(|_, partitions| {
            for (assignment, next) in &mut held {
                let Assignment { partition, epoch } = *assignment;
                let messages = &partitions[partition as usize][*next..];
                for message in messages.iter().take(max - out.len()) {
                    let token = AckToken::new(partition, epoch, *next as u64);
                    out.push(Delivery::new(message.clone(), token));
                    *next += 1;
                }
            }
        });
        // So that each has its turn.
        if !held.is_empty() {
            held.rotate_left(1);
        }
        self.held = held;
    }

    /// Whether it can still settle a delivery.
    fn can_settle(&self, group: &Group, id: TokenId) -> bool {
        self.fault == Fault::SettlesStale || group.is_owner(self.member, Assignment::of(id))
    }

    fn settle_one(&self, group: &mut Group, settlement: &Settlement, report: &mut SettleReport) {
        let id = settlement.token.id();
        if !self.can_settle(group, id) {
            report.lost.push(id);
            return;
        }
        // A position cannot say that one message comes again; the runner keeps those to itself.
        if settlement.action == SettleAction::Ack {
            let share = &mut group.shares[id.partition as usize];
            share.committed = share.committed.max(id.sequence as usize + 1);
        }
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.with(|group, _| group.leave(self.member));
            self.store.changed.notify_waiters();
        }
    }
}

#[async_trait]
impl Subscription for Member {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        if self.fault == Fault::DeliversRevoked && !self.going.is_empty() {
            self.take(1, out);
            if !out.is_empty() {
                return Ok(Received::Deliveries);
            }
        }
        self.let_go();
        let store = self.store.clone();
        loop {
            let mut changed = std::pin::pin!(store.changed.notified());
            changed.as_mut().enable();
            if self.closed {
                return Err(Error::closed("the subscription").driver(CAPABILITIES.driver));
            }
            self.join();
            let stands_still_until = self.with(|group, _| group.stands_still_until);
            let ready_at = self.joins_at.unwrap_or(stands_still_until);
            if ready_at <= Instant::now() {
                if let Some(change) = self.change() {
                    return Ok(change);
                }
                self.take(max.get(), out);
                if !out.is_empty() {
                    return Ok(Received::Deliveries);
                }
            }
            // Another may fail to give up what is this member's: it looks again then.
            let ready = ready_at <= Instant::now();
            let again = if ready { ready_at + PATIENCE } else { ready_at };
            tokio::select! {
                () = changed => {}
                () = sleep_until(again.max(Instant::now() + TICK)) => {}
            }
        }
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let mut report = SettleReport::default();
        self.with(|group, _| {
            for settlement in settlements.drain(..) {
                self.settle_one(group, &settlement, &mut report);
            }
        });
        Ok(report)
    }

    async fn settle_in_transaction(
        &mut self,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        parts
            .iter()
            .flat_map(|part| &part.outputs)
            .try_for_each(check)?;
        let mut report = SettleReport::default();
        let mut outputs = Vec::new();
        // One lock from the first look to the last write: that is the transaction.
        let state = &mut *self.store.lock();
        let log = state.log(&self.stream);
        let group = log.groups.get_mut(&self.group).expect("joined");
        for part in parts.drain(..) {
            if self.can_settle(group, part.settlement.token.id()) {
                outputs.extend(part.outputs);
            }
            self.settle_one(group, &part.settlement, &mut report);
        }
        outputs.iter().for_each(|message| state.write(message));
        self.store.changed.notify_waiters();
        Ok(report)
    }

    async fn close(&mut self) -> Result<()> {
        self.leave();
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}

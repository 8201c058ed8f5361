//! One stream against a model so simple that it can be seen to be right: random operations, the
//! same to both. What is delivered must be what the model gives out next, and once everything has
//! settled down, nobody may wait for something the model would give out: that would be a lost
//! wake-up.
//!
//! `STREAMS_MODEL_SCHEDULES=1000000` runs more schedules; `STREAMS_MODEL_SEED=17` runs just one.

mod reference;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use streams_chanbuf::{Chanbuf, Full};
use streams_core::{
    AckToken, Clock, Delivery, Driver, Error, ErrorKind, Message, SettleAction, StartFrom, TokenId,
    Writer,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use reference::{Copy, Group, Model, Place};

use crate::common::{Tap, keyed, message, open, options};

/// Schedules in an ordinary run.
const SCHEDULES: u64 = 2000;
const STEPS: usize = 120;
const MOST_MEMBERS: usize = 6;

/// What a member is told. It is dropped when there is nobody left to tell it anything.
enum Command {
    /// Receive, and do not stop before there is something.
    Ask(NonZeroUsize),
    /// Stop receiving.
    Stop,
    Settle(AckToken, SettleAction, oneshot::Sender<bool>),
    Extend(TokenId, Duration, oneshot::Sender<bool>),
    Close(oneshot::Sender<()>),
}

/// What a member's `receive` returned.
type Answer = (usize, Result<Vec<Delivery>, Error>);

struct Member {
    group: usize,
    commands: mpsc::UnboundedSender<Command>,
    asks: bool,
    held: Vec<AckToken>,
    /// Settled already, or no longer its own.
    stale: Vec<TokenId>,
}

async fn serve(
    mut tap: Tap,
    name: usize,
    mut commands: mpsc::UnboundedReceiver<Command>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Ask(max) => {
                let mut out = Vec::new();
                // As the runner does: first without waiting.
                let received = match tap.0.try_receive(max, &mut out) {
                    Some(received) => Some(received),
                    None => tokio::select! {
                        biased;
                        received = tap.0.receive(max, &mut out) => Some(received),
                        _ = commands.recv() => None,
                    },
                };
                match received {
                    Some(Ok(_)) => assert!(!out.is_empty() && out.len() <= max.get()),
                    Some(Err(_)) | None => assert!(out.is_empty()),
                }
                if let Some(received) = received {
                    let _ = answers.send((name, received.map(|_| out)));
                }
            }
            // It has had its answer meanwhile.
            Command::Stop => {}
            Command::Settle(token, action, done) => {
                let id = token.id();
                let lost = tap.settle(vec![token.settle(action)]).lost;
                assert!(lost.is_empty() || lost == [id]);
                let _ = done.send(lost.is_empty());
            }
            Command::Extend(id, by, done) => {
                let lost = tap.0.extend(&[id], by).await.expect("extended").lost;
                assert!(lost.is_empty() || lost == [id]);
                let _ = done.send(lost.is_empty());
            }
            Command::Close(done) => {
                tap.0.close().await.expect("closed");
                let _ = done.send(());
            }
        }
    }
}

struct World {
    rng: fastrand::Rng,
    broker: Chanbuf,
    writer: std::sync::Arc<dyn Writer>,
    model: Model,
    members: BTreeMap<usize, Member>,
    answers: (
        mpsc::UnboundedSender<Answer>,
        mpsc::UnboundedReceiver<Answer>,
    ),
    keys: usize,
    next: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clock = Clock::following_tokio();
        let capacity = rng.usize(1..60);
        let retain = if rng.bool() { 0 } else { rng.usize(1..20) };
        let lease = rng.bool().then_some(Duration::from_secs(5));
        let mut settings = Chanbuf::builder()
            .clock(clock)
            .capacity(capacity)
            .retain(retain)
            .full(Full::Refuse);
        if let Some(lease) = lease {
            settings = settings.lease(lease);
        }
        let broker = settings.build().unwrap();
        let model = Model {
            capacity,
            retain,
            lease,
            clock,
            log: Vec::new(),
            groups: BTreeMap::new(),
            scheduled: BTreeMap::new(),
        };
        Self {
            keys: rng.usize(0..8),
            rng,
            writer: broker.writer(),
            broker,
            model,
            members: BTreeMap::new(),
            answers: mpsc::unbounded_channel(),
            next: 0,
        }
    }

    fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn message(&mut self) -> Message {
        let n = self.number();
        match self.rng.usize(0..=self.keys) {
            0 => message("s", n),
            key => keyed("s", &key.to_string(), n),
        }
    }

    fn some_member(&mut self) -> Option<usize> {
        let names: Vec<_> = self.members.keys().copied().collect();
        (!names.is_empty()).then(|| names[self.rng.usize(0..names.len())])
    }

    async fn step(&mut self) {
        match self.rng.u8(0..32) {
            0..2 => self.join().await,
            2 => self.leave().await,
            3 if self.rng.u8(0..4) == 0 => self.delete_group(),
            4..6 => tokio::time::advance(Duration::from_millis(self.rng.u64(0..3000))).await,
            6..11 => self.write().await,
            11..13 => self.schedule().await,
            13 => self.cancel().await,
            14..22 => self.ask(),
            22 => self.stop_asking(),
            23 => self.settle_stale().await,
            24 => self.extend().await,
            _ => self.settle().await,
        }
        self.settle_down().await;
    }

    async fn join(&mut self) {
        if self.members.len() == MOST_MEMBERS {
            return;
        }
        let name = *self
            .rng
            .choice([None, Some("a"), Some("b")].iter())
            .unwrap();
        let known = self
            .model
            .groups
            .iter()
            .find(|(_, group)| group.name.is_some() && group.name == name);
        let known = known.map(|(number, _)| *number);
        let end = self.model.log.len();
        let back = self.rng.usize(0..=self.model.retain.min(end));
        let from = end - back;
        let start = match back {
            0 if self.rng.bool() => StartFrom::Latest,
            _ => StartFrom::Position(from.to_string()),
        };
        let mut options = options("s").start_from(start);
        if let Some(name) = name {
            options = options.group(name).unwrap();
        }
        let group = known.unwrap_or_else(|| self.number());
        if known.is_none() {
            let place = Place::Here {
                from: Instant::now(),
            };
            let copy = |(offset, message): (usize, &Message)| {
                (
                    offset as u64,
                    Copy {
                        message: message.clone(),
                        attempts: 0,
                        place,
                    },
                )
            };
            let copies = self
                .model
                .log
                .iter()
                .enumerate()
                .skip(from)
                .map(copy)
                .collect();
            self.model.groups.insert(group, Group { name, copies });
        }
        let tap = open(&self.broker, &options).await;
        let (commands, receiver) = mpsc::unbounded_channel();
        let member = self.number();
        tokio::spawn(serve(tap, member, receiver, self.answers.0.clone()));
        let member_of = Member {
            group,
            commands,
            asks: false,
            held: Vec::new(),
            stale: Vec::new(),
        };
        self.members.insert(member, member_of);
    }

    async fn leave(&mut self) {
        let Some(name) = self.some_member() else {
            return;
        };
        let member = self.members.remove(&name).unwrap();
        if !member.asks && self.rng.bool() {
            let (done, closed) = oneshot::channel();
            member.commands.send(Command::Close(done)).ok().unwrap();
            closed.await.unwrap();
        }
        drop(member.commands);
        self.turns().await;
        if let Some(group) = self.model.groups.get_mut(&member.group) {
            group.let_go(name, Instant::now());
            if group.name.is_none() {
                self.model.groups.remove(&member.group);
            }
        }
    }

    fn delete_group(&mut self) {
        let name = if self.rng.bool() { "a" } else { "b" };
        let there = self
            .model
            .groups
            .iter()
            .find(|(_, group)| group.name == Some(name));
        let number = there.map(|(number, _)| *number);
        assert_eq!(
            self.broker.delete_group("s", name).unwrap(),
            number.is_some()
        );
        if let Some(number) = number {
            self.model.groups.remove(&number);
        }
    }

    async fn write(&mut self) {
        let batch: Vec<_> = (0..self.rng.usize(1..20)).map(|_| self.message()).collect();
        let fits = batch.len().min(self.model.room());
        let (fits, kind) = if self.model.is_held() {
            (fits, ErrorKind::Full)
        } else {
            (0, ErrorKind::NoSubscriberRegistered)
        };
        match self.writer.write(&batch).await {
            Ok(()) => assert_eq!(fits, batch.len()),
            Err(error) => {
                assert!(error.indices().eq(fits..batch.len()), "{fits} fit: {error}");
                assert!(
                    error
                        .failures()
                        .iter()
                        .all(|(_, error)| error.kind() == kind)
                );
            }
        }
        for message in &batch[..fits] {
            self.model.add(message);
        }
    }

    async fn schedule(&mut self) {
        let message = self.message();
        // Some are due at once, some at the same time.
        let due = self.model.clock.now() + Duration::from_secs(self.rng.u64(0..6));
        let result = self
            .writer
            .write_at(std::slice::from_ref(&message), due)
            .await;
        assert_eq!(result.is_ok(), self.model.is_held());
        if result.is_ok() {
            let order = self.number();
            self.model.scheduled.insert((due, order), message);
        }
    }

    async fn cancel(&mut self) {
        let waiting: Vec<_> = self.model.scheduled.keys().copied().collect();
        let message = match self.rng.choice(&waiting) {
            Some(place) => self.model.scheduled.remove(place),
            None => self.rng.choice(&self.model.log).cloned(),
        };
        let Some(message) = message else { return };
        let cancelled = self
            .writer
            .cancel(message.stream(), message.id())
            .await
            .unwrap();
        assert_eq!(cancelled, !waiting.is_empty());
    }

    fn ask(&mut self) {
        let Some(name) = self.some_member() else {
            return;
        };
        let max = NonZeroUsize::new(self.rng.usize(1..15)).unwrap();
        let member = self.members.get_mut(&name).unwrap();
        if !member.asks {
            member.asks = true;
            member.commands.send(Command::Ask(max)).ok().unwrap();
        }
    }

    fn stop_asking(&mut self) {
        let Some(name) = self.some_member() else {
            return;
        };
        let member = self.members.get_mut(&name).unwrap();
        if std::mem::take(&mut member.asks) {
            member.commands.send(Command::Stop).ok().unwrap();
        }
    }

    async fn tell<T>(
        &mut self,
        name: usize,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> T {
        let (done, result) = oneshot::channel();
        self.members[&name]
            .commands
            .send(command(done))
            .ok()
            .unwrap();
        result.await.unwrap()
    }

    /// A member that can be told something, and a token of its own.
    fn some_token(&mut self) -> Option<(usize, usize)> {
        let name = self.some_member()?;
        let member = &self.members[&name];
        let can = !member.asks && !member.held.is_empty();
        can.then(|| (name, self.rng.usize(0..member.held.len())))
    }

    /// Whether a delivery is still the member's, going by the model.
    fn owns(&self, name: usize, token: usize) -> bool {
        let member = &self.members[&name];
        let id = member.held[token].id();
        // A later delivery of the same message has another token.
        let same = |other: &&AckToken| other.id().sequence == id.sequence;
        let newest = member.held.iter().rfind(same).is_some_and(|t| t.id() == id);
        let copy = self
            .model
            .groups
            .get(&member.group)
            .and_then(|g| g.copies.get(&id.sequence));
        newest
            && copy.is_some_and(
                |copy| matches!(copy.place, Place::Held { member: at, .. } if at == name),
            )
    }

    async fn settle(&mut self) {
        for _ in 0..self.rng.usize(1..8) {
            let Some((name, token)) = self.some_token() else {
                return;
            };
            let owns = self.owns(name, token);
            let now = Instant::now();
            let (action, from) = match self.rng.u8(0..8) {
                0 => (SettleAction::Release, Some(now)),
                1 => (SettleAction::Retry { after: None }, Some(now)),
                2 => {
                    let after = Duration::from_millis(self.rng.u64(0..6000));
                    (
                        SettleAction::Retry { after: Some(after) },
                        Some(now + after),
                    )
                }
                _ => (SettleAction::Ack, None),
            };
            let member = self.members.get_mut(&name).unwrap();
            let group = member.group;
            // The order tells which is the newest.
            let token = member.held.remove(token);
            let id = token.id();
            member.stale.push(id);
            let done = self
                .tell(name, |done| Command::Settle(token, action, done))
                .await;
            assert_eq!(done, owns, "{action:?} of {id:?}");
            if !done {
                continue;
            }
            // Before others take what this has set free.
            let copies = &mut self.model.groups.get_mut(&group).unwrap().copies;
            match from {
                None => {
                    copies.remove(&id.sequence);
                }
                Some(from) => {
                    let copy = copies.get_mut(&id.sequence).unwrap();
                    copy.place = Place::Here { from };
                    copy.attempts -= u32::from(action == SettleAction::Release);
                }
            }
            self.settle_down().await;
        }
    }

    async fn settle_stale(&mut self) {
        let Some(name) = self.some_member() else {
            return;
        };
        let member = &self.members[&name];
        let Some(id) = self.rng.choice(&member.stale).copied() else {
            return;
        };
        if !member.asks {
            let token = AckToken::new(id.partition, id.epoch, id.sequence);
            let settled = self
                .tell(name, |done| Command::Settle(token, SettleAction::Ack, done))
                .await;
            assert!(!settled, "{id:?} was settled again");
        }
    }

    async fn extend(&mut self) {
        let Some((name, token)) = self.some_token() else {
            return;
        };
        if self.model.lease.is_none() {
            return;
        }
        let owns = self.owns(name, token);
        let member = &self.members[&name];
        let (group, id) = (member.group, member.held[token].id());
        let by = Duration::from_millis(self.rng.u64(1..9000));
        let extended = self.tell(name, |done| Command::Extend(id, by, done)).await;
        assert_eq!(extended, owns);
        if extended {
            let copies = &mut self.model.groups.get_mut(&group).unwrap().copies;
            let until = Some(Instant::now() + by);
            copies.get_mut(&id.sequence).unwrap().place = Place::Held {
                member: name,
                until,
            };
        }
    }

    async fn turns(&self) {
        for _ in 0..12 {
            tokio::task::yield_now().await;
        }
    }

    /// Lets everybody who was woken look, and sees to it that all were who should have been.
    async fn settle_down(&mut self) {
        self.turns().await;
        self.model.tick();
        while let Ok((name, answer)) = self.answers.1.try_recv() {
            let Some(member) = self.members.get_mut(&name) else {
                // It left with what it had just received.
                continue;
            };
            member.asks = false;
            match answer {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        self.model.deliver(member.group, name, &delivery);
                        member.held.push(delivery.token);
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                    assert!(!self.model.groups.contains_key(&member.group));
                }
            }
        }
        let now = Instant::now();
        for (name, member) in self.members.iter().filter(|(_, member)| member.asks) {
            let group = self
                .model
                .groups
                .get(&member.group)
                .expect("it would have been told");
            assert_eq!(group.next(*name, now), None, "member {name} was not woken");
        }
    }
}

async fn schedule(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step().await;
    }
}

#[test]
fn the_broker_does_what_the_model_does() {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| {
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is not a number"))
        })
    };
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(schedule(seed));
    };
    if let Some(seed) = number("STREAMS_MODEL_SEED") {
        return run(seed);
    }
    let count = number("STREAMS_MODEL_SCHEDULES").unwrap_or(SCHEDULES);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..count).step_by(threads as usize) {
                    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed)));
                    assert!(
                        ended.is_ok(),
                        "seed {seed} failed; run it alone with STREAMS_MODEL_SEED={seed}"
                    );
                }
            });
        }
    });
    println!("{count} schedules");
}

//! The state of one schedule: its random numbers, its broker, and what the handlers did.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use streams_core::{Message, dead_letter};

use crate::broker::{Broker, Kind};
use crate::partitions::Partitions;

/// What a schedule is made of, drawn from its seed.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) messages: usize,
    pub(crate) keys: usize,
    pub(crate) partitions: u32,
    pub(crate) concurrency: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) batch: Option<usize>,
    pub(crate) lease: Duration,
    /// Chances in a thousand.
    pub(crate) connection_fails: u32,
    pub(crate) settle_fails: u32,
    pub(crate) duplicates: u32,
    pub(crate) leases_lost: u32,
    pub(crate) revokes: u32,
    pub(crate) handler_fails: u32,
    pub(crate) dead_letter_fails: u32,
    pub(crate) listener_fails: u32,
    /// Handlers publish, and that is written in one transaction with the acknowledgement.
    pub(crate) exactly_once: bool,
    /// Shutdowns in the middle, each followed by a new bus on the same broker.
    pub(crate) restarts: u32,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) broker: Broker,
    pub(crate) record: Record,
}

/// What the handlers did, and the checks on it.
#[derive(Default)]
pub(crate) struct Record {
    /// Messages handled to the end, or written to the dead letters; exactly once, those whose
    /// outputs are committed.
    pub(crate) handled: HashSet<usize>,
    /// What was committed, in its order: the message it came of, and which of its outputs it is.
    pub(crate) outputs: Vec<(usize, Output)>,
    /// Keys of which a delivery was lost before it could be committed, where they are leased.
    pub(crate) keys_with_losses: HashSet<usize>,
    pub(crate) partitions: Partitions,
    running: usize,
    running_keys: HashMap<usize, usize>,
    pub(crate) attempts: usize,
    /// The first promise that was broken. Kept here, for a panic in a handler is the runner's to
    /// contain.
    pub(crate) broken: Option<String>,
}

/// One of the messages that come of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// The handler's first, second, ...
    Published(usize),
    DeadLetter,
}

impl Record {
    /// Outputs were committed.
    pub(crate) fn written(&mut self, outputs: &[Message]) {
        for output in outputs {
            let what = match output.headers().get_str(dead_letter::headers::ID) {
                Some(_) => Output::DeadLetter,
                None => Output::Published(output.data()[0].into()),
            };
            let of = origin(output);
            self.handled.insert(of);
            self.outputs.push((of, what));
        }
    }

    /// Each message has had its effect once, and those of a key in order.
    pub(crate) fn check_outputs(&mut self, plan: &Plan) {
        let mut by_message: HashMap<usize, Vec<Output>> = HashMap::new();
        let mut last: HashMap<usize, usize> = HashMap::new();
        for (of, output) in self.outputs.clone() {
            by_message.entry(of).or_default().push(output);
            if let Some(key) = key(plan, of) {
                let before = last.insert(key, of);
                // What lost its lease comes again, after what was behind it.
                let lost = self.keys_with_losses.contains(&key);
                self.expect(lost || before.is_none_or(|before| before <= of), || {
                    format!("outputs of {before:?} before {of}, both of key {key}")
                });
            }
        }
        for message in 0..plan.messages {
            let published = (0..outputs_of(message)).map(Output::Published);
            let outputs = by_message.remove(&message).unwrap_or_default();
            let right = outputs == [Output::DeadLetter] || published.eq(outputs.clone());
            self.expect(right, || format!("of {message} came {outputs:?}"));
        }
    }

    /// Notes a broken promise, unless `kept`.
    pub(crate) fn expect(&mut self, kept: bool, promise: impl FnOnce() -> String) {
        if !kept && self.broken.is_none() {
            self.broken = Some(promise());
        }
    }
}

impl World {
    pub(crate) fn new(kind: Kind, exactly_once: bool, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ ((kind as u64) << 60));
        let chance = |rng: &mut Rng, most: u32| if rng.bool() { rng.u32(0..most) } else { 0 };
        let plan = Plan {
            kind,
            messages: rng.usize(1..60),
            keys: rng.usize(1..8),
            partitions: rng.u32(1..4),
            concurrency: rng.usize(1..9),
            max_in_flight: rng.usize(1..40),
            batch: (rng.u8(0..4) == 0).then(|| rng.usize(1..10)),
            lease: Duration::from_millis(rng.u64(50..2000)),
            connection_fails: chance(&mut rng, 60),
            settle_fails: chance(&mut rng, 200),
            duplicates: chance(&mut rng, 100),
            leases_lost: chance(&mut rng, 500),
            revokes: chance(&mut rng, 60),
            handler_fails: chance(&mut rng, 300),
            dead_letter_fails: chance(&mut rng, 500),
            listener_fails: chance(&mut rng, 200),
            exactly_once,
            restarts: if rng.u8(0..3) == 0 { rng.u32(1..4) } else { 0 },
        };
        let broker = Broker::new(&plan);
        Self {
            plan,
            state: Arc::new(Mutex::new(State {
                rng,
                broker,
                record: Record::default(),
            })),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True with this many chances in a thousand.
    pub(crate) fn chance(&self, permille: u32) -> bool {
        self.lock().rng.u32(0..1000) < permille
    }

    /// Sometimes takes some time.
    pub(crate) async fn dawdle(&self, most: Duration) {
        let pause = {
            let rng = &mut self.lock().rng;
            match rng.u8(0..4) {
                0 => None,
                1 => Some(Duration::ZERO),
                _ => Some(Duration::from_micros(rng.u64(0..=most.as_micros() as u64))),
            }
        };
        match pause {
            None => {}
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(pause) => tokio::time::sleep(pause).await,
        }
    }

    /// The key of a message: some have none.
    pub(crate) fn key(&self, message: usize) -> Option<usize> {
        key(&self.plan, message)
    }

    /// A handler starts on a message.
    pub(crate) fn begin(&self, message: usize) -> Handling {
        let plan = &self.plan;
        let mut state = self.lock();
        let record = &mut state.record;
        record.attempts += 1;
        // Every failure is a random one; so many in a row are a hot loop.
        let attempts = record.attempts;
        record.expect(attempts < 400 * plan.messages, || "a hot loop".to_owned());
        record.running += 1;
        let most = plan.concurrency * plan.batch.unwrap_or(1);
        let running = record.running;
        record.expect(running <= most, || format!("{running} handlers at once"));
        if let Some(key) = key(plan, message) {
            let running = record.running_keys.entry(key).or_default();
            *running += 1;
            let running = *running;
            if plan.batch.is_none() {
                record.expect(running == 1, || format!("two of key {key} at once"));
                // Exactly once, earlier ones may not be committed yet.
                if !plan.exactly_once {
                    self.expect_earlier(record, message, key);
                }
            }
        }
        Handling {
            world: self.clone(),
            message,
        }
    }

    /// All messages of the key before this one have been handled.
    fn expect_earlier(&self, record: &mut Record, message: usize, key: usize) {
        let earlier =
            (0..message).find(|m| self.key(*m) == Some(key) && !record.handled.contains(m));
        record.expect(earlier.is_none(), || {
            format!("message {message} before {earlier:?}, both of key {key}")
        });
    }
}

pub(crate) fn key(plan: &Plan, message: usize) -> Option<usize> {
    let key = message % (plan.keys + 1);
    (key < plan.keys).then_some(key)
}

/// A handler at work on a message, until it is dropped.
pub(crate) struct Handling {
    world: World,
    message: usize,
}

impl Handling {
    /// The message has been handled.
    pub(crate) fn done(self) {
        let (world, message) = (&self.world, self.message);
        if world.plan.exactly_once {
            return;
        }
        let record = &mut world.lock().record;
        if let Some(key) = world.key(message) {
            world.expect_earlier(record, message, key);
        }
        record.handled.insert(message);
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        let key = self.world.key(self.message);
        let record = &mut self.world.lock().record;
        record.running -= 1;
        if let Some(running) = key.and_then(|key| record.running_keys.get_mut(&key)) {
            *running -= 1;
        }
    }
}

/// The message that an output came of.
pub(crate) fn origin(output: &Message) -> usize {
    let headers = output.headers();
    let of = headers.get_str("of");
    let of = of.or_else(|| headers.get_str(dead_letter::headers::ID));
    of.and_then(|of| of.parse().ok()).expect("an output")
}

/// How many messages come of a message.
pub(crate) fn outputs_of(message: usize) -> usize {
    1 + message % 2
}

//! The dispatcher step by step, at random: its invariants hold after each.

use fastrand::Rng;

use super::*;
use crate::{AckToken, Assignment, FailurePolicy, Order, TransactionPart};

impl Dispatcher {
    fn check(&self) {
        let count = |state: State| {
            self.entries
                .iter()
                .filter(|(_, e)| e.state == state)
                .count()
        };
        assert_eq!(count(State::Running), self.running);
        assert_eq!(count(State::Waiting), self.waiting);
        assert_eq!(count(State::Ready), self.ready.len());
        let bytes: usize = self.entries.iter().map(|(_, e)| e.size as usize).sum();
        assert_eq!(bytes + self.output_bytes(), self.bytes);
        let mut in_lanes = 0;
        for (key, lane) in &self.lanes {
            let mut index = lane.head;
            loop {
                let entry = &self.entries[index as usize];
                assert_eq!(entry.lane, *key);
                assert!(
                    index == lane.head || matches!(entry.state, State::Queued | State::Running)
                );
                in_lanes += 1;
                if entry.next == NONE {
                    assert_eq!(lane.tail, index);
                    break;
                }
                index = entry.next;
            }
            assert_ne!(
                self.entries[lane.head as usize].state,
                State::Queued,
                "a lane is stuck"
            );
        }
        let laned = self
            .entries
            .iter()
            .filter(|(_, e)| e.lane != NO_LANE)
            .count();
        assert_eq!(laned, in_lanes);
    }
}

const DRIVERS: [Capabilities; 2] = [
    Capabilities::none("positional").acknowledgement(Acknowledgement::Cumulative),
    Capabilities::none("individual")
        .order(Order::PerKey)
        .delayed_redelivery(Some(Duration::from_secs(100))),
];

fn dispatcher(driver: &Capabilities) -> Dispatcher {
    let settings = RunSettings {
        failure: FailurePolicy::default(),
        max_in_flight: 40,
        ..RunSettings::default()
    };
    Dispatcher::new(&settings, driver)
}

fn delivery(sequence: u64, key: Option<u8>) -> Delivery {
    let message = Message::builder("s")
        .data("x")
        .maybe_key(key.map(|key| [key][..].into()));
    let partition = u32::from(key.unwrap_or(0) % 2);
    Delivery::new(
        message.build().unwrap(),
        AckToken::new(partition, 1, sequence),
    )
}

/// A worker of the test: what it has taken, in order. The first may count as started.
#[derive(Default)]
struct Worker(VecDeque<Work>);

fn done(work: Work, verdict: Verdict) -> Done {
    Done {
        index: work.index,
        verdict,
        after: After::Again(Again {
            message: work.message,
            metadata: work.parts.metadata,
            failed_at: None,
        }),
    }
}

/// Messages of one key are never with two workers, and with one in their order.
fn check_workers(workers: &[Worker]) {
    let mut holders: HashMap<Vec<u8>, (usize, u64)> = HashMap::new();
    for (number, worker) in workers.iter().enumerate() {
        for work in &worker.0 {
            let Some(key) = work.message.key() else {
                continue;
            };
            let at = (number, work.parts.id.sequence);
            if let Some((other, earlier)) = holders.insert(key.as_bytes().to_vec(), at) {
                assert_eq!(other, number, "one key at two workers");
                assert!(earlier < at.1, "out of order");
            }
        }
    }
}

#[test]
fn invariants_hold_after_each_step() {
    for seed in 0..1000 {
        let mut rng = Rng::with_seed(seed);
        let driver = &DRIVERS[seed as usize % 2];
        let exactly_once = seed % 4 < 2;
        let run = std::panic::AssertUnwindSafe(|| walk(&mut rng, driver, exactly_once));
        assert!(std::panic::catch_unwind(run).is_ok(), "seed {seed}");
    }
}

/// What handling a delivery publishes: its position.
fn written(work: &Work, verdict: Verdict) -> Done {
    Done {
        index: work.index,
        verdict,
        after: After::Written(vec![output(work.parts.id.sequence)]),
    }
}

fn output(sequence: u64) -> Message {
    let message = Message::builder("out").data(sequence.to_be_bytes().to_vec());
    message.build().unwrap()
}

/// Parts that wait to be sent, and what was written of those that were.
#[derive(Default)]
struct Transactions {
    parts: Vec<TransactionPart>,
    written: HashMap<TokenId, Vec<u64>>,
    /// By partition: what came before this is gone.
    gone_before: HashMap<u32, u64>,
}

impl Transactions {
    /// Takes what there is and, now and then, commits it: each output once, in order, none beyond
    /// what is acknowledged with it.
    fn step(&mut self, dispatcher: &mut Dispatcher, rng: &mut Rng, cumulative: bool) {
        dispatcher.take_parts(&mut self.parts);
        dispatcher.check();
        if rng.bool() {
            return;
        }
        for part in self.parts.drain(..) {
            let mark = part.settlement.token.id();
            let numbers: Vec<_> = part
                .outputs
                .iter()
                .map(|output| u64::from_be_bytes(output.data()[..].try_into().unwrap()))
                .collect();
            assert!(numbers.iter().all(|number| *number <= mark.sequence));
            if cumulative {
                let kept = self.gone_before.get(&mark.partition).copied();
                assert!(numbers.iter().all(|number| *number >= kept.unwrap_or(0)));
                let partition = TokenId {
                    sequence: 0,
                    ..mark
                };
                let before = self.written.entry(partition).or_default();
                before.extend(numbers);
                assert!(before.is_sorted_by(|a, b| a < b), "{before:?}");
            } else {
                let acked = part.settlement.action == SettleAction::Ack;
                let expected = if acked { vec![mark.sequence] } else { vec![] };
                assert_eq!(numbers, expected);
                assert!(self.written.insert(mark, numbers).is_none(), "twice");
            }
        }
        dispatcher.all_settled();
        dispatcher.check();
    }
}

fn walk(rng: &mut Rng, driver: &Capabilities, exactly_once: bool) {
    let mut transactions = Transactions::default();
    let mut dispatcher = dispatcher(driver);
    let mut workers: Vec<Worker> = (0..4).map(|_| Worker::default()).collect();
    let mut now = Instant::from_std(std::time::Instant::now());
    let mut next = 0;
    let mut settled = Vec::new();
    for _ in 0..200 {
        match rng.u8(0..12) {
            0..=2 => {
                for _ in 0..rng.usize(0..=dispatcher.room().min(6)) {
                    let key = rng.bool().then(|| rng.u8(0..4));
                    dispatcher.push(delivery(next, key), now);
                    next += 1;
                }
            }
            3..=5 => {
                let number = rng.usize(0..workers.len());
                // A worker takes more only when it has finished what it had.
                if workers[number].0.is_empty() {
                    dispatcher.take(rng.usize(1..8), number as u16, &mut workers[number].0);
                }
            }
            6 | 7 => {
                let worker = &mut workers[rng.usize(0..4)];
                if let Some(work) = worker.0.pop_front() {
                    let verdict =
                        [Verdict::Ack, Verdict::Ack, Verdict::DeadLettered][rng.usize(0..3)];
                    let this = if exactly_once {
                        written(&work, verdict)
                    } else {
                        done(work, verdict)
                    };
                    dispatcher.finish(this, || now);
                }
            }
            8 => {
                let worker = &mut workers[rng.usize(0..4)];
                if let Some(work) = worker.0.pop_front() {
                    let delay = Duration::from_millis(rng.u64(1..200_000));
                    let verdicts = [
                        Verdict::Retry(delay),
                        Verdict::Postpone(delay),
                        Verdict::Release,
                    ];
                    dispatcher.give_back(&mut worker.0);
                    dispatcher.finish(done(work, verdicts[rng.usize(0..3)]), || now);
                }
            }
            9 => {
                now += Duration::from_millis(rng.u64(0..50_000));
                dispatcher.fire(now);
            }
            10 => {
                let partition = rng.u32(0..2);
                let gone = [Assignment {
                    partition,
                    epoch: 1,
                }];
                match rng.u8(0..3) {
                    0 => {
                        let ids: Vec<_> = (0..3)
                            .map(|_| TokenId {
                                partition,
                                epoch: 1,
                                sequence: rng.u64(0..=next),
                            })
                            .collect();
                        dispatcher.lose(&ids);
                    }
                    1 => {
                        drop(dispatcher.lose_partitions(&gone));
                        transactions.gone_before.insert(partition, next);
                        let is_gone = |id| gone.contains(&Assignment::of(id));
                        transactions
                            .parts
                            .retain(|part| !is_gone(part.settlement.token.id()));
                    }
                    _ => drop(dispatcher.hold_partitions(&gone)),
                }
            }
            _ => {
                if rng.u8(0..20) == 0 {
                    dispatcher.lose_all();
                    transactions.parts.clear();
                    transactions.gone_before.extend([(0, next), (1, next)]);
                }
            }
        }
        dispatcher.check();
        check_workers(&workers);
        if exactly_once {
            let cumulative = driver.acknowledgement == Acknowledgement::Cumulative;
            transactions.step(&mut dispatcher, rng, cumulative);
        } else {
            dispatcher.take_settlements(&mut settled);
        }
    }
    end(&mut dispatcher, &mut workers, now, rng);
}

/// A shutdown: nothing is left but what a worker does not finish, and the counts add up.
fn end(dispatcher: &mut Dispatcher, workers: &mut [Worker], now: Instant, rng: &mut Rng) {
    for worker in workers.iter_mut() {
        let started = worker.0.pop_front();
        dispatcher.give_back(&mut worker.0);
        worker.0.extend(started);
    }
    dispatcher.stop(now);
    dispatcher.check();
    for worker in workers {
        if let Some(work) = worker.0.pop_front() {
            let verdicts = [
                Verdict::Ack,
                Verdict::Retry(Duration::from_secs(1)),
                Verdict::Release,
            ];
            dispatcher.finish(done(work, verdicts[rng.usize(0..3)]), || now);
            dispatcher.check();
        }
    }
    assert_eq!(dispatcher.in_flight(), 0);
    assert_eq!(dispatcher.ready(), 0);
}

#[test]
fn a_stale_timer_does_not_bring_a_later_retry_forward() {
    let mut dispatcher = dispatcher(&DRIVERS[1]);
    let now = Instant::from_std(std::time::Instant::now());
    let mut taken = VecDeque::new();
    let retry = |dispatcher: &mut Dispatcher, taken: &mut VecDeque<Work>, seconds| {
        dispatcher.take(1, 0, taken);
        let work = taken.pop_front().unwrap();
        dispatcher.finish(
            done(work, Verdict::Retry(Duration::from_secs(seconds))),
            || now,
        );
    };
    dispatcher.push(delivery(0, Some(1)), now);
    retry(&mut dispatcher, &mut taken, 10);
    // Lost; the next message takes the same slot, and waits for longer.
    dispatcher.lose(&[TokenId {
        partition: 1,
        epoch: 1,
        sequence: 0,
    }]);
    dispatcher.push(delivery(1, Some(1)), now);
    retry(&mut dispatcher, &mut taken, 20);
    dispatcher.fire(now + Duration::from_secs(15));
    assert_eq!(dispatcher.ready(), 0);
    dispatcher.fire(now + Duration::from_secs(20));
    assert_eq!(dispatcher.ready(), 1);
}

#[test]
fn what_waits_behind_a_lost_message_goes_back_to_come_after_it() {
    let mut dispatcher = dispatcher(&DRIVERS[1]);
    let now = Instant::from_std(std::time::Instant::now());
    for sequence in 0..3 {
        dispatcher.push(delivery(sequence, Some(1)), now);
    }
    let mut taken = VecDeque::new();
    dispatcher.take(1, 0, &mut taken);
    let lost = dispatcher.lose(&[TokenId {
        partition: 1,
        epoch: 1,
        sequence: 0,
    }]);
    assert_eq!(lost.len(), 1, "it is at a worker, which is told");
    let work = taken.pop_front().unwrap();
    dispatcher.finish(done(work, Verdict::Retry(Duration::from_secs(1))), || now);
    let mut settled = Vec::new();
    dispatcher.take_settlements(&mut settled);
    let settled: Vec<_> = settled
        .iter()
        .map(|s| (s.token.id().sequence, s.action))
        .collect();
    assert_eq!(
        settled,
        [(1, SettleAction::Release), (2, SettleAction::Release)]
    );
    assert_eq!(dispatcher.in_flight(), 0);
}

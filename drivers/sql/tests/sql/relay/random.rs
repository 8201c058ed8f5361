//! Transactions, crashes and relays in any order: every message that is committed arrives, none that
//! is rolled back does, and those of a key arrive in order.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use sqlx::{MySql, Postgres, Sqlite};
use streams_core::ErrorKind;
use tokio::time::sleep;

use super::{Destination, relay, run, until_empty};
use crate::outbox::outbox;
use crate::support::{self, Test, TestDatabase, message};

const KEYS: [&str; 3] = ["a", "b", "c"];

/// A seed that failed can be tried again: `STREAMS_SEED=17`.
async fn every_interleaving_is_right<DB: TestDatabase>(rounds: usize) {
    let seed = std::env::var("STREAMS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = match seed {
        Some(seed) => vec![seed],
        None => (0..rounds).map(|_| fastrand::u64(..1_000_000)).collect(),
    };
    for seed in seeds {
        println!("seed {seed}");
        support::run::<DB, _>(|test| interleave(test, seed)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_interleaving_is_right_on_sqlite() {
    every_interleaving_is_right::<Sqlite>(6).await;
}

/// Here transactions run at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_interleaving_is_right_on_postgres() {
    every_interleaving_is_right::<Postgres>(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_interleaving_is_right_on_mariadb() {
    every_interleaving_is_right::<MySql>(4).await;
}

async fn interleave<DB: TestDatabase>(test: Test<DB>, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let mut failing = random.fork();
    let writers_done = AtomicBool::new(false);

    // One writer a key, so that the order of its commits is known.
    let writers = KEYS.map(|key| {
        let (outbox, mut random) = (&outbox, random.fork());
        async move {
            let mut committed = Vec::new();
            let mut number = 0;
            for _ in 0..25 {
                let tx = outbox.begin().await.unwrap();
                let writer = tx.writer();
                let mut numbers = Vec::new();
                for _ in 0..random.usize(1..3) {
                    let batch: Vec<_> = (0..random.usize(1..4))
                        .map(|_| {
                            number += 1;
                            numbers.push(number.to_string());
                            let stream = if number % 2 == 0 { "even" } else { "odd" };
                            message(stream, key, number)
                        })
                        .collect();
                    writer.write(&batch).await.unwrap();
                }
                match random.u8(..5) {
                    0 => tx.rollback().await.unwrap(),
                    1 => drop(tx),
                    _ => {
                        tx.commit().await.unwrap();
                        committed.extend(numbers);
                    }
                }
                sleep(Duration::from_millis(random.u64(..4))).await;
            }
            (key, committed)
        }
    });

    // Relays that crash or stop at any moment, and others in their place.
    let relays = (0..3).map(|tag| {
        let (outbox, to, done, mut random) =
            (&outbox, to.tagged(tag), &writers_done, random.fork());
        async move {
            let settings = |random: &mut Rng| {
                relay(outbox, &to)
                    .lease(Duration::from_millis(300))
                    .rows(random.u32(1..20))
                    .deferred(random.usize(1..20))
                    .attempts(u32::MAX)
            };
            while !done.load(Ordering::Relaxed) {
                let running = run(settings(&mut random));
                sleep(Duration::from_millis(random.u64(..200))).await;
                if random.bool() {
                    running.crash().await;
                } else {
                    running.stop().await;
                }
            }
        }
    });

    // A destination that fails now and then, wholly or for one stream, or does not answer.
    let weather = async {
        while !writers_done.load(Ordering::Relaxed) {
            to.hangs.send_replace(false);
            match failing.u8(..5) {
                0 => to.fail(|_| Some(ErrorKind::Unavailable)),
                1 => to.fail(|message| {
                    (message.stream().as_str() == "odd").then_some(ErrorKind::Unavailable)
                }),
                2 => {
                    to.hangs.send_replace(true);
                }
                _ => to.heal(),
            }
            sleep(Duration::from_millis(failing.u64(..30))).await;
        }
        to.hangs.send_replace(false);
        to.heal();
    };

    let writing = async {
        let committed = futures_util::future::join_all(writers).await;
        writers_done.store(true, Ordering::Relaxed);
        committed
    };
    let (committed, _, ()) = tokio::join!(writing, futures_util::future::join_all(relays), weather);
    let last = run(relay(&outbox, &to));
    until_empty(&outbox).await;
    let report = last.stop().await;
    assert_eq!(report.set_aside, 0, "seed {seed}");

    let mut expected = BTreeMap::<_, Vec<_>>::new();
    for (key, numbers) in committed {
        for number in numbers {
            let stream = if number.parse::<usize>().unwrap() % 2 == 0 {
                "even"
            } else {
                "odd"
            };
            expected
                .entry(format!("{stream}/{key}"))
                .or_default()
                .push(number);
        }
    }
    let (lanes, again) = to.first_arrivals();
    let all: HashSet<_> = to.written().into_iter().map(|written| written.id).collect();
    println!("{} messages, {again} arrived again", all.len());
    assert_eq!(lanes, expected, "seed {seed}");
    assert_eq!(test.count("streams_egress").await, 0, "seed {seed}");
}

//! Transactions, crashes and relays in any order: every message that is committed arrives, none that
//! is rolled back does, and those of a key arrive in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use sqlx::{MySql, Postgres, Sqlite};
use streams_outbox::testing::{seeds, stream_of};
use tokio::time::sleep;

use super::{Destination, relay, run, until_empty};
use crate::outbox::outbox;
use crate::support::{self, Test, TestDatabase, message};

const KEYS: [&str; 3] = ["a", "b", "c"];

async fn every_interleaving_is_right<DB: TestDatabase>(rounds: usize) {
    for seed in seeds(rounds) {
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
    let failing = random.fork();
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
                            numbers.push(number);
                            message(stream_of(number), key, number)
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

    let writing = async {
        let committed = join_all(writers).await;
        writers_done.store(true, Ordering::Relaxed);
        committed
    };
    let weather = to.weather(failing, Duration::from_millis(30), &writers_done);
    let (committed, _, ()) = tokio::join!(writing, join_all(relays), weather);
    let last = run(relay(&outbox, &to));
    until_empty(&outbox).await;
    let report = last.stop().await;
    assert_eq!(report.set_aside, 0, "seed {seed}");

    to.check(committed);
    assert_eq!(test.count("streams_egress").await, 0, "seed {seed}");
}

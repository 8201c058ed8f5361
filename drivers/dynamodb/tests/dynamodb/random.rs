//! Transactions, crashes and relays in any order: every message that is committed arrives, none that
//! is rolled back does, and those of a key arrive in order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use streams_core::ErrorKind;
use streams_dynamodb::{Mode, NewTables};
use streams_outbox::testing::{seeds, stream_of};
use tokio::time::{sleep, timeout};

use crate::destination::{Destination, relay, run};
use crate::support::{Setup, message, new_item, until_empty};

const KEYS: [&str; 3] = ["a", "b", "c"];

async fn every_interleaving_is_right(mode: Mode) {
    for seed in seeds(1) {
        println!("seed {seed}");
        interleave(mode, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_interleaving_is_right_by_query() {
    every_interleaving_is_right(Mode::Query).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_interleaving_is_right_by_streams() {
    every_interleaving_is_right(Mode::Streams).await;
}

async fn interleave(mode: Mode, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let setup = Setup::with(&NewTables::new().partitions(random.u32(1..4))).await;
    let to = Destination::new();
    let failing = random.fork();
    let writers_done = AtomicBool::new(false);
    // How many relays have written some of what was committed meanwhile.
    let worked = AtomicUsize::new(0);
    commit_nothing(&setup).await;

    // One writer a key, so that the order of its commits is known; each time as another process.
    let writers = KEYS.map(|key| {
        let (setup, worked, mut random) = (&setup, &worked, random.fork());
        async move {
            let mut committed = Vec::new();
            let mut number = 0;
            for turn in 0.. {
                // Until relays have had their share, however slow the machine is.
                if turn >= 40 && worked.load(Ordering::Relaxed) >= 3 || turn >= 300 {
                    break;
                }
                let outbox = if random.bool() {
                    setup.outbox.clone()
                } else {
                    setup.other(setup.dynamodb.clone())
                };
                let mut tx = outbox.begin();
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
                match random.u8(..6) {
                    0 => tx.rollback(),
                    1 => drop(tx),
                    2 => {
                        // Cancelled: it is there already.
                        tx.add(new_item(&setup.table, "taken")).unwrap();
                        let error = tx.commit().await.unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::Unrecoverable, "{error}");
                    }
                    _ => {
                        tx.add(new_item(&setup.table, &format!("{key}-{turn}")))
                            .unwrap();
                        while let Err(error) = tx.commit().await {
                            assert!(error.is_retryable(), "{error}");
                        }
                        committed.extend(numbers);
                    }
                }
                sleep(Duration::from_millis(random.u64(..300))).await;
            }
            (key, committed)
        }
    });

    // Relays that crash or stop at any moment, and others in their place.
    let relays = (0..3).map(|tag| {
        let (setup, to, worked) = (&setup, to.tagged(tag), &worked);
        let (done, mut random) = (&writers_done, random.fork());
        async move {
            while !done.load(Ordering::Relaxed) {
                let running = run(relay(&setup.outbox, &to, mode)
                    .lease(Duration::from_secs(2))
                    .rows(random.u32(1..20))
                    .deferred(random.usize(1..20))
                    .attempts(u32::MAX));
                let some = to.until_count(to.written().len() + random.usize(1..10));
                let longest = Duration::from_millis(random.u64(4000..9000));
                if timeout(longest, some).await.is_ok() {
                    worked.fetch_add(1, Ordering::Relaxed);
                }
                if random.u8(..3) == 0 {
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
    let weather = to.weather(failing, Duration::from_millis(100), &writers_done);
    let (committed, _, ()) = tokio::join!(writing, join_all(relays), weather);
    let before = to.written().len();
    let last = run(relay(&setup.outbox, &to, mode).lease(Duration::from_secs(2)));
    until_empty(&setup.outbox).await;
    let report = last.stop().await;
    assert_eq!(report.set_aside, 0, "seed {seed}");

    println!("{before} written before the last relay");
    assert!(before > 0, "no relay worked beside the writers");
    to.check(committed);
    setup.end().await;
}

/// An item that others will find there.
async fn commit_nothing(setup: &Setup) {
    let mut tx = setup.outbox.begin();
    tx.add(new_item(&setup.table, "taken")).unwrap();
    tx.commit().await.unwrap();
}

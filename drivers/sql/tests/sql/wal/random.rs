//! Transactions and crashes of the relay in any order: every message that is committed arrives, none
//! that is rolled back does, and all in the order of the commits.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use streams_core::{Error, ErrorKind};
use streams_outbox::testing::seeds;
use tokio::time::sleep;

use super::{Destination, Running, Wal, run};
use crate::support::message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_interleaving_is_right() {
    for seed in seeds(4) {
        println!("seed {seed}");
        run(async |wal| interleave(&wal, seed).await).await;
    }
}

async fn interleave(wal: &Wal, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let (mut of_writer, mut of_weather) = (random.fork(), random.fork());
    let destination = Destination::new();
    let start = || Running::new(wal.builder(&destination).rows(7).build().unwrap());
    let mut relay = wal.start_and_wait(&destination).await;
    let done = AtomicBool::new(false);

    // Several transactions at a time, which end in any order.
    let writing = async {
        let (mut committed, mut open) = (Vec::new(), Vec::new());
        for number in 0..200 {
            let tx = wal.outbox.begin().await.unwrap();
            let numbers: Vec<_> = (0..of_writer.usize(1..4))
                .map(|n| number * 10 + n)
                .collect();
            for number in &numbers {
                let key = ["a", "b"][of_writer.usize(..2)];
                let written = tx.writer().write(&[message("s", key, *number)]).await;
                written.unwrap();
            }
            open.push((tx, numbers));
            while open.len() > of_writer.usize(..6) {
                let (tx, numbers) = open.swap_remove(of_writer.usize(..open.len()));
                match of_writer.u8(..5) {
                    0 => tx.rollback().await.unwrap(),
                    1 => drop(tx),
                    _ => {
                        tx.commit().await.unwrap();
                        committed.extend(numbers);
                    }
                }
            }
            sleep(Duration::from_millis(of_writer.u64(..4))).await;
        }
        done.store(true, Ordering::SeqCst);
        committed
    };

    // A destination that is down now and then, or takes its time.
    let weather = async {
        while !done.load(Ordering::SeqCst) {
            destination.hangs.send_replace(false);
            match of_weather.u8(..4) {
                0 => destination.refuse(|_| Some(Error::new(ErrorKind::Unavailable, "down"))),
                1 => {
                    destination.hangs.send_replace(true);
                }
                _ => destination.take_all(),
            }
            sleep(Duration::from_millis(of_weather.u64(..30))).await;
        }
        destination.hangs.send_replace(false);
        destination.take_all();
    };

    // A relay that crashes or stops at any moment, and another in its place.
    let relays = async {
        while !done.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(random.u64(..150))).await;
            if random.bool() {
                relay.crash().await;
            } else {
                relay.stop().await;
            }
            relay = start();
        }
        relay
    };

    let (committed, (), relay) = tokio::join!(writing, weather, relays);
    wal.until_empty().await;
    relay.stop().await;
    let numbers = destination.numbers();
    let mut seen = HashSet::new();
    let first: Vec<_> = numbers
        .iter()
        .copied()
        .filter(|n| seen.insert(*n))
        .collect();
    println!(
        "{} messages, {} arrived again",
        first.len(),
        numbers.len() - first.len()
    );
    assert_eq!(first, committed, "seed {seed}");
}

//! Faults of a server of the test's own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streams_core::ErrorKind;
use streams_services::{Postgres, Server};

use super::{Destination, PATIENCE, Running, Wal};
use crate::recorder::Recorded;
use crate::support::message;

async fn start(postgres: Postgres) -> Arc<Server> {
    let started = tokio::task::spawn_blocking(move || postgres.start());
    Arc::new(started.await.unwrap().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_log_enough_is_an_error() {
    let server = start(Postgres::new().setting("wal_level", "replica")).await;
    let wal = Wal::on(&server).await;
    let error = wal.start(&Destination::new()).error().await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("wal_level = logical"), "{error}");
}

/// Nothing of what was committed is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_server_loses_nothing() {
    let server = start(Postgres::new().durable()).await;
    let wal = Arc::new(Wal::on(&server).await);
    let destination = Destination::new();
    let relay = wal.start(&destination);
    wal.until_active().await;

    let writer = {
        let wal = wal.clone();
        tokio::spawn(async move {
            let mut committed = Vec::new();
            let mut number = 0;
            while committed.len() < 1500 {
                number += 1;
                let write = async {
                    let tx = wal.outbox.begin().await?;
                    let messages = [message("s", "k", number)];
                    tx.writer().write(&messages).await?;
                    tx.commit().await
                };
                if write.await.is_ok() {
                    committed.push(number);
                }
            }
            (committed, number)
        })
    };
    for round in 1..=3 {
        destination.wait(round * 300).await;
        let killed = server.clone();
        tokio::task::spawn_blocking(move || {
            killed.kill();
            killed.restart().unwrap();
            killed.wait_ready().unwrap();
        })
        .await
        .unwrap();
    }
    let (committed, last) = writer.await.unwrap();
    wal.until_empty().await;
    relay.stop().await;
    let arrived = destination.distinct();
    let lost: Vec<_> = committed
        .iter()
        .filter(|n| arrived.binary_search(n).is_err())
        .collect();
    assert!(lost.is_empty(), "lost {lost:?}");
    assert!(*arrived.last().unwrap() <= last);
    // What came again came again from somewhere on.
    let mut seen = HashSet::new();
    let numbers = destination.numbers();
    let first = numbers.iter().filter(|number| seen.insert(**number));
    assert!(first.is_sorted(), "{numbers:?}");
    println!(
        "{} committed in spite of 3 crashes, {} written",
        committed.len(),
        numbers.len()
    );
}

/// Idle, and while the destination takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_is_kept() {
    let server = start(Postgres::new().setting("wal_sender_timeout", "500ms")).await;
    let wal = Wal::on(&server).await;
    let destination = Destination::new();
    let relay = wal.builder(&destination).write_limit(PATIENCE);
    let relay = Running::new(relay.build().unwrap());
    wal.publish("k", 0).await;
    destination.wait(1).await;
    let sender = wal.slot("active_pid").await;
    let idle = Instant::now();
    while idle.elapsed() < Duration::from_secs(3) {
        assert_eq!(wal.slot("active_pid").await, sender);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    destination.hangs.send_replace(true);
    for number in 1..100 {
        wal.publish("k", number).await;
    }
    let busy = Instant::now();
    while busy.elapsed() < Duration::from_secs(3) {
        assert_eq!(wal.slot("active_pid").await, sender);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    destination.hangs.send_replace(false);
    destination.wait(100).await;
    relay.stop().await;
    assert_eq!(destination.numbers(), (0..100).collect::<Vec<_>>());
}

/// It hangs for longer than connections last, then goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_for_a_while_is_waited_for() {
    let server = start(Postgres::new().setting("wal_sender_timeout", "500ms")).await;
    let wal = Wal::on(&server).await;
    let destination = Destination::new();
    let relay = wal.start(&destination);
    wal.publish("k", 0).await;
    destination.wait(1).await;
    server.pause();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.resume();
    for number in 1..50 {
        wal.publish("k", number).await;
    }
    destination.wait(50).await;
    wal.until_empty().await;
    relay.stop().await;
    assert_eq!(destination.distinct(), (0..50).collect::<Vec<_>>());
}

/// The server gives the slot up, because it keeps too much for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_the_server_gave_up_is_made_anew() {
    let server = start(
        Postgres::new()
            .setting("max_slot_wal_keep_size", "1MB")
            .setting("min_wal_size", "32MB")
            .setting("max_wal_size", "32MB"),
    )
    .await;
    let wal = Wal::on(&server).await;
    let destination = Destination::new();
    let relay = wal.start(&destination);
    wal.publish("k", 0).await;
    destination.wait(1).await;
    wal.until_empty().await;
    relay.stop().await;

    wal.publish("k", 1).await;
    wal.test.execute("CREATE TABLE other (data TEXT)").await;
    while wal.slot("wal_status").await != "lost" {
        wal.test
            .execute("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            .await;
        wal.ask("SELECT pg_switch_wal()::text").await;
        wal.test.execute("CHECKPOINT").await;
    }
    let relay = wal.start(&destination);
    wal.publish("k", 2).await;
    destination.wait(3).await;
    wal.until_empty().await;
    relay.stop().await;
    assert_eq!(destination.numbers(), [0, 1, 2]);
}

/// On one thread, which is where its recorder is. No other test writes to this server.
#[tokio::test]
async fn the_lag_is_measured_and_goes_away() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let until = async |good: fn(f64) -> bool| {
        recorded
            .until(streams_sql::wal::SLOT_LAG, "slot", good)
            .await;
    };

    let server = start(Postgres::new()).await;
    let wal = Wal::on(&server).await;
    let destination = Destination::new();
    destination.hangs.send_replace(true);
    let relay = wal.builder(&destination).write_limit(PATIENCE);
    let relay = Running::new(relay.build().unwrap());
    for number in 0..500 {
        wal.publish("k", number).await;
    }
    until(|lag| lag > 10_000.0).await;
    destination.hangs.send_replace(false);
    destination.wait(500).await;
    until(|lag| lag == 0.0).await;
    assert_eq!(wal.slot("active_pid IS NOT NULL").await, "true");
    relay.stop().await;
}

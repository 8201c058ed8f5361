//! Crashes of the relay and of the database: duplicates yes, loss no.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::{MySql, Postgres};
use streams_core::ErrorKind;
use streams_services::Server;
use streams_sql::Outbox;

use super::{Destination, commit, relay, run, until_empty};
use crate::outbox::outbox;
use crate::support::{Test, TestDatabase, message};

on_each_database! {
    killed_between_write_and_delete,
    one_that_hangs_loses_its_lease,
}

async fn killed_between_write_and_delete<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let batch = [message("orders", "a", 1), message("orders", "a", 2)];
    commit(&outbox, &batch).await;
    commit(&outbox, &[message("orders", "a", 3)]).await;
    to.hangs.send_replace(true);
    let lease = Duration::from_millis(500);
    let killed = run(relay(&outbox, &to).lease(lease));
    to.until_count(3).await;
    killed.crash().await;
    assert_eq!(outbox.pending().await.unwrap(), 2, "nothing was deleted");

    to.hangs.send_replace(false);
    let relay = relay(&outbox, &to).build().unwrap();
    let report = loop {
        match relay.run_once().await {
            Ok(report) => break report,
            // Until the lease of the killed one has run out.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    };
    assert_eq!((report.messages, report.rows), (3, 2));
    let (lanes, again) = to.first_arrivals();
    assert_eq!((again, outbox.pending().await.unwrap()), (3, 0));
    assert_eq!(lanes["orders/a"], ["1", "2", "3"]);
}

/// A destination that never answers: the write is given up before the lease runs out.
async fn one_that_hangs_loses_its_lease<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    commit(&outbox, &[message("orders", "a", 1)]).await;
    to.hangs.send_replace(true);
    let running = run(relay(&outbox, &to).lease(Duration::from_millis(400)));
    // It goes on trying.
    to.until_count(3).await;
    to.hangs.send_replace(false);
    until_empty(&outbox).await;
    let report = running.stop().await;
    assert_eq!((report.messages, report.rows, report.set_aside), (1, 1, 0));
    assert!(report.failures >= 2);
}

/// Commits are counted when they were acknowledged, and tried again when nobody knows.
async fn commit_through_faults<DB: TestDatabase>(outbox: &Outbox<DB>, key: &str, number: usize) {
    loop {
        let Ok(tx) = outbox.begin().await else {
            continue;
        };
        let written = tx.writer().write(&[message("orders", key, number)]).await;
        if written.is_ok() && tx.commit().await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_killed() {
    let start = || streams_services::Postgres::new().durable().start();
    the_database_is_killed::<Postgres>(start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_killed() {
    let start = || streams_services::MariaDb::new().durable().start();
    the_database_is_killed::<MySql>(start).await;
}

async fn the_database_is_killed<DB: TestDatabase>(
    start: fn() -> Result<Server, streams_services::Error>,
) {
    let server = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    let server = Arc::new(server);
    let pool = DB::open(&server.url()).await;
    let outbox = Outbox::builder(pool).build().unwrap();
    outbox.migrate().await.unwrap();
    let to = Destination::new();
    let relays: Vec<_> = (0..2)
        .map(|n| {
            run(relay(&outbox, &to.tagged(n))
                .rows(5)
                .lease(Duration::from_secs(2)))
        })
        .collect();

    let stop = AtomicBool::new(false);
    let counts = [const { AtomicUsize::new(0) }; 3];
    let writing = counts.iter().zip(["a", "b", "c"]).map(|(count, key)| {
        let (outbox, stop) = (&outbox, &stop);
        async move {
            while !stop.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                commit_through_faults(outbox, key, number).await;
                count.store(number + 1, Ordering::Relaxed);
            }
        }
    });
    let harm = async {
        for round in 1..=3 {
            to.until_count(round * 50).await;
            let server = server.clone();
            let restart = move || {
                server.kill();
                server.restart().unwrap();
                server.wait_ready().unwrap();
            };
            tokio::task::spawn_blocking(restart).await.unwrap();
        }
        let seen = to.written().len();
        to.until_count(seen + 50).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(harm, futures_util::future::join_all(writing));
    until_empty(&outbox).await;
    for relay in relays {
        relay.stop().await;
    }
    let (lanes, again) = to.first_arrivals();
    for (count, key) in counts.iter().zip(["a", "b", "c"]) {
        // A commit whose answer was lost may be there twice, under two ids.
        let mut numbers = lanes[&format!("orders/{key}")].clone();
        numbers.dedup();
        let all: Vec<_> = (0..count.load(Ordering::Relaxed))
            .map(|n| n.to_string())
            .collect();
        assert_eq!(numbers, all, "{key}");
    }
    println!("{again} arrived again");
}

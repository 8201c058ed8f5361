//! Order, and several relays at once.

use std::time::Duration;

use sqlx::{MySql, Postgres};
use streams_core::ErrorKind;

use super::{Destination, commit, relay, run, until_empty};
use crate::outbox::outbox;
use crate::support::{self, Test, TestDatabase, message};

on_each_database! {
    several_relays_do_no_work_twice,
    another_takes_over_after_a_crash,
    another_takes_over_at_once_after_a_stop,
    what_another_did_meanwhile_is_not_overlooked,
}

/// What pollers with a cursor do wrong: the row of the older transaction has the smaller number, and
/// is seen later.
async fn no_row_is_skipped<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let relay = relay(&outbox, &to).build().unwrap();
    let mut slow = test.pool.begin().await.unwrap();
    let first = [message("orders", "slow", 1)];
    outbox.write_in(&mut slow, &first).await.unwrap();
    for number in 2..5 {
        commit(&outbox, &[message("orders", "quick", number)]).await;
        relay.run_once().await.unwrap();
    }
    assert_eq!(to.data(), ["2", "3", "4"]);
    assert_eq!(test.count("streams_egress").await, 0);
    let second = [message("orders", "slow", 5)];
    outbox.write_in(&mut slow, &second).await.unwrap();
    commit(&outbox, &[message("orders", "quick", 6)]).await;
    slow.commit().await.unwrap();
    relay.run_once().await.unwrap();
    assert_eq!(to.data(), ["2", "3", "4", "1", "5", "6"]);
    assert_eq!(outbox.pending().await.unwrap(), 0);
}

/// The same while it relays all the time.
async fn none_is_skipped_under_load<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let running = run(relay(&outbox, &to).rows(7));
    let slow = async {
        for round in 0..20 {
            let mut tx = test.pool.begin().await.unwrap();
            let number = 2 * round;
            outbox
                .write_in(&mut tx, &[message("orders", "slow", number)])
                .await
                .unwrap();
            // Others commit, and are relayed, meanwhile.
            let seen = to.written().len();
            to.until(|written| written.len() > seen + 3).await;
            outbox
                .write_in(&mut tx, &[message("orders", "slow", number + 1)])
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let quick = async {
        let mut number = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            commit(&outbox, &[message("orders", "quick", number)]).await;
            number += 1;
        }
        number
    };
    let slow = async {
        slow.await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let ((), count) = tokio::join!(slow, quick);
    until_empty(&outbox).await;
    running.stop().await;
    let (lanes, again) = to.first_arrivals();
    let numbers = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(lanes["orders/slow"], numbers(40));
    assert_eq!(lanes["orders/quick"], numbers(count));
    assert_eq!(again, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_skipped_on_postgres() {
    support::run::<Postgres, _>(no_row_is_skipped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_skipped_on_mariadb() {
    support::run::<MySql, _>(no_row_is_skipped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_is_skipped_under_load_on_postgres() {
    support::run::<Postgres, _>(none_is_skipped_under_load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_is_skipped_under_load_on_mariadb() {
    support::run::<MySql, _>(none_is_skipped_under_load).await;
}

async fn several_relays_do_no_work_twice<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let relays: Vec<_> = (0..3)
        .map(|n| run(relay(&outbox, &to.tagged(n)).rows(10)))
        .collect();
    let (keys, count) = (["a", "b", "c", "d"], 30);
    let writing = keys.map(|key| {
        let outbox = &outbox;
        async move {
            for number in 0..count {
                commit(outbox, &[message("orders", key, number)]).await;
            }
        }
    });
    futures_util::future::join_all(writing).await;
    to.until_count(keys.len() * count).await;
    until_empty(&outbox).await;
    let mut messages = 0;
    for relay in relays {
        messages += relay.stop().await.messages;
    }
    assert_eq!(messages, 120);
    let (lanes, again) = to.first_arrivals();
    assert_eq!(again, 0);
    let numbers: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    for key in keys {
        assert_eq!(lanes[&format!("orders/{key}")], numbers);
    }
}

async fn another_takes_over_after_a_crash<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let lease = Duration::from_secs(1);
    let first = run(relay(&outbox, &to.tagged(1)).lease(lease));
    commit(&outbox, &[message("orders", "a", 1)]).await;
    to.until_count(1).await;
    let second = run(relay(&outbox, &to.tagged(2)).lease(lease));
    let error = relay(&outbox, &to)
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    first.crash().await;
    commit(&outbox, &[message("orders", "a", 2)]).await;
    to.until(|written| written.iter().any(|w| w.data == "2"))
        .await;
    until_empty(&outbox).await;
    second.stop().await;
    let tags: Vec<_> = to.written().iter().map(|w| w.tag).collect();
    assert!(tags.starts_with(&[1]) && tags.ends_with(&[2]), "{tags:?}");
}

async fn another_takes_over_at_once_after_a_stop<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let lease = Duration::from_secs(3600);
    let first = run(relay(&outbox, &to.tagged(1)).lease(lease));
    commit(&outbox, &[message("orders", "a", 1)]).await;
    to.until_count(1).await;
    let second = run(relay(&outbox, &to.tagged(2)).lease(lease));
    let report = first.stop().await;
    assert_eq!((report.messages, report.rows), (1, 1));
    commit(&outbox, &[message("orders", "a", 2)]).await;
    to.until_count(2).await;
    let report = second.stop().await;
    assert_eq!((report.messages, report.rows), (1, 1));
    assert_eq!(outbox.pending().await.unwrap(), 0);
    assert_eq!(to.data(), ["1", "2"]);

    // One that was stopped while it stood by does not let go of another's lease.
    let third = run(relay(&outbox, &to.tagged(3)).lease(lease));
    commit(&outbox, &[message("orders", "a", 3)]).await;
    to.until_count(3).await;
    run(relay(&outbox, &to)).stop().await;
    let error = relay(&outbox, &to)
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    third.stop().await;
}

/// One that was away for longer than its lease, say because its machine slept: another one had the
/// lease, deferred a row and ended. That it knows of no such row must not matter.
async fn what_another_did_meanwhile_is_not_overlooked<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let running = run(relay(&outbox, &to).lease(Duration::from_millis(300)));
    commit(&outbox, &[message("orders", "a", 0)]).await;
    to.until_count(1).await;
    until_empty(&outbox).await;

    // In one transaction, so that the relay sees all of it or nothing.
    let tx = outbox.begin().await.unwrap();
    tx.writer()
        .write(&[message("orders", "a", 1)])
        .await
        .unwrap();
    for sql in [
        "UPDATE streams_egress SET status = 3",
        "UPDATE streams_relay SET owner = 'another', expires = 0",
    ] {
        let mut connection = tx.connection().await.unwrap();
        DB::run_on(&mut connection, sql).await.unwrap();
    }
    tx.commit().await.unwrap();
    to.until_count(2).await;
    until_empty(&outbox).await;
    let report = running.stop().await;
    assert_eq!((report.rows, to.data()), (2, vec!["0".into(), "1".into()]));
}

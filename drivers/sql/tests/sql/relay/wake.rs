//! How the relay hears of rows, when it would not look for a long time.

use std::time::{Duration, Instant};

use sqlx::Postgres;
use streams_sql::Outbox;

use super::{Destination, commit, relay, run, until_empty, until_found};
use crate::outbox::outbox;
use crate::support::{self, Test, TestDatabase, message};

on_each_database! {
    commits_of_this_process_wake_it,
    others_are_found_by_polling,
}

/// Longer than a test may take.
const NEVER: Duration = Duration::from_secs(3600);

/// Whose commits only PostgreSQL could tell of.
async fn stranger<DB: TestDatabase>(test: &Test<DB>) -> Outbox<DB> {
    Outbox::builder(DB::open(&test.url).await).build().unwrap()
}

async fn commits_of_this_process_wake_it<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let running = run(relay(&outbox, &to)
        .poll_interval(NEVER, NEVER)
        .listen(false));
    for number in 0..20 {
        commit(&outbox, &[message("orders", "a", number)]).await;
        to.until_count(number + 1).await;
        until_empty(&outbox).await;
    }
    // Written without a transaction of the outbox, and told.
    let mut connection = test.pool.acquire().await.unwrap();
    let last = [message("orders", "a", 20)];
    outbox.write_in(&mut connection, &last).await.unwrap();
    outbox.notify();
    to.until_count(21).await;
    assert_eq!(running.stop().await.rows, 21);
}

async fn others_are_found_by_polling<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let stranger = stranger(&test).await;
    let running = run(relay(&outbox, &to).listen(false));
    for number in 0..5 {
        commit(&stranger, &[message("orders", "a", number)]).await;
        to.until_count(number + 1).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_wake_it() {
    support::run::<Postgres, _>(|test| async move {
        let (outbox, to) = (outbox(&test).await, Destination::new());
        let stranger = stranger(&test).await;
        let running = run(relay(&outbox, &to).poll_interval(NEVER, NEVER).lease(NEVER));
        commit(&stranger, &[message("orders", "a", 0)]).await;
        to.until_count(1).await;
        // It listens by now.
        let mut times = Vec::new();
        for number in 1..100 {
            let from = Instant::now();
            commit(&stranger, &[message("orders", "a", number)]).await;
            to.until_count(number + 1).await;
            times.push(from.elapsed());
        }
        times.sort();
        println!(
            "commit to written: median {:?}, slowest {:?}",
            times[49], times[98]
        );
        assert!(times[49] < Duration::from_millis(500), "{times:?}");

        // The connection it listens on is lost; it opens another.
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE datname = current_database() AND query LIKE 'LISTEN %' \
                     AND pid <> pg_backend_pid()";
        assert_eq!(test.rows(ended).await, [["1"]]);
        let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = \
                         current_database() AND query LIKE 'LISTEN %' AND pid <> pg_backend_pid()";
        commit(&stranger, &[message("orders", "a", 100)]).await;
        to.until_count(101).await;
        until_found(&test, listening, "1").await;
        commit(&stranger, &[message("orders", "a", 101)]).await;
        to.until_count(102).await;
        assert_eq!(running.stop().await.rows, 102);
        // Nobody listens any more.
        until_found(&test, listening, "0").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_hears_that_the_lease_is_free() {
    support::run::<Postgres, _>(|test| async move {
        let (outbox, to) = (outbox(&test).await, Destination::new());
        let patient = |tag| {
            let relay = relay(&outbox, &to.tagged(tag));
            relay.poll_interval(NEVER, NEVER).lease(NEVER)
        };
        let first = run(patient(1));
        commit(&outbox, &[message("orders", "a", 0)]).await;
        to.until_count(1).await;
        let second = run(patient(2));
        // Both listen.
        let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = \
                         current_database() AND query LIKE 'LISTEN %' AND pid <> pg_backend_pid()";
        until_found(&test, listening, "2").await;
        first.stop().await;
        commit(&outbox, &[message("orders", "a", 1)]).await;
        to.until_count(2).await;
        second.stop().await;
        let tags: Vec<_> = to.written().iter().map(|w| w.tag).collect();
        assert_eq!(tags, [1, 2]);
    })
    .await;
}

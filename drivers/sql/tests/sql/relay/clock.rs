//! A database whose clock is not that of this machine.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use streams_core::{ErrorKind, Message};
use streams_sql::{Cleanup, Outbox};

use super::{Destination, commit, relay, run, until_empty, until_found};
use crate::support::{self, Test, message};

/// The database's clock goes a day fast, or slow: it finds a function of the name of its own first.
async fn skewed(test: &Test<Postgres>, by: &str) -> Outbox<Postgres> {
    for sql in [
        "CREATE SCHEMA skewed",
        &format!(
            "CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE \
             AS $$ SELECT pg_catalog.clock_timestamp() + interval '{by}' $$"
        ),
    ] {
        test.execute(sql).await;
    }
    let options: PgConnectOptions = test.url.parse().unwrap();
    let options = options.options([("search_path", "public,skewed,pg_catalog")]);
    let pool = PgPoolOptions::new().max_connections(12);
    let outbox = Outbox::builder(pool.connect_with(options).await.unwrap());
    let outbox = outbox.build().unwrap();
    outbox.migrate().await.unwrap();
    outbox
}

async fn works_in_spite_of_it(test: Test<Postgres>, by: &str) {
    let (outbox, to) = (skewed(&test, by).await, Destination::new());
    let lease = Duration::from_secs(2);
    let first = run(relay(&outbox, &to.tagged(1)).lease(lease));
    let day = Duration::from_secs(24 * 3600);
    let now = std::time::SystemTime::now();
    for (number, time) in [now - 2 * day, now + 2 * day, now].into_iter().enumerate() {
        let message = Message::builder("orders").key("a").time(time);
        let message = message.data(number.to_string()).build().unwrap();
        commit(&outbox, &[message]).await;
    }
    to.until_count(3).await;

    // Its lease has not run out, and does not while it lives.
    let other = relay(&outbox, &to).build().unwrap();
    let error = other.run_once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let held = "SELECT count(*) FROM streams_relay WHERE \
                expires - EXTRACT(EPOCH FROM skewed.clock_timestamp()) * 1000 BETWEEN 1 AND 2000";
    assert_eq!(test.rows(held).await, [["1"]]);

    // After a crash it runs out, and another takes over.
    first.crash().await;
    commit(&outbox, &[message("orders", "a", 3)]).await;
    let keep = Cleanup::Keep(Duration::from_secs(3600));
    let second = run(relay(&outbox, &to.tagged(2)).lease(lease).cleanup(keep));
    to.until(|written| written.iter().any(|w| w.tag == 2 && w.data == "3"))
        .await;
    until_empty(&outbox).await;
    second.stop().await;
    assert_eq!(to.first_arrivals().0["orders/a"], ["0", "1", "2", "3"]);

    // What was forwarded just now is as old as it is.
    let new = "SELECT count(*) FROM streams_egress WHERE status = 1";
    assert_ne!(test.rows(new).await, [["0"]]);
    let keep = Cleanup::Keep(Duration::from_millis(1));
    let third = run(relay(&outbox, &to).cleanup(keep));
    until_found(&test, new, "0").await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_a_day_ahead() {
    support::run::<Postgres, _>(|test| works_in_spite_of_it(test, "1 day")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_a_day_behind() {
    support::run::<Postgres, _>(|test| works_in_spite_of_it(test, "-1 day")).await;
}

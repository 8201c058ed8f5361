//! A destination that fails, wholly or in part.

use std::sync::atomic::Ordering;

use streams_core::{Backoff, ErrorKind};
use tokio::time::Duration;

use super::{Destination, commit, relay, run, until_empty, until_found};
use crate::outbox::outbox;
use crate::support::{Test, TestDatabase, message};

on_each_database! {
    while_the_destination_is_down_rows_wait,
    run_once_says_that_the_destination_is_down,
    a_row_that_always_fails_is_set_aside,
    a_stream_that_fails_for_a_while_keeps_its_order,
    many_rows_of_a_failing_stream_do_not_hold_back_others,
    rows_behind_failing_ones_are_bounded,
    a_closed_writer_ends_the_relay,
    another_relay_starts_with_what_was_deferred,
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

async fn while_the_destination_is_down_rows_wait<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    to.fail(|_| Some(ErrorKind::Unavailable));
    let running = run(relay(&outbox, &to).rows(5).attempts(2));
    for number in 0..60 {
        commit(&outbox, &[message("orders", "a", number)]).await;
    }
    to.until_refused(50).await;
    let touched = "SELECT count(*) FROM streams_egress WHERE write_retries > 0 OR status <> 0";
    assert_eq!(test.rows(touched).await, [["0"]]);
    to.heal();
    until_empty(&outbox).await;
    let report = running.stop().await;
    assert_eq!(to.data(), numbers(60));
    assert_eq!(
        (report.messages, report.rows, report.set_aside),
        (60, 60, 0)
    );
    assert!(report.failures >= 50);
    // No more than a window is ever held.
    assert_eq!(to.largest.load(Ordering::Relaxed), 5);
}

async fn run_once_says_that_the_destination_is_down<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    commit(&outbox, &[message("orders", "a", 0)]).await;
    to.fail(|_| Some(ErrorKind::Unavailable));
    let relay = relay(&outbox, &to).build().unwrap();
    let error = relay.run_once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    to.heal();
    // The lease was released.
    assert_eq!(relay.run_once().await.unwrap().rows, 1);
    assert_eq!(relay.run_once().await.unwrap(), Default::default());
}

async fn a_row_that_always_fails_is_set_aside<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let poison = message("orders", "a", 666);
    let id = poison.id().clone();
    to.fail(move |message| (*message.id() == id).then_some(ErrorKind::Other));
    let mixed = [message("orders", "b", 0), poison, message("orders", "b", 1)];
    commit(&outbox, &mixed).await;
    let running = run(relay(&outbox, &to).attempts(3));
    to.until_count(2).await;
    for number in 0..10 {
        commit(&outbox, &[message("orders", "a", number)]).await;
        commit(&outbox, &[message("orders", "b", number + 2)]).await;
    }
    // Others go on, and so does its own key once it was set aside.
    to.until_count(22).await;
    until_empty(&outbox).await;
    let (lanes, again) = to.first_arrivals();
    assert_eq!(lanes["orders/a"], numbers(10));
    assert_eq!(lanes["orders/b"], numbers(12));
    assert_eq!(again, 0, "what was written of the row is not written again");

    let aside = outbox.set_aside(10).await.unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!((aside[0].messages, aside[0].attempts), (1, 3));
    let error = aside[0].error.as_deref().unwrap();
    assert!(error.contains("as the test wants"), "{error}");

    // An operator has it tried again.
    to.heal();
    assert!(outbox.retry(&aside[0].batch_id).await.unwrap());
    to.until(|written| written.last().unwrap().data == "666")
        .await;
    until_empty(&outbox).await;
    let report = running.stop().await;
    assert_eq!((report.set_aside, report.failures), (1, 3));
    assert_eq!((report.messages, report.rows), (23, 21));
    assert_eq!(test.count("streams_egress").await, 0);
}

async fn a_stream_that_fails_for_a_while_keeps_its_order<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    to.fail(|message| (message.stream().as_str() == "bad").then_some(ErrorKind::Unavailable));
    let running = run(relay(&outbox, &to).attempts(10_000).rows(7));
    for number in 0..40 {
        for key in ["a", "b"] {
            let both = [message("bad", key, number), message("good", key, number)];
            commit(&outbox, &both).await;
        }
    }
    // The first of each key is tried again and again.
    to.until_refused(10).await;
    to.heal();
    to.until_count(160).await;
    until_empty(&outbox).await;
    running.stop().await;
    let (lanes, again) = to.first_arrivals();
    for lane in ["bad/a", "bad/b", "good/a", "good/b"] {
        assert_eq!(lanes[lane], numbers(40), "{lane}");
    }
    assert_eq!(again, 0);
}

/// A window full of rows that fail looks like a destination that is down.
async fn many_rows_of_a_failing_stream_do_not_hold_back_others<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    to.fail(|message| (message.stream().as_str() == "bad").then_some(ErrorKind::Unavailable));
    for number in 0..40 {
        let key = number.to_string();
        commit(&outbox, &[message("bad", &key, number)]).await;
    }
    for number in 0..5 {
        commit(&outbox, &[message("good", "a", number)]).await;
    }
    let running = run(relay(&outbox, &to).rows(5).attempts(10_000));
    to.until_count(5).await;
    assert_eq!(to.data(), numbers(5));
    to.heal();
    until_empty(&outbox).await;
    assert_eq!(running.stop().await.rows, 45);
}

async fn rows_behind_failing_ones_are_bounded<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    to.fail(|message| (message.stream().as_str() == "bad").then_some(ErrorKind::Unavailable));
    for number in 0..50 {
        let both = [message("bad", "a", number), message("good", "a", number)];
        commit(&outbox, &both).await;
    }
    let running = run(relay(&outbox, &to).rows(4).deferred(6).attempts(10_000));
    to.until_refused(20).await;
    let deferred = test
        .rows("SELECT count(*) FROM streams_egress WHERE status = 3")
        .await;
    let deferred: usize = deferred[0][0].parse().unwrap();
    // What was in the window then, and what had been read ahead, comes on top.
    assert!((3..6 + 2 * 4).contains(&deferred), "{deferred}");
    to.heal();
    until_empty(&outbox).await;
    running.stop().await;
    let (lanes, again) = to.first_arrivals();
    assert_eq!(
        (&lanes["bad/a"], &lanes["good/a"]),
        (&numbers(50), &numbers(50))
    );
    assert_eq!(again, 0);
}

async fn a_closed_writer_ends_the_relay<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    to.fail(|_| Some(ErrorKind::Closed));
    commit(&outbox, &[message("orders", "a", 0)]).await;
    let relay = relay(&outbox, &to).build().unwrap();
    let error = relay.run(std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let untouched = "SELECT count(*) FROM streams_egress WHERE write_retries = 0 AND status = 0";
    assert_eq!(test.rows(untouched).await, [["1"]]);
}

async fn another_relay_starts_with_what_was_deferred<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    to.fail(|message| (message.stream().as_str() == "bad").then_some(ErrorKind::Unavailable));
    for number in 0..3 {
        commit(
            &outbox,
            &[message("bad", "a", number), message("good", "a", number)],
        )
        .await;
    }
    let never = Backoff::constant(Duration::from_secs(3600));
    let first = run(relay(&outbox, &to).row_backoff(never));
    to.until_count(1).await;
    until_found(
        &test,
        "SELECT count(*) FROM streams_egress WHERE status = 3",
        "3",
    )
    .await;
    let due = "SELECT count(*) FROM streams_egress WHERE due IS NOT NULL AND write_retries = 1 \
               AND last_write_error LIKE 'Unavailable: %'";
    assert_eq!(test.rows(due).await, [["1"]]);
    first.stop().await;
    to.heal();
    let second = run(relay(&outbox, &to));
    until_empty(&outbox).await;
    second.stop().await;
    let (lanes, again) = to.first_arrivals();
    assert_eq!(
        (&lanes["bad/a"], &lanes["good/a"]),
        (&numbers(3), &numbers(3))
    );
    assert_eq!(again, 0);
}

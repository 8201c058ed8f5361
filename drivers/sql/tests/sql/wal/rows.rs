//! Rows that are not simply forwarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::Postgres;
use streams_core::{Error, ErrorKind, Message};
use streams_sql::Cleanup;

use super::{Destination, PATIENCE, Running, Wal, run};
use crate::support::{TestDatabase as _, go, message};

fn bad(message: &Message) -> Option<Error> {
    let bad = message.key().is_some_and(|key| key.as_str() == Some("bad"));
    bad.then(|| Error::new(ErrorKind::TooLarge, "as asked"))
}

/// Whether the server has been told that all is done with.
async fn confirmed(wal: &Wal) {
    let written = wal.ask("SELECT pg_current_wal_lsn()::text").await;
    let confirmed = format!(
        "SELECT (confirmed_flush_lsn >= '{written}')::text FROM pg_replication_slots \
         WHERE slot_name = '{}'",
        wal.slot
    );
    wal.until(&confirmed, "true").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_fail_hold_back_neither_others_nor_the_log() {
    run(async |wal| {
        let destination = Destination::new();
        destination.refuse(bad);
        let relay = wal.builder(&destination).attempts(1_000_000);
        let relay = Running::new(relay.build().unwrap());
        wal.until_active().await;
        wal.publish("bad", 0).await;
        wal.publish("good", 1).await;
        wal.publish("bad", 2).await;
        wal.publish("good", 3).await;
        destination.wait(2).await;
        let waiting = "SELECT count(*) FROM streams_egress WHERE status = 3";
        wal.until(waiting, "2").await;
        confirmed(&wal).await;
        assert_eq!(destination.numbers(), [1, 3]);

        // They go out from the table, in their order.
        destination.take_all();
        destination.wait(4).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.numbers(), [1, 3, 0, 2]);
    })
    .await;
}

/// The next relay finds in the table what the log does not tell any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_rows_outlive_the_relay() {
    run(async |wal| {
        let destination = Destination::new();
        destination.refuse(bad);
        let relay = wal.start(&destination);
        wal.until_active().await;
        wal.publish("bad", 0).await;
        wal.publish("bad", 1).await;
        wal.until("SELECT count(*) FROM streams_egress WHERE status = 3", "2")
            .await;
        confirmed(&wal).await;
        relay.crash().await;
        wal.publish("bad", 2).await;
        destination.take_all();
        let relay = wal.start(&destination);
        destination.wait(3).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.numbers(), [0, 1, 2]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_never_succeed_are_set_aside_and_can_be_tried_again() {
    run(async |wal| {
        let destination = Destination::new();
        destination.refuse(bad);
        let relay = wal.builder(&destination).attempts(3).build().unwrap();
        let relay = Running::new(relay);
        wal.until_active().await;
        wal.publish("bad", 0).await;
        let aside = "SELECT count(*) FROM streams_egress WHERE status = 2";
        wal.until(aside, "1").await;
        confirmed(&wal).await;
        let found = wal.outbox.set_aside(10).await.unwrap();
        assert_eq!((found.len(), found[0].attempts), (1, 3));
        assert!(found[0].error.as_ref().unwrap().contains("as asked"));

        destination.take_all();
        assert!(wal.outbox.retry(&found[0].batch_id).await.unwrap());
        destination.wait(1).await;
        wal.until_empty().await;
        let report = relay.stop().await;
        assert_eq!(
            (report.messages, report.set_aside, report.failures),
            (1, 1, 3)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_read_are_set_aside() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        let garbage = Postgres::literal(b"\xff\xff\xff");
        wal.test
            .execute(&format!(
                "INSERT INTO streams_egress (batch_id, message_count, raw_data) \
                 VALUES ('garbage', 1, {garbage}), ('empty', 0, '')"
            ))
            .await;
        wal.publish("k", 1).await;
        destination.wait(1).await;
        wal.until("SELECT count(*) FROM streams_egress WHERE status = 2", "2")
            .await;
        wal.until("SELECT count(*) FROM streams_egress", "2").await;
        confirmed(&wal).await;
        relay.stop().await;
    })
    .await;
}

async fn until_refused(refused: &AtomicUsize, count: usize) {
    let waiting = async {
        while refused.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

/// A row that fails alone cannot be told from a destination that is down, until there are others.
async fn one_that_fails_alone(wal: &Wal, from_table: bool) {
    let destination = Destination::new();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    destination.refuse(move |message| {
        bad(message)?;
        count.fetch_add(1, Ordering::SeqCst);
        Some(Error::new(ErrorKind::Unavailable, "as asked"))
    });
    let mut expected = Vec::new();
    let relay = if from_table {
        wal.publish("bad", 0).await;
        wal.start(&destination)
    } else {
        let relay = wal.start(&destination);
        wal.publish("good", 2).await;
        destination.wait(1).await;
        wal.until_empty().await;
        expected.push(2);
        wal.publish("bad", 0).await;
        relay
    };
    until_refused(&refused, 3).await;
    wal.publish("good", 1).await;
    expected.push(1);
    destination.wait(expected.len()).await;
    wal.until("SELECT count(*) FROM streams_egress WHERE status = 3", "1")
        .await;
    destination.take_all();
    wal.until_empty().await;
    relay.stop().await;
    expected.push(0);
    assert_eq!(destination.numbers(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_later_tells_whose_fault_it_is() {
    run(async |wal| one_that_fails_alone(&wal, false).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_later_tells_whose_fault_it_is_from_before_the_slot() {
    run(async |wal| one_that_fails_alone(&wal, true).await).await;
}

fn of_bad_stream(message: &Message) -> Option<Error> {
    let bad = message.stream().as_str() == "bad";
    bad.then(|| Error::new(ErrorKind::Unavailable, "as asked"))
}

/// More of them than are written together look like a destination that is down.
async fn many_of_a_stream_that_fails(wal: &Wal, from_table: bool) {
    let destination = Destination::new();
    destination.refuse(of_bad_stream);
    let builder = || wal.builder(&destination).attempts(1_000_000).rows(5);
    if !from_table {
        // The slot is there before.
        wal.start_and_wait(&destination).await.stop().await;
    }
    let keys = 8;
    for number in 0..40 {
        let key = format!("bad {}", number % keys);
        wal.publish_all(&[message("bad", &key, number)]).await;
    }
    for number in 40..45 {
        wal.publish("good", number).await;
    }
    let relay = Running::new(builder().build().unwrap());
    destination.wait(5).await;
    // What is committed later is not held back either.
    wal.publish("good", 45).await;
    destination.wait(6).await;
    assert_eq!(destination.numbers(), (40..46).collect::<Vec<_>>());

    destination.take_all();
    wal.until_empty().await;
    let report = relay.stop().await;
    assert_eq!((report.rows, report.set_aside), (46, 0));
    let numbers = destination.numbers();
    for key in 0..keys {
        let of_key = numbers.iter().copied();
        let of_key: Vec<_> = of_key.filter(|n| *n < 40 && n % keys == key).collect();
        assert_eq!(of_key, (key..40).step_by(keys).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_fails_does_not_hold_back_others() {
    run(async |wal| many_of_a_stream_that_fails(&wal, false).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_fails_from_before_the_slot_does_not_hold_back_others() {
    run(async |wal| many_of_a_stream_that_fails(&wal, true).await).await;
}

/// The backlog drains when it is back, in order; never more than a window is written together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_down_counts_no_attempts() {
    run(async |wal| {
        // Half of it from the table, half from the log.
        for number in 0..250 {
            wal.publish("k", number).await;
        }
        let destination = Destination::new();
        let refused = Arc::new(AtomicUsize::new(0));
        let count = refused.clone();
        destination.refuse(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Some(Error::new(ErrorKind::Unavailable, "down"))
        });
        let relay = wal.builder(&destination).attempts(1).rows(50);
        let relay = Running::new(relay.build().unwrap());
        wal.until_active().await;
        for number in 250..500 {
            wal.publish("k", number).await;
        }
        until_refused(&refused, 500).await;
        let touched = "SELECT count(*) FROM streams_egress WHERE write_retries > 0 OR status <> 0";
        assert_eq!(wal.ask(touched).await, "0");
        destination.take_all();
        destination.wait(500).await;
        wal.until_empty().await;
        let report = relay.stop().await;
        assert_eq!((report.rows, report.set_aside), (500, 0));
        assert_eq!(destination.numbers(), (0..500).collect::<Vec<_>>());
        assert!(*destination.largest.lock().unwrap() <= 50);
    })
    .await;
}

/// As an early version made the table, with nothing in the columns that it does not name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_the_go_library_go_out() {
    run(async |wal| {
        wal.test.execute("DROP TABLE streams_egress").await;
        wal.test.execute("DELETE FROM streams_schema").await;
        wal.test.execute(&go::table::<Postgres>()).await;
        wal.test.execute(&go::insert::<Postgres>(1)).await;
        wal.outbox.migrate().await.unwrap();
        let destination = Destination::new();
        let relay = wal.start(&destination);
        destination.wait(1).await;
        wal.until_empty().await;
        for id in 2..4 {
            wal.test.execute(&go::insert::<Postgres>(id)).await;
        }
        destination.wait(3).await;
        wal.until_empty().await;
        assert_eq!(relay.stop().await.rows, 3);
    })
    .await;
}

/// More than the relay keeps in mind: it reads on once some are out of the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_that_fail_are_bounded() {
    run(async |wal| {
        let destination = Destination::new();
        destination.refuse(bad);
        let relay = wal.builder(&destination).attempts(2).deferred(5).rows(4);
        let relay = Running::new(relay.build().unwrap());
        wal.until_active().await;
        for number in 0..30 {
            wal.publish("bad", number).await;
        }
        wal.publish("good", 30).await;
        destination.wait(1).await;
        wal.until("SELECT count(*) FROM streams_egress WHERE status = 2", "30")
            .await;
        relay.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_can_be_kept() {
    run(async |wal| {
        wal.publish("k", 0).await;
        let destination = Destination::new();
        let kept = Cleanup::Keep(Duration::from_secs(3600));
        let builder = || wal.builder(&destination).cleanup(kept).build().unwrap();
        let relay = Running::new(builder());
        destination.wait(1).await;
        wal.publish("k", 1).await;
        destination.wait(2).await;
        let sql = "SELECT count(*) FROM streams_egress WHERE status = 1 AND forwarded > 0";
        wal.until(sql, "2").await;
        relay.stop().await;

        let relay = Running::new(builder());
        wal.publish("k", 2).await;
        destination.wait(3).await;
        wal.until(sql, "3").await;
        relay.stop().await;
        assert_eq!(destination.numbers(), [0, 1, 2]);

        // They go when their time has come.
        let short = wal.builder(&destination);
        let short = short.cleanup(Cleanup::Keep(Duration::from_millis(1)));
        let relay = Running::new(short.build().unwrap());
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.numbers(), [0, 1, 2]);
    })
    .await;
}

//! Crashes of the relay, and losses of the slot.

use sqlx::Postgres;
use streams_core::ErrorKind;

use super::{Destination, Running, run};
use crate::support::{TestDatabase as _, message};

/// Between the write and its confirmation: duplicates, no loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_confirmation_loses_nothing() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        let mut number = 0;
        let mut relay = Some(relay);
        for round in 1..=5 {
            destination.hangs.send_replace(true);
            for _ in 0..20 {
                wal.publish("k", number).await;
                number += 1;
            }
            // Some are written, none of those is confirmed.
            let seen = destination.numbers().len();
            destination.wait(seen + 1).await;
            relay.take().unwrap().crash().await;
            destination.hangs.send_replace(false);
            relay = Some(wal.start(&destination));
            wal.until_empty().await;
            assert_eq!(destination.distinct().len(), round * 20);
        }
        relay.unwrap().stop().await;
        assert_eq!(destination.distinct(), (0..number).collect::<Vec<_>>());
        assert!(destination.numbers().len() > number, "nothing came twice");
    })
    .await;
}

/// What was there before the slot does not come from it: it goes first all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_all_from_before_the_slot_is_out_keeps_the_order() {
    run(async |wal| {
        for number in 0..30 {
            wal.publish("k", number).await;
        }
        let destination = Destination::new();
        let relay = || Running::new(wal.builder(&destination).rows(5).build().unwrap());
        destination.hangs.send_replace(true);
        let crashed = relay();
        destination.wait(5).await;
        crashed.crash().await;
        destination.hangs.send_replace(false);
        for number in 30..40 {
            wal.publish("k", number).await;
        }
        let relay = relay();
        wal.until_empty().await;
        relay.stop().await;
        let mut numbers = destination.numbers();
        assert_eq!(numbers.len(), 45, "the first five came twice");
        assert_eq!(numbers.split_off(5), (0..40).collect::<Vec<_>>());
    })
    .await;
}

/// What was settled is not written again, though the server was not told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_settled_does_not_come_again() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        relay.stop().await;
        // As if a relay had forwarded them and crashed then.
        for number in 0..100 {
            wal.publish("k", number).await;
        }
        wal.test.execute("DELETE FROM streams_egress").await;
        wal.publish("k", 100).await;
        let relay = wal.start(&destination);
        destination.wait(1).await;
        wal.publish("k", 101).await;
        destination.wait(2).await;
        relay.stop().await;
        assert_eq!(destination.numbers(), [100, 101]);
    })
    .await;
}

/// A relay that stops has told the server all it has done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_confirms_what_was_written() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start_and_wait(&destination).await;
        let tx = wal.outbox.begin().await.unwrap();
        tx.writer().write(&[message("s", "k", 0)]).await.unwrap();
        // Between the row and its commit: positions within a transaction are not confirmed.
        let row = "SELECT pg_current_wal_insert_lsn()::text";
        let row = Postgres::rows_on(&mut *tx.connection().await.unwrap(), row).await;
        let row = row.unwrap().concat().concat();
        tx.commit().await.unwrap();
        // When the next one has come, the commit before it has.
        wal.publish("k", 1).await;
        destination.wait(2).await;
        relay.stop().await;
        // The server's process takes note, and ends, a moment later.
        let told = format!(
            "SELECT (confirmed_flush_lsn > '{row}' AND active_pid IS NULL)::text \
             FROM pg_replication_slots WHERE slot_name = '{}'",
            wal.slot
        );
        wal.until(&told, "true").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_relay_works_and_another_takes_over() {
    run(async |wal| {
        let (first, second) = (Destination::new(), Destination::new());
        let active = wal.start(&first);
        wal.publish("k", 0).await;
        first.wait(1).await;
        let other = wal.start(&second);
        for number in 1..50 {
            wal.publish("k", number).await;
        }
        first.wait(50).await;
        assert!(second.numbers().is_empty());
        active.crash().await;
        for number in 50..60 {
            wal.publish("k", number).await;
        }
        // Of what the first has written some may come again.
        while !second.numbers().contains(&59) {
            second.wait(second.numbers().len() + 1).await;
        }
        wal.until_empty().await;
        other.stop().await;
        let mut all = first.distinct();
        all.extend(second.distinct());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, (0..60).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_dropped_is_made_anew() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        for number in 0..300 {
            wal.publish("k", number).await;
            if number % 100 == 50 {
                wal.drop_slot().await;
            }
        }
        destination.wait(300).await;
        wal.until_empty().await;
        assert_eq!(destination.distinct(), (0..300).collect::<Vec<_>>());
        relay.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_dropped_is_an_error_if_it_is_not_managed() {
    run(async |wal| {
        let destination = Destination::new();
        let builder = || wal.builder(&destination).manage(false).build().unwrap();
        let error = Running::new(builder()).error().await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("CREATE PUBLICATION"), "{error}");
        wal.test
            .execute(
                "CREATE PUBLICATION streams_egress_proxy FOR TABLE streams_egress \
                 WITH (publish = 'insert, update')",
            )
            .await;
        let error = Running::new(builder()).error().await;
        let create = "SELECT pg_create_logical_replication_slot(";
        assert!(error.to_string().contains(create), "{error}");
        let create = format!("{create}'{}', 'pgoutput')::text", wal.slot);
        wal.ask(&create).await;

        let relay = Running::new(builder());
        wal.publish("k", 0).await;
        destination.wait(1).await;
        wal.until_empty().await;
        wal.drop_slot().await;
        let error = relay.error().await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.to_string().contains("the slot does not exist"),
            "{error}"
        );

        // What is committed meanwhile is not in the log of the next slot.
        for number in 1..20 {
            wal.publish("k", number).await;
        }
        wal.ask(&create).await;
        wal.publish("other", 20).await;
        let relay = Running::new(builder());
        destination.wait(21).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.distinct(), (0..21).collect::<Vec<_>>());
    })
    .await;
}

/// The slot is older than the publication then, and cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_dropped_is_made_anew() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        wal.publish("k", 0).await;
        destination.wait(1).await;
        wal.test
            .execute("DROP PUBLICATION streams_egress_proxy")
            .await;
        for number in 1..10 {
            wal.publish("k", number).await;
        }
        destination.wait(10).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.distinct(), (0..10).collect::<Vec<_>>());
    })
    .await;
}

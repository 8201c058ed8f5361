//! What arrives, and in which order.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use streams_chanbuf::Chanbuf;
use streams_core::{Bus, Context, Driver as _, Event, Message};
use streams_sql::WalRelay;
use tokio::sync::mpsc;

use super::{Destination, PATIENCE, Running, run};
use crate::support::message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_written_and_removed() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        let tx = wal.outbox.begin().await.unwrap();
        let messages: Vec<_> = (0..3).map(|n| message("s", "k", n)).collect();
        tx.writer().write(&messages).await.unwrap();
        tx.commit().await.unwrap();
        destination.wait(3).await;
        assert_eq!(*destination.written.lock().unwrap(), messages);
        wal.until_empty().await;
        let report = relay.stop().await;
        assert_eq!((report.messages, report.rows, report.failures), (3, 1, 0));
    })
    .await;
}

/// A transaction that wrote first and is committed last comes last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_is_that_of_the_commits() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start_and_wait(&destination).await;
        let mut expected = Vec::new();
        let mut open = Vec::new();
        for number in 0..400 {
            let tx = wal.outbox.begin().await.unwrap();
            let messages = [message("s", "k", number), message("s", "k", number + 1000)];
            for message in messages {
                tx.writer().write(&[message]).await.unwrap();
            }
            open.push((number, tx));
            while open.len() > fastrand::usize(0..6) {
                let (number, tx) = open.swap_remove(fastrand::usize(0..open.len()));
                if fastrand::u8(0..4) == 0 {
                    tx.rollback().await.unwrap();
                } else {
                    tx.commit().await.unwrap();
                    expected.extend([number, number + 1000]);
                }
            }
        }
        for (number, tx) in open {
            tx.commit().await.unwrap();
            expected.extend([number, number + 1000]);
        }
        destination.wait(expected.len()).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.numbers(), expected);
    })
    .await;
}

/// Also of what was committed while no relay ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_comes_in_the_order_of_the_commits() {
    run(async |wal| {
        let destination = Destination::new();
        wal.start_and_wait(&destination).await.stop().await;
        let first = wal.outbox.begin().await.unwrap();
        first.writer().write(&[message("s", "k", 2)]).await.unwrap();
        wal.publish("k", 1).await;
        first.commit().await.unwrap();

        let relay = wal.start(&destination);
        destination.wait(2).await;
        relay.stop().await;
        assert_eq!(destination.numbers(), [1, 2]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rolled_back_never_arrives() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        let tx = wal.outbox.begin().await.unwrap();
        tx.writer().write(&[message("s", "k", 1)]).await.unwrap();
        tx.rollback().await.unwrap();

        let mut tx = wal.test.pool.begin().await.unwrap();
        wal.outbox
            .write_in(&mut tx, &[message("s", "k", 2)])
            .await
            .unwrap();
        sqlx::query("SAVEPOINT a").execute(&mut *tx).await.unwrap();
        wal.outbox
            .write_in(&mut tx, &[message("s", "k", 3)])
            .await
            .unwrap();
        sqlx::query("ROLLBACK TO a")
            .execute(&mut *tx)
            .await
            .unwrap();
        wal.outbox
            .write_in(&mut tx, &[message("s", "k", 4)])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        destination.wait(2).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.numbers(), [2, 4]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_from_before_the_slot_come_first() {
    run(async |wal| {
        for number in 0..700 {
            wal.publish("k", number).await;
        }
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        for number in 700..720 {
            wal.publish("k", number).await;
        }
        destination.wait(720).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.numbers(), (0..720).collect::<Vec<_>>());
    })
    .await;
}

/// In parts, because memory is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_comes_in_parts() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.builder(&destination).rows(100).build().unwrap();
        let relay = Running::new(relay);
        wal.until_active().await;
        let mut tx = wal.test.pool.begin().await.unwrap();
        for number in 0..3000 {
            let messages = [message("s", "k", number)];
            wal.outbox.write_in(&mut tx, &messages).await.unwrap();
        }
        tx.commit().await.unwrap();
        destination.wait(3000).await;
        wal.until_empty().await;
        relay.stop().await;
        assert_eq!(destination.numbers(), (0..3000).collect::<Vec<_>>());
        assert!(*destination.largest.lock().unwrap() <= 100);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rows_arrive() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        let outbox = streams_sql::Outbox::builder(wal.test.pool.clone());
        let outbox = outbox.largest_row(32 << 20).build().unwrap();
        // Data that does not get smaller.
        let data: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(10 << 20)
            .collect();
        let large = Message::builder("s").key("k").data(data).build().unwrap();
        let mut connection = wal.test.pool.acquire().await.unwrap();
        for _ in 0..3 {
            outbox
                .write_in(&mut connection, std::slice::from_ref(&large))
                .await
                .unwrap();
        }
        destination.wait(3).await;
        wal.until_empty().await;
        relay.stop().await;
        for message in &*destination.written.lock().unwrap() {
            assert!(message.data() == large.data());
        }
    })
    .await;
}

/// From before the commit until the destination has the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_takes_milliseconds() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.publish("k", 0).await;
        destination.wait(1).await;
        let mut times = Vec::new();
        for number in 1..=1000 {
            let tx = wal.outbox.begin().await.unwrap();
            tx.writer()
                .write(&[message("s", "k", number)])
                .await
                .unwrap();
            let from = Instant::now();
            tx.commit().await.unwrap();
            destination.wait(number + 1).await;
            times.push(from.elapsed());
        }
        relay.stop().await;
        times.sort_unstable();
        println!(
            "commit to written: p50 {:?}, p99 {:?}",
            times[500], times[990]
        );
        assert!(times[500].as_millis() < 100, "{:?}", times[500]);
    })
    .await;
}

/// Another table is written to, this one is not: the server need not keep the log of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_other_tables_is_not_kept() {
    run(async |wal| {
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        wal.test.execute("CREATE TABLE other (id INTEGER)").await;
        wal.test
            .execute("INSERT INTO other SELECT generate_series(1, 1000)")
            .await;
        let written = wal.ask("SELECT pg_current_wal_lsn()::text").await;
        let confirmed = format!(
            "SELECT (confirmed_flush_lsn >= '{written}')::text FROM pg_replication_slots \
             WHERE slot_name = '{}'",
            wal.slot
        );
        wal.until(&confirmed, "true").await;
        relay.stop().await;
    })
    .await;
}

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "payment.made")]
struct PaymentMade {
    id: usize,
}

/// From a publisher in a transaction to the handlers of a bus.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_handled() {
    run(async |wal| {
        let driver = Chanbuf::new();
        let bus = Bus::builder(driver.clone()).event::<PaymentMade>().build();
        let bus = bus.unwrap();
        let (handled, mut arrived) = mpsc::unbounded_channel();
        bus.subscribe_event(move |event: PaymentMade, _: Context| {
            let handled = handled.clone();
            async move { handled.send(event.id).unwrap() }
        })
        .group("ledger")
        .register()
        .unwrap();
        bus.start().await.unwrap();
        let relay = WalRelay::builder(wal.outbox.clone(), driver.writer());
        let relay = Running::new(relay.slot(&wal.slot).build().unwrap());
        for id in 0..20 {
            let tx = wal.outbox.begin().await.unwrap();
            let publisher = bus.publisher().on(tx.writer());
            publisher.publish(&PaymentMade { id }).await.unwrap();
            tx.commit().await.unwrap();
        }
        // Without a key, handlers may run at the same time.
        let mut ids = Vec::new();
        for _ in 0..20 {
            let next = tokio::time::timeout(PATIENCE, arrived.recv()).await;
            ids.extend(next.unwrap());
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..20).collect::<Vec<_>>());
        relay.stop().await;
        bus.shutdown(PATIENCE).await;
    })
    .await;
}

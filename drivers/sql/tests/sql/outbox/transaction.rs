//! Publishing in a transaction.

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use streams_chanbuf::Chanbuf;
use streams_core::{Bus, Error, ErrorKind, Event, Message};
use streams_sql::{Outbox, OutboxTransaction};

use super::outbox;
use crate::support::{Test, TestDatabase, message};

on_each_database! {
    a_bus_publisher_works_unchanged,
    what_is_dropped_never_was,
    a_transaction_begun_elsewhere_is_joined,
    after_the_end_all_is_closed,
    a_swallowed_error_is_no_commit,
    the_writer_says_what_it_can,
}

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "payment.made", key = "id")]
struct PaymentMade {
    id: u32,
}

async fn pay<DB: TestDatabase>(tx: &OutboxTransaction<DB>, id: u32) {
    let sql = format!("INSERT INTO payments VALUES ({id})");
    let mut connection = tx.connection().await.unwrap();
    DB::run_on(&mut connection, &sql).await.unwrap();
}

async fn payments<DB: TestDatabase>(test: &Test<DB>) -> Outbox<DB> {
    test.execute("CREATE TABLE payments (id INTEGER)").await;
    outbox(test).await
}

async fn a_bus_publisher_works_unchanged<DB: TestDatabase>(test: Test<DB>) {
    let outbox = payments(&test).await;
    let bus = Bus::builder(Chanbuf::new()).build().unwrap();
    bus.registry().register::<PaymentMade>().unwrap();

    let tx = outbox.begin().await.unwrap();
    pay(&tx, 17).await;
    let publisher = bus.publisher().on(tx.writer());
    publisher.publish(&PaymentMade { id: 17 }).await.unwrap();
    let more = [PaymentMade { id: 18 }, PaymentMade { id: 19 }];
    publisher.publish_all_in_transaction(&more).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!(test.count("payments").await, 1);
    let counts = "SELECT message_count FROM streams_egress ORDER BY message_count";
    assert_eq!(test.rows(counts).await, [["1"], ["2"]]);
}

async fn what_is_dropped_never_was<DB: TestDatabase>(test: Test<DB>) {
    let outbox = payments(&test).await;
    let tx = outbox.begin().await.unwrap();
    pay(&tx, 17).await;
    let writer = tx.writer();
    writer.write(&[message("orders", "a", 1)]).await.unwrap();
    drop(tx);
    let tx = outbox.begin().await.unwrap();
    pay(&tx, 18).await;
    tx.rollback().await.unwrap();
    assert_eq!(test.count("payments").await, 0);
    assert_eq!(outbox.pending().await.unwrap(), 0);
}

async fn a_transaction_begun_elsewhere_is_joined<DB: TestDatabase>(test: Test<DB>) {
    let outbox = payments(&test).await;
    let mut begun = test.pool.begin().await.unwrap();
    DB::run_on(&mut begun, "INSERT INTO payments VALUES (1)")
        .await
        .unwrap();
    let tx = outbox.join(begun);
    let writer = tx.writer();
    writer.write(&[message("orders", "a", 1)]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(test.count("payments").await, 1);
    assert_eq!(outbox.pending().await.unwrap(), 1);
}

async fn after_the_end_all_is_closed<DB: TestDatabase>(test: Test<DB>) {
    let outbox = payments(&test).await;
    let batch = [message("orders", "a", 1), message("orders", "b", 2)];
    for end in ["commit", "rollback", "drop", "close"] {
        let tx = outbox.begin().await.unwrap();
        let writer = tx.writer();
        let mut kept = None;
        match end {
            "commit" => tx.commit().await.unwrap(),
            "rollback" => tx.rollback().await.unwrap(),
            "drop" => drop(tx),
            // The writer alone; the transaction goes on.
            _ => {
                writer.close().await.unwrap();
                writer.close().await.unwrap();
                kept = Some(tx);
            }
        }
        let error = writer.write(&batch).await.unwrap_err();
        assert_eq!(error.indices().collect::<Vec<_>>(), [0, 1], "{end}");
        for (_, error) in error.failures() {
            assert_eq!(error.kind(), ErrorKind::Closed, "{end}");
        }
        let error: Error = writer.write_in_transaction(&batch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{end}");
        writer.write(&[]).await.unwrap();
        if let Some(tx) = kept {
            pay(&tx, 1).await;
            tx.commit().await.unwrap();
        }
    }
    assert_eq!(outbox.pending().await.unwrap(), 0);
    assert_eq!(test.count("payments").await, 1);
}

/// PostgreSQL answers the commit of a failed transaction with a rollback, not with an error.
async fn a_swallowed_error_is_no_commit<DB: TestDatabase>(test: Test<DB>) {
    let outbox = payments(&test).await;
    let tx = outbox.begin().await.unwrap();
    pay(&tx, 17).await;
    let mut connection = tx.connection().await.unwrap();
    let failed = DB::run_on(&mut connection, "INSERT INTO nowhere VALUES (1)").await;
    failed.unwrap_err();
    drop(connection);
    let committed = tx.commit().await;
    let payments = test.count("payments").await;
    if DB::ABORTS {
        assert_eq!(committed.unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(payments, 0);
    } else {
        committed.unwrap();
        assert_eq!(payments, 1);
    }
}

async fn the_writer_says_what_it_can<DB: TestDatabase>(test: Test<DB>) {
    let outbox = outbox(&test).await;
    let tx = outbox.begin().await.unwrap();
    let writer = tx.writer();
    let capabilities = writer.capabilities();
    assert!(capabilities.transactions && capabilities.durable && capabilities.binary_headers);
    assert_eq!(capabilities.delay, None);
    let at = std::time::SystemTime::now();
    let error = writer.write_at(&[message("orders", "a", 1)], at).await;
    assert_eq!(
        error.unwrap_err().failures()[0].1.kind(),
        ErrorKind::Unsupported
    );
    writer.flush().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(outbox.pending().await.unwrap(), 0);
}

/// A part of a batch that was to be written as a whole must not be committed.
#[tokio::test]
async fn a_torn_batch_is_not_committed() {
    crate::support::run::<sqlx::Sqlite, _>(|test| async move {
        outbox(&test).await;
        // The second row of a batch is refused.
        test.execute(
            "CREATE TRIGGER no BEFORE INSERT ON streams_egress WHEN NEW.message_count = 1 \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        .await;
        let outbox = Outbox::builder(test.pool.clone()).largest_row(300);
        let outbox = outbox.build().unwrap();
        let message = || Message::builder("a").data(vec![b'x'; 80]).build().unwrap();
        let batch = [message(), message(), message()];

        // Without a transaction of its own: the failed are named, the others are there.
        let tx = outbox.begin().await.unwrap();
        let error = tx.writer().write(&batch).await.unwrap_err();
        assert_eq!(error.indices().collect::<Vec<_>>(), [2]);
        tx.commit().await.unwrap();
        assert_eq!(outbox.pending().await.unwrap(), 1);

        let tx = outbox.begin().await.unwrap();
        tx.writer().write_in_transaction(&batch).await.unwrap_err();
        let error = tx.commit().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(outbox.pending().await.unwrap(), 1);
    })
    .await;
}

/// To publish while one holds the connection oneself would wait for ever.
#[tokio::test]
async fn a_held_connection_is_said() {
    crate::support::run::<sqlx::Sqlite, _>(|test| async move {
        let outbox = outbox(&test).await;
        let tx = outbox.begin().await.unwrap();
        let connection = tx.connection().await.unwrap();
        tokio::time::pause();
        let error = tx
            .writer()
            .write(&[message("a", "k", 1)])
            .await
            .unwrap_err();
        let again = tx.connection().await.unwrap_err();
        tokio::time::resume();
        assert_eq!(error.failures()[0].1.kind(), ErrorKind::Timeout);
        assert_eq!(again.kind(), ErrorKind::Timeout);
        drop(connection);
        tx.writer().write(&[message("a", "k", 1)]).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(outbox.pending().await.unwrap(), 1);
    })
    .await;
}

/// Nobody knows how much is there of a batch whose writing was dropped.
#[tokio::test]
async fn a_dropped_batch_is_not_committed() {
    crate::support::run::<sqlx::Postgres, _>(|test| async move {
        let outbox = outbox(&test).await;
        let tx = outbox.begin().await.unwrap();
        let writer = tx.writer();
        let batch = [message("a", "k", 1)];
        let mut locked = test.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE streams_egress")
            .execute(&mut *locked)
            .await
            .unwrap();
        let written = writer.write_in_transaction(&batch).now_or_never();
        assert!(written.is_none(), "the server answers later");
        locked.rollback().await.unwrap();
        let error = tx.commit().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(outbox.pending().await.unwrap(), 0);
    })
    .await;
}

//! The outbox: what is committed is there once, what is not never was.

mod transaction;

use std::time::{Duration, SystemTime};

use streams_core::{ErrorKind, Message, MessageId};
use streams_sql::Outbox;

use crate::support::{Test, TestDatabase, message};

on_each_database! {
    what_is_committed_is_there_once,
    what_is_rolled_back_or_dropped_never_was,
    the_row_is_that_of_the_go_library,
    a_message_at_fault_is_named_and_nothing_is_written,
    ten_megabytes_are_written,
    after_a_failed_statement,
    what_was_set_aside_is_listed_and_tried_again,
    a_missing_table_is_said,
}

pub(crate) async fn outbox<DB: TestDatabase>(test: &Test<DB>) -> Outbox<DB> {
    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    outbox.migrate().await.unwrap();
    outbox
}

async fn what_is_committed_is_there_once<DB: TestDatabase>(test: Test<DB>) {
    let outbox = outbox(&test).await;
    let mut tx = test.pool.begin().await.unwrap();
    let messages = [message("orders", "a", 1), message("orders", "b", 2)];
    outbox.write_in(&mut tx, &messages).await.unwrap();
    outbox.write_in(&mut tx, &[]).await.unwrap();
    assert_eq!(outbox.pending().await.unwrap(), 0, "not before the commit");
    tx.commit().await.unwrap();

    let rows = test.rows("SELECT message_count, status FROM streams_egress");
    assert_eq!(rows.await, [["2", "0"]]);
    assert_eq!(outbox.pending().await.unwrap(), 1);
}

async fn what_is_rolled_back_or_dropped_never_was<DB: TestDatabase>(test: Test<DB>) {
    let outbox = outbox(&test).await;
    let mut tx = test.pool.begin().await.unwrap();
    outbox
        .write_in(&mut tx, &[message("orders", "a", 1)])
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    let mut tx = test.pool.begin().await.unwrap();
    outbox
        .write_in(&mut tx, &[message("orders", "a", 2)])
        .await
        .unwrap();
    drop(tx);
    assert_eq!(test.count("streams_egress").await, 0);
}

async fn the_row_is_that_of_the_go_library<DB: TestDatabase>(test: Test<DB>) {
    let outbox = outbox(&test).await;
    let message = Message::builder("orders")
        .id(MessageId::new("1").unwrap())
        .key("k")
        .header("h", "v")
        .content_type("text/plain")
        .data("x")
        .time(SystemTime::UNIX_EPOCH + Duration::new(1, 2))
        .build()
        .unwrap();
    let mut connection = test.pool.acquire().await.unwrap();
    let written = outbox.write_in(&mut connection, &[message]).await;
    written.unwrap();

    let raw = DB::hex("raw_data");
    let sql = format!("SELECT batch_id, message_count, {raw} FROM streams_egress");
    let rows = test.rows(&sql).await;
    let (id, count, raw) = (&rows[0][0], &rows[0][1], &rows[0][2]);
    assert_eq!(id.len(), 27, "{id} is no KSUID");
    assert_eq!(count, "1");
    // Field by field: see the unit tests of the format.
    let expected = "0a2b0a013112066f72646572731a016b22060a016812017\
                    62a0a746578742f706c61696e3201783a0408011002";
    assert_eq!(raw, expected);
}

async fn a_message_at_fault_is_named_and_nothing_is_written<DB: TestDatabase>(test: Test<DB>) {
    outbox(&test).await;
    let small = Outbox::builder(test.pool.clone()).largest_row(100);
    let small = small.build().unwrap();
    let empty = Message::builder("orders").build_received().unwrap();
    let large = Message::builder("orders").data(vec![b'x'; 101]);
    let batch = [
        message("orders", "a", 1),
        empty,
        message("orders", "a", 2),
        large.build().unwrap(),
    ];
    let mut connection = test.pool.acquire().await.unwrap();
    let error = small.write_in(&mut connection, &batch).await.unwrap_err();
    let kinds: Vec<_> = error
        .failures()
        .iter()
        .map(|(i, e)| (*i, e.kind()))
        .collect();
    assert_eq!(
        kinds,
        [(1, ErrorKind::EmptyMessage), (3, ErrorKind::TooLarge)]
    );
    assert!(!error.is_retryable());
    drop(connection);
    assert_eq!(test.count("streams_egress").await, 0);
}

async fn ten_megabytes_are_written<DB: TestDatabase>(test: Test<DB>) {
    let outbox = outbox(&test).await;
    let data = vec![b'x'; 1024 * 1024];
    let message = || {
        Message::builder("orders")
            .data(data.clone())
            .build()
            .unwrap()
    };
    let batch: Vec<_> = (0..10).map(|_| message()).collect();
    let mut tx = test.pool.begin().await.unwrap();
    outbox.write_in(&mut tx, &batch).await.unwrap();
    tx.commit().await.unwrap();
    let sizes = "SELECT message_count FROM streams_egress ORDER BY message_count";
    assert_eq!(
        test.rows(sizes).await,
        [["3"], ["7"]],
        "8 MiB a row at most"
    );

    // As one row, where that is allowed.
    let large = Outbox::builder(test.pool.clone()).largest_row(12 * 1024 * 1024);
    let large = large.build().unwrap();
    let one = Message::builder("orders").data(vec![b'x'; 10 * 1024 * 1024]);
    let mut tx = test.pool.begin().await.unwrap();
    large
        .write_in(&mut tx, &[one.build().unwrap()])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let longest = "SELECT max(length(raw_data)) FROM streams_egress";
    let longest: usize = test.rows(longest).await[0][0].parse().unwrap();
    assert!(longest > 10 * 1024 * 1024, "{longest}");
}

async fn after_a_failed_statement<DB: TestDatabase>(test: Test<DB>) {
    let outbox = outbox(&test).await;
    let mut tx = test.pool.begin().await.unwrap();
    DB::run_on(&mut tx, "INSERT INTO nowhere VALUES (1)")
        .await
        .unwrap_err();
    let batch = [message("orders", "a", 1), message("orders", "a", 2)];
    let written = outbox.write_in(&mut tx, &batch).await;
    if DB::ABORTS {
        // PostgreSQL takes nothing more in this transaction. Trying again takes another.
        let error = written.unwrap_err();
        assert_eq!(error.indices().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(error.failures()[0].1.kind(), ErrorKind::Conflict);
        assert!(error.is_retryable());
        tx.rollback().await.unwrap();
        assert_eq!(outbox.pending().await.unwrap(), 0);
    } else {
        written.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(outbox.pending().await.unwrap(), 1);
    }
}

async fn what_was_set_aside_is_listed_and_tried_again<DB: TestDatabase>(test: Test<DB>) {
    let outbox = outbox(&test).await;
    for number in 0..3 {
        let mut connection = test.pool.acquire().await.unwrap();
        outbox
            .write_in(&mut connection, &[message("orders", "a", number)])
            .await
            .unwrap();
    }
    assert_eq!(outbox.set_aside(10).await.unwrap(), []);
    let ids = test.rows("SELECT batch_id FROM streams_egress").await;
    let set_aside = format!(
        "UPDATE streams_egress SET status = 2, write_retries = 5, last_write_error = 'too large' \
         WHERE batch_id <> '{}'",
        ids[0][0]
    );
    test.execute(&set_aside).await;

    assert_eq!(outbox.pending().await.unwrap(), 1);
    let listed = outbox.set_aside(10).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((listed[0].messages, listed[0].attempts), (1, 5));
    assert_eq!(listed[0].error.as_deref(), Some("too large"));
    assert_eq!(outbox.set_aside(1).await.unwrap(), listed[..1]);

    assert!(outbox.retry(&listed[0].batch_id).await.unwrap());
    assert!(
        !outbox.retry(&listed[0].batch_id).await.unwrap(),
        "it is not set aside now"
    );
    assert!(!outbox.retry("' OR ''='").await.unwrap());
    assert_eq!(outbox.pending().await.unwrap(), 2);
    assert_eq!(outbox.set_aside(10).await.unwrap(), listed[1..]);
}

async fn a_missing_table_is_said<DB: TestDatabase>(test: Test<DB>) {
    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    let mut connection = test.pool.acquire().await.unwrap();
    let batch = [message("orders", "a", 1)];
    let written = outbox.write_in(&mut connection, &batch).await;
    let error = written.unwrap_err().into_error();
    for error in [error, outbox.pending().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("`migrate`"), "{error}");
        assert!(!error.is_retryable());
    }
}

//! Rows that are corrupt, large, or in a table that is not there.

use std::sync::atomic::Ordering;

use streams_core::{ErrorKind, Message};
use streams_sql::{Outbox, Relay};

use super::{Destination, commit, relay, run};
use crate::outbox::outbox;
use crate::support::{Test, TestDatabase, go, message};

on_each_database! {
    corrupt_rows_are_set_aside_at_once,
    large_rows_go_out,
    rows_that_are_too_many_bytes_go_alone,
    a_missing_table_is_said,
    rows_of_the_go_library_go_out,
    settings_are_checked,
}

async fn corrupt_rows_are_set_aside_at_once<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    commit(&outbox, &[message("orders", "a", 0)]).await;
    for (id, raw) in [
        ("garbage", &b"garbage"[..]),
        ("empty", b""),
        ("half", b"\x0a\x7f\x0a"),
    ] {
        test.execute(&format!(
            "INSERT INTO streams_egress (batch_id, message_count, raw_data) VALUES ('{id}', 1, {})",
            DB::literal(raw)
        ))
        .await;
    }
    commit(&outbox, &[message("orders", "a", 1)]).await;
    let report = relay(&outbox, &to)
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    assert_eq!((report.rows, report.set_aside, report.failures), (2, 3, 0));
    assert_eq!(to.data(), ["0", "1"]);
    let aside = outbox.set_aside(10).await.unwrap();
    assert_eq!(aside.len(), 3);
    for row in aside {
        assert_eq!(row.attempts, 1);
        assert!(
            row.error.as_deref().unwrap().starts_with("Codec: "),
            "{row:?}"
        );
    }
}

/// As an early version made the table, with nothing in the columns that it does not name.
async fn rows_of_the_go_library_go_out<DB: TestDatabase>(test: Test<DB>) {
    test.execute(&go::table::<DB>()).await;
    test.execute(&go::insert::<DB>(1)).await;
    let (outbox, to) = (outbox(&test).await, Destination::new());
    test.execute(&go::insert::<DB>(2)).await;
    let relay = relay(&outbox, &to).build().unwrap();
    let report = relay.run_once().await.unwrap();
    assert_eq!((report.messages, report.rows), (2, 2));
    assert_eq!(to.data(), ["x", "x"]);
    assert_eq!(test.count("streams_egress").await, 0);
}

async fn large_rows_go_out<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let outbox_of_large = Outbox::builder(test.pool.clone()).largest_row(12 << 20);
    let outbox_of_large = outbox_of_large.build().unwrap();
    let large = Message::builder("orders")
        .data(vec![b'x'; 10 << 20])
        .build()
        .unwrap();
    commit(&outbox_of_large, &[large]).await;
    commit(&outbox, &[message("orders", "a", 1)]).await;
    let running = run(relay(&outbox, &to));
    to.until_count(2).await;
    running.stop().await;
    assert_eq!(to.data(), ["10485760 bytes", "1"]);
    assert_eq!(outbox.pending().await.unwrap(), 0);
}

async fn rows_that_are_too_many_bytes_go_alone<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    for size in [10, 5_000, 400, 400, 400, 400] {
        let data = vec![b'x'; size];
        commit(
            &outbox,
            &[Message::builder("orders").data(data).build().unwrap()],
        )
        .await;
    }
    let relay = relay(&outbox, &to).bytes(1_000).build().unwrap();
    assert_eq!(relay.run_once().await.unwrap().rows, 6);
    let sizes: Vec<_> = to.data().iter().map(String::len).collect();
    assert_eq!(sizes, [10, 10, 9, 9, 9, 9], "in order: {:?}", to.data());
    assert!(to.largest.load(Ordering::Relaxed) <= 2);
}

async fn a_missing_table_is_said<DB: TestDatabase>(test: Test<DB>) {
    let to = Destination::new();
    let bare = Outbox::builder(test.pool.clone()).build().unwrap();
    let relay = relay(&bare, &to).build().unwrap();
    let missing = [
        relay.run(std::future::pending()).await.unwrap_err(),
        relay.run_once().await.unwrap_err(),
    ];
    for error in missing {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("`migrate`"), "{error}");
    }
    bare.migrate().await.unwrap();
    test.execute("UPDATE streams_schema SET version = 7").await;
    let error = relay.run(std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("newer version"), "{error}");
    test.execute("UPDATE streams_schema SET version = 0").await;
    let error = relay.run(std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("`migrate`"), "{error}");

    // It is taken away while it runs.
    test.execute("UPDATE streams_schema SET version = 1").await;
    let running = tokio::spawn(async move { relay.run(std::future::pending()).await });
    commit(&bare, &[message("orders", "a", 0)]).await;
    to.until_count(1).await;
    test.execute("DROP TABLE streams_egress").await;
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

async fn settings_are_checked<DB: TestDatabase>(test: Test<DB>) {
    use std::time::Duration;

    use streams_core::{Backoff, NoopWriter};
    use streams_sql::Cleanup;

    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    let builder = || Relay::builder(outbox.clone(), std::sync::Arc::new(NoopWriter::new()));
    let second = Duration::from_secs(1);
    let hot = Backoff::constant(Duration::ZERO);
    for bad in [
        builder().rows(0),
        builder().rows(5_001),
        builder().bytes(0),
        builder().lease(Duration::from_millis(299)),
        builder().lease(Duration::MAX),
        builder().attempts(0),
        builder().deferred(0),
        builder().poll_interval(Duration::ZERO, second),
        builder().poll_interval(second, second / 2),
        builder().cleanup(Cleanup::Keep(Duration::ZERO)),
        builder().cleanup(Cleanup::Keep(Duration::MAX)),
        builder().row_backoff(hot),
        builder().destination_backoff(hot),
    ] {
        let text = format!("{bad:?}");
        let error = bad.build().expect_err(&text);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
    }
    let bounds = builder()
        .rows(5_000)
        .lease(Duration::from_millis(300))
        .attempts(1);
    assert!(format!("{:?}", bounds.build().unwrap()).contains("5000"));
}

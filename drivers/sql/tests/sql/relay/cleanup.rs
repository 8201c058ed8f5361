//! Rows that were forwarded, and what they cost.

use std::time::Duration;

use sqlx::{MySql, Postgres, Sqlite};
use streams_sql::Cleanup;

use super::{Destination, commit, relay, run, until_found};
use crate::outbox::outbox;
use crate::support::{self, Test, TestDatabase, message};

on_each_database! {
    forwarded_rows_are_kept_and_then_deleted,
    rows_kept_are_no_rows_to_relay,
}

async fn forwarded_rows_are_kept_and_then_deleted<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    for number in 0..10 {
        commit(&outbox, &[message("orders", "a", number)]).await;
    }
    let long = relay(&outbox, &to).cleanup(Cleanup::Keep(Duration::from_secs(3600)));
    assert_eq!(long.build().unwrap().run_once().await.unwrap().rows, 10);
    let kept = "SELECT count(*) FROM streams_egress WHERE status = 1 AND forwarded > 1700000000000";
    assert_eq!(test.rows(kept).await, [["10"]]);

    // Three at a time.
    let short = relay(&outbox, &to).cleanup(Cleanup::Keep(Duration::from_millis(1)));
    let running = run(short.rows(3));
    until_found(&test, "SELECT count(*) FROM streams_egress", "0").await;
    // And those that come later.
    commit(&outbox, &[message("orders", "a", 10)]).await;
    to.until_count(11).await;
    until_found(&test, "SELECT count(*) FROM streams_egress", "0").await;
    running.stop().await;

    // Those that are not old enough stay.
    commit(&outbox, &[message("orders", "a", 11)]).await;
    let long = relay(&outbox, &to).cleanup(Cleanup::Keep(Duration::from_secs(3600)));
    assert_eq!(long.build().unwrap().run_once().await.unwrap().rows, 1);
    assert_eq!(test.count("streams_egress").await, 1);
    assert_eq!(to.first_arrivals().1, 0);
}

async fn rows_kept_are_no_rows_to_relay<DB: TestDatabase>(test: Test<DB>) {
    let (outbox, to) = (outbox(&test).await, Destination::new());
    commit(&outbox, &[message("orders", "a", 0)]).await;
    let keep = Cleanup::Keep(Duration::from_secs(3600));
    let relay = relay(&outbox, &to).cleanup(keep).build().unwrap();
    for rows in [1, 0, 0] {
        assert_eq!(relay.run_once().await.unwrap().rows, rows);
    }
    assert_eq!(outbox.pending().await.unwrap(), 0);
}

/// Many rows that were forwarded and kept, and one that is ready.
async fn fill<DB: TestDatabase>(test: &Test<DB>, numbers: &str) {
    outbox(test).await;
    let insert =
        "INSERT INTO streams_egress (batch_id, message_count, raw_data, status, forwarded)";
    let data = DB::literal(b"data");
    let many = format!("{insert} SELECT CONCAT('kept ', n), 1, {data}, 1, 0 {numbers}");
    test.execute(&many).await;
    test.execute(&format!("{insert} VALUES ('ready', 1, {data}, 0, NULL)"))
        .await;
}

/// What the relay asks in its statement, with the column that has the order.
fn ready(sequence: &str) -> String {
    format!("SELECT batch_id FROM streams_egress WHERE status = 0 ORDER BY {sequence} LIMIT 500")
}

/// The plans of the databases name the index; none sorts, none looks at the whole table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_rows_are_not_looked_at_on_postgres() {
    support::run::<Postgres, _>(|test| async move {
        fill(&test, "FROM generate_series(1, 20000) AS n").await;
        test.execute("ANALYZE streams_egress").await;
        let plan = test
            .rows(&format!("EXPLAIN {}", ready("sequence")))
            .await
            .concat()
            .join("\n");
        assert!(
            plan.contains("Index Scan using streams_egress_ready"),
            "{plan}"
        );
        assert!(!plan.contains("Sort"), "{plan}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_rows_are_not_looked_at_on_mariadb() {
    support::run::<MySql, _>(|test| async move {
        fill(
            &test,
            "FROM (SELECT seq AS n FROM seq_1_to_20000) AS numbers",
        )
        .await;
        test.rows("ANALYZE TABLE streams_egress").await;
        let plan = test
            .rows(&format!("EXPLAIN FORMAT=JSON {}", ready("sequence")))
            .await;
        let plan = plan.concat().join("\n");
        assert!(plan.contains("\"key\": \"streams_egress_ready\""), "{plan}");
        assert!(!plan.contains("filesort"), "{plan}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_rows_are_not_looked_at_on_sqlite() {
    support::run::<Sqlite, _>(|test| async move {
        let numbers = "FROM (WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 \
                       FROM numbers WHERE n < 20000) SELECT n FROM numbers)";
        fill(&test, numbers).await;
        test.execute("ANALYZE").await;
        let plan = test
            .rows(&format!("EXPLAIN QUERY PLAN {}", ready("rowid")))
            .await;
        let plan = plan.concat().join("\n");
        assert!(
            plan.contains("USING INDEX streams_egress_ready (status=?)"),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    })
    .await;
}

//! Batches are read from an index, whatever the database believes of the table.

use sqlx::Postgres;

use super::{Destination, commit, relay, until_found};
use crate::outbox::outbox;
use crate::support::{self, message};

const ROWS: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_the_statistics_do_not_tell_of_is_read_once() {
    support::run::<Postgres, _>(|test| async move {
        let (outbox, to) = (outbox(&test).await, Destination::new());
        let relay = relay(&outbox, &to).build().unwrap();
        let fill = format!(
            "INSERT INTO streams_egress (batch_id, message_count, raw_data) \
             SELECT '0' || lpad(i::text, 26, '0'), 1, raw_data \
             FROM generate_series(2, {ROWS}) i, streams_egress"
        );
        commit(&outbox, &[message("s", "a", 0)]).await;
        test.execute(&fill).await;
        relay.run_once().await.unwrap();
        // PostgreSQL looks at it now, when it is empty, as outboxes mostly are.
        test.execute("ANALYZE streams_egress").await;
        test.execute("SELECT pg_stat_reset()").await;
        commit(&outbox, &[message("s", "a", 0)]).await;
        test.execute(&fill).await;
        let report = relay.run_once().await.unwrap();
        assert_eq!(report.rows, ROWS as u64);
        let deleted = format!(
            "SELECT count(*) FROM pg_stat_user_tables \
             WHERE relname = 'streams_egress' AND n_tup_del >= {ROWS}"
        );
        until_found(&test, &deleted, "1").await;
        let read = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes \
                    WHERE indexrelname = 'streams_egress_ready'";
        let read: usize = test.rows(read).await[0][0].parse().unwrap();
        // Reading ahead sees the rows that are being written once more, and some that were deleted.
        // To sort all that is there each time would be 20 times as many.
        assert!((ROWS..10 * ROWS).contains(&read), "{read} rows were read");
    })
    .await;
}

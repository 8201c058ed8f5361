//! What is measured. All in one thread, so that the recorder is the test's own.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Sqlite;
use streams_core::{Backoff, ErrorKind};
use streams_sql::metrics::{ACTIVE, DEFERRED, FAILURES, LAG, MESSAGES, ROWS, SET_ASIDE};

use super::{Destination, commit, relay, run, until_found};
use crate::outbox::outbox;
use crate::recorder::Recorded;
use crate::support::{self, Test, message};

fn measured<Fut: Future<Output = ()>>(test: impl FnOnce(Test<Sqlite>, Arc<Recorded>) -> Fut) {
    let recorded = Arc::new(Recorded::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&*recorded, || {
        let test = |database| test(database, recorded.clone());
        runtime.block_on(support::run::<Sqlite, _>(test));
    });
}

async fn until(recorded: &Recorded, name: &str, good: impl Fn(f64) -> bool) {
    recorded.until(name, "table", good).await;
}

#[test]
fn what_is_relayed_is_counted() {
    measured(|test, recorded| async move {
        let (outbox, to) = (outbox(&test).await, Destination::new());
        to.fail(|message| (message.stream().as_str() == "bad").then_some(ErrorKind::Other));
        commit(&outbox, &[message("good", "a", 0), message("good", "a", 1)]).await;
        commit(&outbox, &[message("bad", "a", 0)]).await;
        commit(&outbox, &[message("bad", "b", 0)]).await;
        test.execute(
            "INSERT INTO streams_egress (batch_id, message_count, raw_data) \
             VALUES ('corrupt', 1, x'ff')",
        )
        .await;
        let never = Backoff::constant(Duration::from_secs(3600));
        let running = run(relay(&outbox, &to).row_backoff(never));
        until(&recorded, DEFERRED, |value| value == 2.0).await;
        until(&recorded, LAG, |value| value == 0.0).await;
        // One that stands by changes nothing of it.
        let standby = run(relay(&outbox, &to));
        until_found(&test, "SELECT count(*) FROM streams_relay", "1").await;
        standby.stop().await;
        let expected = [
            (ACTIVE, 1.0),
            (DEFERRED, 2.0),
            (FAILURES, 2.0),
            (LAG, 0.0),
            (MESSAGES, 2.0),
            (ROWS, 1.0),
            (SET_ASIDE, 1.0),
        ];
        for (name, value) in expected {
            assert_eq!(recorded.value(name, "table"), value, "{name}");
        }
        assert_eq!(recorded.read().len(), expected.len());
        running.stop().await;
        for (name, value) in [(ACTIVE, 0.0), (DEFERRED, 0.0), (MESSAGES, 2.0)] {
            assert_eq!(recorded.value(name, "table"), value, "{name}");
        }
    });
}

#[test]
fn the_lag_is_that_of_the_oldest_row() {
    measured(|test, recorded| async move {
        let (outbox, to) = (outbox(&test).await, Destination::new());
        to.fail(|_| Some(ErrorKind::Unavailable));
        commit(&outbox, &[message("a", "a", 0)]).await;
        test.execute("UPDATE streams_egress SET insert_time = datetime('now', '-1 hour')")
            .await;
        commit(&outbox, &[message("a", "a", 1)]).await;
        let running = run(relay(&outbox, &to));
        until(&recorded, LAG, |lag| (3_599.0..4_000.0).contains(&lag)).await;
        to.heal();
        until(&recorded, LAG, |lag| lag == 0.0).await;
        running.stop().await;
    });
}

//! The relay: every message that is committed arrives, in order, and no other.

mod cleanup;
mod clock;
mod crash;
mod failures;
mod idle;
mod index;
mod measured;
mod order;
mod random;
mod rows;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use streams_core::{Backoff, Message};
pub(crate) use streams_outbox::testing::{Destination, LONG, Running};
use streams_sql::{Outbox, Relay, RelayBuilder};
use tokio::time::timeout;

use crate::support::{Test, TestDatabase};

/// A relay that is not patient.
pub(crate) fn relay<DB: TestDatabase>(outbox: &Outbox<DB>, to: &Destination) -> RelayBuilder<DB> {
    let quick = Backoff::new(Duration::from_millis(5), Duration::from_millis(50)).jitter(false);
    Relay::builder(outbox.clone(), Arc::new(to.clone()))
        .poll_interval(Duration::from_millis(5), Duration::from_millis(100))
        .row_backoff(quick)
        .destination_backoff(quick)
}

pub(crate) fn run<DB: TestDatabase>(relay: RelayBuilder<DB>) -> Running {
    let relay = relay.build().unwrap();
    Running::start(|stopped| async move { relay.run(stopped).await })
}

/// Writes messages in a transaction of their own, one row.
pub(crate) async fn commit<DB: TestDatabase>(outbox: &Outbox<DB>, messages: &[Message]) {
    let tx = outbox.begin().await.unwrap();
    tx.writer().write(messages).await.unwrap();
    tx.commit().await.unwrap();
}

/// Waits until the outbox has no rows that are to be relayed.
pub(crate) async fn until_empty<DB: TestDatabase>(outbox: &Outbox<DB>) {
    let waiting = async {
        while outbox.pending().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waiting).await.expect("all rows go out");
}

/// Waits until a statement finds this many.
pub(crate) async fn until_found<DB: TestDatabase>(test: &Test<DB>, sql: &str, count: &str) {
    let waiting = async {
        while test.rows(sql).await[0][0] != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waiting).await.expect("so many are found");
}

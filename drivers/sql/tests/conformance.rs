//! The queue: the conformance kit on each database, and what the kit does not ask.

#![cfg(all(feature = "postgres", feature = "mysql", feature = "sqlite"))]

#[path = "sql/each.rs"]
#[macro_use]
mod each;

#[path = "queue/behaviour.rs"]
mod behaviour;
#[path = "queue/faults.rs"]
mod faults;
#[path = "queue/harness.rs"]
mod harness;
#[path = "sql/support.rs"]
#[allow(dead_code, reason = "some of it is for other tests")]
mod support;

use harness::{OnDatabase, Settings};
use sqlx::{MySql, Postgres, Sqlite};
use streams_testkit::RunOptions;
use support::TestDatabase;

async fn conforms<DB: TestDatabase>(settings: Settings, options: RunOptions) {
    let (url, folder) = DB::create().await;
    let harness = OnDatabase::<DB>::new(&url, settings).await;
    let report = streams_testkit::run_with(harness, options).await;
    DB::remove(&url).await;
    drop(folder);
    report.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres() {
    conforms::<Postgres>(Settings::Plain, RunOptions::from_env()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb() {
    conforms::<MySql>(Settings::Plain, RunOptions::from_env()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    conforms::<Sqlite>(Settings::Plain, RunOptions::from_env()).await;
}

/// What is different where messages are kept and streams are not created by themselves.
fn of_retention() -> RunOptions {
    RunOptions::from_env().only([
        "publish_subscribe",
        "partial_batch_failure",
        "groups",
        "crash_without_close",
        "continue_after_close",
        "start",
        "missing_stream",
        "unsupported_is_said",
        "delayed",
        "transaction",
        "dlq_round_trip",
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn with_retention_on_postgres() {
    conforms::<Postgres>(Settings::Retention, of_retention()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_retention_on_mariadb() {
    conforms::<MySql>(Settings::Retention, of_retention()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_retention_on_sqlite() {
    conforms::<Sqlite>(Settings::Retention, of_retention()).await;
}

/// Do nothing unless the kit has started them as processes of their own.
mod reader_process {
    use super::harness::serve;

    #[test]
    fn postgresql() {
        serve::<sqlx::Postgres>();
    }

    #[test]
    fn mysql() {
        serve::<sqlx::MySql>();
    }

    #[test]
    fn sqlite() {
        serve::<sqlx::Sqlite>();
    }
}

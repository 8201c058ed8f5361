//! Servers that are killed, networks that are cut.

use sqlx::{MySql, Postgres};
use streams_services::Server;
use streams_testkit::{RunOptions, Scale};

use crate::harness::OnDatabase;
use crate::support::TestDatabase;

async fn withstands<DB: TestDatabase>(start: fn() -> streams_services::Result<Server>) {
    let server = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    // Publishers wait for each message, and a message is many round trips through the proxy.
    let options = RunOptions::from_env()
        .scale(Scale::Quick)
        .only(["reconnect", "network_cut"]);
    let harness = OnDatabase::<DB>::own(server).await;
    let report = streams_testkit::run_with(harness, options).await;
    report.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_postgres() {
    withstands::<Postgres>(|| streams_services::Postgres::new().start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_mariadb() {
    withstands::<MySql>(|| streams_services::MariaDb::new().start()).await;
}

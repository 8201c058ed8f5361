//! What the server and the relay need.

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use streams_core::ErrorKind;
use streams_sql::{Outbox, WalRelay};

use super::{Destination, Running, run};
use crate::support::TestDatabase as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_validated() {
    let pool = sqlx::Postgres::unreachable().await;
    let outbox = Outbox::builder(pool).build().unwrap();
    let builder = || WalRelay::builder(outbox.clone(), Destination::new());
    for name in ["", "A", "a b", "a'; DROP TABLE streams_egress; --"] {
        for builder in [builder().slot(name), builder().publication(name)] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        }
    }
    assert!(builder().rows(0).build().is_err());
    builder().build().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_not_there_is_an_error() {
    run(async |wal| {
        let outbox = Outbox::builder(wal.test.pool.clone()).table("other");
        let outbox = outbox.build().unwrap();
        let relay = WalRelay::builder(outbox, Destination::new()).slot(&wal.slot);
        let error = Running::new(relay.build().unwrap()).error().await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("migrate"), "{error}");

        for (version, problem) in [(0, "older version"), (7, "newer version")] {
            let other = format!("UPDATE streams_schema SET version = {version}");
            wal.test.execute(&other).await;
            let error = wal.start(&Destination::new()).error().await;
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(problem), "{error}");
        }

        // It is taken away while it runs.
        wal.test
            .execute("UPDATE streams_schema SET version = 1")
            .await;
        let destination = Destination::new();
        let relay = wal.start(&destination);
        wal.publish("k", 0).await;
        destination.wait(1).await;
        wal.until_empty().await;
        wal.test.execute("DROP TABLE streams_egress").await;
        wal.drop_slot().await;
        let error = relay.error().await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains("migrate"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_is_told_what_to_grant() {
    run(async |wal| {
        let user = format!("{}_user", wal.slot);
        for sql in [
            format!("CREATE ROLE {user} LOGIN"),
            format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}"),
        ] {
            wal.test.execute(&sql).await;
        }
        let options: PgConnectOptions = wal.test.url.parse().unwrap();
        let options = options.username(&user);
        let pool = sqlx::PgPool::connect_with(options.clone()).await.unwrap();
        let outbox = Outbox::builder(pool.clone()).build().unwrap();
        let relay = |outbox: &Outbox<_>| {
            let relay = WalRelay::builder(outbox.clone(), Destination::new());
            relay.slot(&wal.slot)
        };
        let error = Running::new(relay(&outbox).build().unwrap()).error().await;
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.to_string().contains("CREATE PUBLICATION"), "{error}");

        // The publication is there, the slot is not.
        wal.test
            .execute("CREATE PUBLICATION streams_egress_proxy FOR TABLE streams_egress")
            .await;
        let error = Running::new(relay(&outbox).build().unwrap()).error().await;
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.to_string().contains("REPLICATION"), "{error}");

        // Only the replication connection is refused.
        let error = Running::new(relay(&wal.outbox).connection(options).build().unwrap());
        let error = error.error().await;
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.to_string().contains("REPLICATION"), "{error}");

        pool.close().await;
        wal.test.execute(&format!("DROP OWNED BY {user}")).await;
        wal.test.execute(&format!("DROP ROLE {user}")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_for_something_else_is_refused() {
    run(async |wal| {
        let create = "SELECT pg_create_logical_replication_slot(";
        wal.ask(&format!("{create}'{}', 'test_decoding')::text", wal.slot))
            .await;
        let error = wal.start(&Destination::new()).error().await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("pgoutput"), "{error}");
    })
    .await;
}

/// A publication of the Go library, or by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_is_there_is_used() {
    run(async |wal| {
        wal.test
            .execute("CREATE TABLE other (id INTEGER PRIMARY KEY)")
            .await;
        wal.test
            .execute("CREATE PUBLICATION streams_egress_proxy FOR TABLE other")
            .await;
        let destination: Arc<Destination> = Destination::new();
        let relay = wal.start(&destination);
        wal.until_active().await;
        wal.test.execute("INSERT INTO other VALUES (1)").await;
        wal.publish("k", 0).await;
        destination.wait(1).await;
        wal.until_empty().await;
        relay.stop().await;

        // One that leaves out inserts is of no use.
        wal.test
            .execute("ALTER PUBLICATION streams_egress_proxy SET (publish = 'delete')")
            .await;
        let error = wal.start(&destination).error().await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("ALTER PUBLICATION"), "{error}");
    })
    .await;
}

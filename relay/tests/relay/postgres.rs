//! PostgreSQL, on real servers.

use std::ops::Range;

use rustix::process::Signal;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use streams_core::{Message, ksuid};
use streams_services::Service;
use streams_sql::{Outbox, Postgres};

use crate::support::{Running, SECRET, finish, get, message, program, until};

pub(crate) const MODES: [&str; 2] = ["poll", "wal"];

/// An outbox in a database of its own.
pub(crate) struct Database {
    server: PgPool,
    pool: PgPool,
    name: String,
    /// With a password, which the server does not ask for.
    pub(crate) url: String,
    pub(crate) outbox: Outbox<Postgres>,
}

impl Database {
    /// On the server that the tests share.
    pub(crate) async fn new() -> Self {
        Self::on(&Service::Postgres.address().unwrap()).await
    }

    pub(crate) async fn on(server: &str) -> Self {
        let name = format!("relay_{}", ksuid().unwrap().to_string().to_lowercase());
        let (start, _) = server.rsplit_once('/').unwrap();
        let url = format!("{start}/{name}");
        let server = PgPool::connect(server).await.unwrap();
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::query(create).execute(&server).await.unwrap();
        let pool = PgPool::connect(&url).await.unwrap();
        Self {
            outbox: Outbox::builder(pool.clone()).build().unwrap(),
            url: with_password(&url),
            server,
            pool,
            name,
        }
    }

    /// The settings of a relay of it.
    pub(crate) fn settings<'a>(
        &'a self,
        mode: &'a str,
        destination: &'a str,
    ) -> Vec<(&'a str, &'a str)> {
        let mut settings = vec![
            ("source-url", &*self.url),
            ("source-mode", mode),
            ("destination-url", destination),
        ];
        if mode == "wal" {
            settings.push(("wal-slot", &self.name));
        }
        settings
    }

    /// One row for each message, in one transaction.
    pub(crate) async fn write(&self, messages: &[Message], commit: bool) {
        let mut tx = self.pool.begin().await.unwrap();
        for message in messages {
            let one = std::slice::from_ref(message);
            self.outbox.write_in(&mut tx, one).await.unwrap();
        }
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }

    /// With the replication slot of its name, if there is one.
    pub(crate) async fn drop(self) {
        self.pool.close().await;
        let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                    WHERE slot_name = $1";
        sqlx::query(slot)
            .bind(&self.name)
            .execute(&self.server)
            .await
            .unwrap();
        let drop = AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name));
        sqlx::query(drop).execute(&self.server).await.unwrap();
    }
}

/// The server's user, with a password.
fn with_password(url: &str) -> String {
    let (start, host) = url.rsplit_once('@').unwrap();
    let (scheme, user) = start.split_once("://").unwrap();
    let (user, _) = user.split_once(':').unwrap_or((user, ""));
    format!("{scheme}://{user}:{SECRET}@{host}")
}

pub(crate) fn messages(stream: &str, key: &str, numbers: Range<usize>) -> Vec<Message> {
    numbers.map(|n| message(stream, key, n)).collect()
}

/// It is killed, and comes back.
#[tokio::test]
async fn a_database_that_is_down_makes_it_unready_until_it_is_back() {
    let server = streams_services::Postgres::new().start().unwrap();
    for mode in MODES {
        let database = Database::on(&server.url()).await;
        database.outbox.migrate().await.unwrap();
        let mut settings = database.settings(mode, "stdout:");
        settings.push(("source-connect-timeout", "1s"));
        let mut relay = Running::start(program(&settings));
        let address = relay.address();
        until(|| get(&address, "/readyz").0 == 200);
        database.write(&messages("a", "k", 0..1), true).await;
        assert!(relay.line().contains("\"k-0\""));

        server.kill();
        until(|| get(&address, "/readyz").0 == 503);
        let (_, reason) = get(&address, "/readyz");
        assert!(reason.starts_with("the database"), "{reason}");
        assert_eq!(get(&address, "/healthz").0, 200);
        server.restart().unwrap();
        server.wait_ready().unwrap();
        until(|| get(&address, "/readyz").0 == 200);
        database.write(&messages("a", "k", 1..2), true).await;
        // What was not settled comes again.
        while !relay.line().contains("\"k-1\"") {}
        relay.signal(Signal::TERM);
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
        assert!(!relay.log().contains(SECRET), "{}", relay.log());
        database.drop().await;
    }
}

#[tokio::test]
async fn a_table_that_is_missing_ends_it() {
    let database = Database::new().await;
    for mode in MODES {
        let (code, output, errors) = finish(program(&database.settings(mode, "stdout:")));
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        assert!(
            errors.lines().last().unwrap().contains("migrate"),
            "{errors}"
        );
    }
    database.drop().await;
}

/// With everything that is logged.
#[tokio::test]
async fn credentials_that_are_refused_are_not_shown() {
    let server = Service::Postgres.address().unwrap();
    let (_, host) = server.rsplit_once('@').unwrap();
    let source = format!("postgres://nobody:{SECRET}@{host}");
    for flag in ["--check", "--migrate", "--log-filter=trace"] {
        let mut relay = program(&[
            ("source-url", &source),
            ("destination-url", "stdout:"),
            ("source-connect-timeout", "5s"),
        ]);
        relay.arg(flag);
        let (code, output, errors) = finish(relay);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        assert!(errors.contains("refuses the credentials"), "{errors}");
        assert!(!errors.contains(SECRET), "{errors}");
    }
}

//! The database of a configuration, whichever it is.

#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "redis")]
mod forward;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use streams_core::{Backoff, Error, Result, Writer, async_trait};
use streams_sql::{Database as Sql, MySql, Outbox, Postgres, Relay, Sqlite, WalRelay};
use tokio::sync::watch;

use crate::config::{self, Config, Database, Mode, of_setting};

/// An outbox or streams, and what moves their messages to the destination.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Makes or upgrades the tables, or makes the streams.
    async fn migrate(&self) -> Result<()>;

    /// Connects, and checks the tables where there are some.
    async fn check(&self) -> Result<()>;

    /// Relays until it is stopped.
    async fn relay(&self, stopped: watch::Receiver<bool>) -> Result<Report>;
}

/// What a relay has done, whichever it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) messages: u64,
    pub(crate) rows: u64,
    pub(crate) failures: u64,
    pub(crate) set_aside: u64,
}

impl From<streams_sql::RelayReport> for Report {
    fn from(report: streams_sql::RelayReport) -> Self {
        Self {
            messages: report.messages,
            rows: report.rows,
            failures: report.failures,
            set_aside: report.set_aside,
        }
    }
}

/// Rows are found by queries.
struct Polled<DB: Sql> {
    outbox: Outbox<DB>,
    relay: Relay<DB>,
}

/// Rows are found in the write-ahead log.
struct Logged {
    outbox: Outbox<Postgres>,
    relay: WalRelay,
}

/// The source of a configuration. Nothing is asked of the database yet.
pub(crate) async fn open(config: &Config, writer: Arc<dyn Writer>) -> Result<Arc<dyn Source>> {
    let url = &config.source.url;
    match (config.source.database, config.source.mode) {
        (Database::Postgres, mode) => {
            let options = options::<PgConnectOptions>(url)?.application_name("streams-relay");
            let outbox = outbox::<Postgres>(&config.source, options)?;
            match mode {
                Mode::Wal => logged(outbox, config, writer),
                Mode::Poll | Mode::Streams => polled(outbox, &config.relay, writer),
            }
        }
        (Database::MySql, _) => {
            let outbox = outbox::<MySql>(&config.source, options(url)?)?;
            polled(outbox, &config.relay, writer)
        }
        (Database::Sqlite, _) => {
            let outbox = outbox::<Sqlite>(&config.source, options(url)?)?;
            polled(outbox, &config.relay, writer)
        }
        #[cfg(feature = "dynamodb")]
        (Database::DynamoDb, mode) => dynamodb::open(config, mode, writer).await,
        #[cfg(not(feature = "dynamodb"))]
        (Database::DynamoDb, _) => Err(Error::invalid_config(
            "this program was built without the source `dynamodb:`; build it with the feature \
             `dynamodb`",
        )),
        #[cfg(feature = "redis")]
        (Database::Redis, _) => redis::open(config, writer),
        #[cfg(not(feature = "redis"))]
        (Database::Redis, _) => Err(Error::invalid_config(
            "this program was built without the source `redis:`; build it with the feature `redis`",
        )),
    }
}

fn options<O: ConnectOptions>(url: &str) -> Result<O> {
    // The text of its errors may repeat a part of the URL.
    url.parse().map_err(|_| {
        Error::invalid_config(
            "`source.url` is not a URL of its database; write \
             postgres://user:password@host:5432/database, with special characters as %XX, and see the \
             README for its parameters",
        )
    })
}

fn outbox<DB: Sql>(
    source: &config::Source,
    options: <DB::Connection as Connection>::Options,
) -> Result<Outbox<DB>> {
    let pool = PoolOptions::<DB>::new()
        .max_connections(source.connections)
        .acquire_timeout(source.connect_timeout)
        .connect_lazy_with(options);
    let outbox = Outbox::builder(pool).table(&source.table).build();
    outbox.map_err(of_setting("source.table"))
}

fn polled<DB: Sql>(
    outbox: Outbox<DB>,
    config: &config::Relay,
    writer: Arc<dyn Writer>,
) -> Result<Arc<dyn Source>> {
    let (shortest, longest) = config.poll_interval;
    let relay = Relay::builder(outbox.clone(), writer)
        .rows(config.rows)
        .bytes(config.bytes)
        .lease(config.lease)
        .attempts(config.attempts)
        .row_backoff(backoff(config.row_backoff))
        .destination_backoff(backoff(config.destination_backoff))
        .deferred(config.deferred)
        .poll_interval(shortest, longest)
        .listen(config.listen)
        .cleanup(config.cleanup)
        .build()
        .map_err(of_setting("[relay]"))?;
    Ok(Arc::new(Polled { outbox, relay }))
}

fn logged(
    outbox: Outbox<Postgres>,
    config: &Config,
    writer: Arc<dyn Writer>,
) -> Result<Arc<dyn Source>> {
    let (wal, config) = (&config.source.wal, &config.relay);
    let relay = WalRelay::builder(outbox.clone(), writer)
        .slot(&wal.slot)
        .publication(&wal.publication)
        .manage(wal.manage)
        .rows(config.rows)
        .bytes(config.bytes)
        .write_limit(config.lease / 2)
        .attempts(config.attempts)
        .row_backoff(backoff(config.row_backoff))
        .destination_backoff(backoff(config.destination_backoff))
        .deferred(config.deferred)
        .cleanup(config.cleanup)
        .build()
        .map_err(of_setting("[relay] or [wal]"))?;
    Ok(Arc::new(Logged { outbox, relay }))
}

pub(crate) fn backoff((shortest, longest): (Duration, Duration)) -> Backoff {
    Backoff::new(shortest, longest)
}

/// Until it is stopped. Nobody left to stop it is a stop too.
pub(crate) async fn stop(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[async_trait]
impl<DB: Sql> Source for Polled<DB> {
    async fn migrate(&self) -> Result<()> {
        self.outbox.migrate().await
    }

    async fn check(&self) -> Result<()> {
        self.outbox.check().await
    }

    async fn relay(&self, stopped: watch::Receiver<bool>) -> Result<Report> {
        Ok(self.relay.run(stop(stopped)).await?.into())
    }
}

#[async_trait]
impl Source for Logged {
    async fn migrate(&self) -> Result<()> {
        self.outbox.migrate().await
    }

    async fn check(&self) -> Result<()> {
        self.outbox.check().await
    }

    async fn relay(&self, stopped: watch::Receiver<bool>) -> Result<Report> {
        Ok(self.relay.run(stop(stopped)).await?.into())
    }
}

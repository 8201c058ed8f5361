//! Statements that do not hang with their database.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use streams_core::{Error, Result};
use tokio::time::timeout;

use crate::database::{Database, Sql, Value};
use crate::error::error;
use crate::outbox::Outbox;

/// A statement that takes longer has lost its server. Those of a relay take milliseconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A connection of the outbox's pool.
pub(crate) async fn connection<DB: Database>(
    outbox: &Outbox<DB>,
    doing: &'static str,
) -> Result<PoolConnection<DB>> {
    let connection = outbox.pool().acquire().await;
    connection.map_err(|source| failed(outbox, source, doing))
}

/// Runs a statement by itself; returns how many rows it changed.
pub(crate) async fn execute<DB: Database>(
    outbox: &Outbox<DB>,
    sql: &Sql,
    values: &[Value<'_>],
    doing: &'static str,
) -> Result<u64> {
    let mut connection = connection(outbox, doing).await?;
    let running = timeout(LIMIT, DB::execute(&mut connection, sql, values)).await;
    end(outbox, connection, running, doing)
}

/// Runs a statement by itself; returns its rows.
pub(crate) async fn fetch<DB: Database>(
    outbox: &Outbox<DB>,
    sql: &Sql,
    values: &[Value<'_>],
    doing: &'static str,
) -> Result<Vec<DB::Row>> {
    let mut connection = connection(outbox, doing).await?;
    let running = timeout(LIMIT, DB::fetch(&mut connection, sql, values)).await;
    end(outbox, connection, running, doing)
}

/// As [`fetch`], for the first rows of an index.
pub(crate) async fn fetch_along_the_index<DB: Database>(
    outbox: &Outbox<DB>,
    sql: &Sql,
    values: &[Value<'_>],
    doing: &'static str,
) -> Result<Vec<DB::Row>> {
    let along = DB::DIALECT.along_the_index();
    if along.is_empty() {
        return fetch(outbox, sql, values, doing).await;
    }
    let mut connection = connection(outbox, doing).await?;
    let running = timeout(LIMIT, async {
        let begin = AssertSqlSafe(format!("BEGIN{along}"));
        let mut transaction = connection.begin_with(begin).await?;
        let rows = DB::fetch(&mut transaction, sql, values).await?;
        transaction.commit().await?;
        Ok(rows)
    })
    .await;
    end(outbox, connection, running, doing)
}

/// The connection of a statement that was given up is not used again.
pub(crate) fn end<DB: Database, T>(
    outbox: &Outbox<DB>,
    mut connection: PoolConnection<DB>,
    result: Result<sqlx::Result<T>, tokio::time::error::Elapsed>,
    doing: &'static str,
) -> Result<T> {
    let result = result.unwrap_or_else(|_| {
        connection.close_on_drop();
        Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
    });
    result.map_err(|source| failed(outbox, source, doing))
}

pub(crate) fn failed<DB: Database>(
    outbox: &Outbox<DB>,
    source: sqlx::Error,
    doing: &'static str,
) -> Error {
    error(source, doing).with("table", outbox.table())
}

/// A duration as the database counts it.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

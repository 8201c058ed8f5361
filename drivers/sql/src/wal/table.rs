//! What is asked of the table and its database beside the log.

use std::collections::HashSet;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres, Row as _};
use streams_core::Result;
use tokio::time::timeout;

use super::DOING;
use crate::database::Value;
use crate::outbox::Outbox;
use crate::relay::statement::{LIMIT, connection, end, failed};
use crate::relay::store::{Store, Window};

/// What marks in the log begin with.
pub(super) const PREFIX: &str = "streams-sql";

/// What was committed at a time.
#[derive(Debug)]
pub(super) struct Snapshot {
    text: String,
    /// The number of the first transaction after it.
    next: i64,
}

/// Which rows are swept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Ready,
    Deferred,
    Both,
}

impl Which {
    fn condition(self) -> &'static str {
        match self {
            Self::Ready => "status = 0",
            Self::Deferred => "status = 3",
            Self::Both => "status IN (0, 3)",
        }
    }
}

/// What is committed now.
pub(super) async fn snapshot(outbox: &Outbox<Postgres>) -> Result<Snapshot> {
    let sql = "SELECT pg_current_snapshot()::text, \
               pg_snapshot_xmax(pg_current_snapshot())::text::BIGINT";
    let rows = fetch(outbox, sqlx::query(sql)).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound);
    let snapshot = row.and_then(|row| {
        Ok(Snapshot {
            text: row.try_get(0)?,
            next: row.try_get(1)?,
        })
    });
    snapshot.map_err(|source| failed(outbox, source, DOING))
}

/// Writes a mark into the log: what was committed before comes before it.
pub(super) async fn write_mark(outbox: &Outbox<Postgres>, mark: &str) -> Result<()> {
    let sql = "SELECT pg_logical_emit_message(true, $1, $2)::text";
    let query = sqlx::query(sql).bind(PREFIX).bind(mark);
    fetch(outbox, query).await.map(drop)
}

/// Which of these rows are ready. The others have been forwarded, deferred or set aside.
pub(super) async fn ready(outbox: &Outbox<Postgres>, ids: &[String]) -> Result<HashSet<String>> {
    let sql = format!(
        "SELECT batch_id FROM {} WHERE batch_id = ANY($1) AND status = 0",
        outbox.quoted()
    );
    let rows = fetch(outbox, sqlx::query(AssertSqlSafe(sql)).bind(ids)).await?;
    let ids = rows.iter().map(|row| row.try_get(0));
    let ids: sqlx::Result<_> = ids.collect();
    ids.map_err(|source| failed(outbox, source, DOING))
}

/// The first rows after a place that were committed at a time.
pub(super) async fn committed(
    store: &Store<Postgres>,
    which: Which,
    snapshot: &Snapshot,
    after: i64,
) -> Result<Window> {
    let condition = format!(
        "{} AND sequence > ? AND pg_visible_in_snapshot({}, ?::text::pg_snapshot)",
        which.condition(),
        whole("xmin::text::BIGINT", "?::BIGINT"),
    );
    let next = Value::Int(snapshot.next);
    let values = [Value::Int(after), next, next, Value::Text(&snapshot.text)];
    store.window(&condition, &values).await
}

/// How many of these transactions are still not seen by others. One is told of in the log when it is
/// committed there; a moment later, or after a synchronous standby has it too, it can be seen.
pub(super) async fn unseen(outbox: &Outbox<Postgres>, transactions: &[i64]) -> Result<i64> {
    let sql = format!(
        "SELECT count(*) FROM unnest($1::BIGINT[]) x, (SELECT pg_current_snapshot() AS now) s \
         WHERE NOT pg_visible_in_snapshot({}, now)",
        whole("x", "pg_snapshot_xmax(now)::text::BIGINT"),
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(transactions);
    let rows = fetch(outbox, query).await?;
    let count = rows.first().ok_or(sqlx::Error::RowNotFound);
    let count = count.and_then(|row| row.try_get(0));
    count.map_err(|source| failed(outbox, source, DOING))
}

/// The whole number of a transaction of which the lower half is known: the one nearest to `next`.
fn whole(half: &str, next: &str) -> String {
    format!(
        "GREATEST(3, {next} - 2147483648 + \
         ({half} - {next} % 4294967296 + 6442450944) % 4294967296)::text::xid8"
    )
}

/// A row, if it is still to be forwarded.
pub(super) async fn row(store: &Store<Postgres>, id: &str) -> Result<Window> {
    let condition = "status IN (0, 3) AND batch_id = ?";
    store.window(condition, &[Value::Text(id)]).await
}

async fn fetch(
    outbox: &Outbox<Postgres>,
    query: Query<'_, Postgres, PgArguments>,
) -> Result<Vec<PgRow>> {
    let mut connection = connection(outbox, DOING).await?;
    let running = timeout(LIMIT, query.fetch_all(&mut *connection)).await;
    end(outbox, connection, running, DOING)
}

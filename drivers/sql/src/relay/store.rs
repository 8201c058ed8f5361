//! What the relay asks of the outbox table.
//!
//! Rows are named by their `batch_id` and found by their `status`. There is no cursor: a row that is
//! committed late is ready like any other, wherever its number lies.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection as _};
use streams_core::Result;
use streams_outbox::{Cleanup, Row, Verdict};
use tokio::time::timeout;

use super::named::{self, list};
use super::statement::{
    LIMIT, connection, end, execute, failed, fetch, fetch_along_the_index, millis,
};
use crate::DRIVER;
use crate::database::{Database, Dialect, Sql, Value};
use crate::outbox::Outbox;
use crate::schema::begin_to_write;

/// Rows that were read together, in the order of their insertion.
#[derive(Default)]
pub(crate) struct Window {
    pub(crate) rows: Vec<Row>,
    /// There may be more, which did not fit.
    pub(crate) full: bool,
    /// The place of the last one.
    pub(crate) last: i64,
    /// How old the first one is.
    pub(crate) age: Option<Duration>,
}

pub(crate) struct Store<DB: Database> {
    outbox: Outbox<DB>,
    rows: u32,
    bytes: u64,
    cleanup: Cleanup,
}

impl<DB: Database> Store<DB> {
    pub(crate) fn new(outbox: Outbox<DB>, rows: u32, bytes: usize, cleanup: Cleanup) -> Self {
        Self {
            outbox,
            rows,
            bytes: bytes as u64,
            cleanup,
        }
    }

    /// Rows that are ready, without those named, after a place if there is one.
    pub(crate) async fn ready(&self, without: &[&str], after: Option<i64>) -> Result<Window> {
        let mut condition = "status = 0".to_owned();
        let mut values = Vec::new();
        if !without.is_empty() {
            let (list, names) = list(DB::DIALECT, without);
            condition += &format!(" AND batch_id NOT IN ({list})");
            values = names;
        }
        if let Some(place) = after {
            condition += &format!(" AND {} > ?", self.outbox.sequence());
            values.push(Value::Int(place));
        }
        let sql = self.select(&condition);
        let rows = fetch_along_the_index(&self.outbox, &sql, &values, "read").await?;
        self.fitting(&rows)
    }

    /// These deferred rows, as many as fit; and those of the names that are not there any more.
    pub(crate) async fn again(&self, ids: &[String]) -> Result<(Vec<Row>, Vec<String>)> {
        let names: Vec<_> = ids.iter().map(String::as_str).collect();
        let (list, values) = list(DB::DIALECT, &names);
        let condition = format!("status = 3 AND batch_id IN ({list})");
        let rows = fetch(&self.outbox, &self.select(&condition), &values, "read").await?;
        let window = self.fitting(&rows)?;
        let found: sqlx::Result<HashSet<_>> = rows.iter().map(|row| DB::text(row, 0)).collect();
        let found = found.map_err(|source| failed(&self.outbox, source, "read"))?;
        let gone = ids.iter().filter(|id| !found.contains(id.as_str()));
        let gone = gone.cloned().collect();
        Ok((window.rows.into_iter().map(Row::again).collect(), gone))
    }

    /// As many rows that meet a condition as fit. A row larger than everything that fits comes alone.
    #[cfg(feature = "wal")]
    pub(crate) async fn window(&self, condition: &str, values: &[Value<'_>]) -> Result<Window> {
        let rows = fetch(&self.outbox, &self.select(condition), values, "read").await?;
        self.fitting(&rows)
    }

    fn fitting(&self, rows: &[DB::Row]) -> Result<Window> {
        read::<DB>(rows, self.rows).map_err(|source| failed(&self.outbox, source, "read"))
    }

    fn select(&self, condition: &str) -> Sql {
        // The data of those that do not fit stays where it is. Only of the first the age is asked.
        let sql = format!(
            "SELECT batch_id, place, CASE WHEN total = size THEN {age} END, write_retries, \
             CASE WHEN total <= {bytes} OR total = size THEN raw_data END FROM (\
             SELECT batch_id, place, insert_time, write_retries, raw_data, size, \
             SUM(size) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) AS total FROM (\
             SELECT batch_id, {sequence} AS place, insert_time, {attempts} AS write_retries, \
             {raw} AS raw_data, \
             LENGTH(raw_data) AS size FROM {table} WHERE {condition} \
             ORDER BY {sequence} LIMIT {rows}) AS oldest) AS counted ORDER BY place",
            bytes = self.bytes,
            sequence = self.outbox.sequence(),
            age = age(DB::DIALECT),
            attempts = attempts(DB::DIALECT),
            raw = raw(DB::DIALECT),
            table = self.outbox.quoted(),
            rows = self.rows,
        );
        Sql::new(DB::DIALECT, &sql)
    }

    /// Does to each row what its verdict says; all or nothing.
    pub(crate) async fn settle(&self, rows: &[(String, Verdict)]) -> Result<()> {
        let (mut done, mut waiting, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (id, verdict) in rows {
            match verdict {
                Verdict::Done => done.push(id.as_str()),
                Verdict::Deferred {
                    error: None,
                    rest: None,
                    ..
                } => waiting.push(id.as_str()),
                Verdict::Deferred { .. } | Verdict::SetAside { .. } => others.push((id, verdict)),
            }
        }
        if waiting.is_empty() && others.is_empty() {
            return self.change(self.done(), &done).await;
        }
        let mut connection = connection(&self.outbox, "settle").await?;
        let running = timeout(LIMIT, async {
            let begin = AssertSqlSafe(begin_to_write(DB::DIALECT));
            let mut transaction = connection.begin_with(begin).await?;
            for (change, ids) in [(self.done(), done), (Change::Wait, waiting)] {
                if !ids.is_empty() {
                    let values = named::values(DB::DIALECT, &ids, &[]);
                    DB::execute(&mut transaction, &self.sql(change), &values).await?;
                }
            }
            for (id, verdict) in others {
                let names = [id.as_str()];
                let values = named::values(DB::DIALECT, &names, &failure(verdict));
                DB::execute(&mut transaction, &self.sql(Change::Fail), &values).await?;
            }
            transaction.commit().await
        })
        .await;
        end(&self.outbox, connection, running, "settle")
    }

    /// Makes the rows that another relay has deferred ready again.
    pub(crate) async fn release(&self) -> Result<()> {
        let deferred = format!(
            "SELECT batch_id FROM {} WHERE status = 3 LIMIT {}",
            self.outbox.quoted(),
            self.rows
        );
        while self.each(&deferred, &[], Change::Release).await? {}
        Ok(())
    }

    /// Deletes some of the rows that were kept for long enough; says whether there may be more.
    pub(crate) async fn clean(&self) -> Result<bool> {
        let Cleanup::Keep(retention) = self.cleanup else {
            return Ok(false);
        };
        // The oldest by place are the oldest, but for some that were deferred.
        let kept = format!(
            "SELECT batch_id FROM (SELECT batch_id, forwarded FROM {table} WHERE status = 1 \
             ORDER BY {sequence} LIMIT {rows}) AS oldest \
             WHERE COALESCE(forwarded, 0) <= {now} - ?",
            table = self.outbox.quoted(),
            sequence = self.outbox.sequence(),
            rows = self.rows,
            now = DB::DIALECT.now(),
        );
        let retention = [Value::Int(millis(retention))];
        self.each(&kept, &retention, Change::Delete).await
    }

    /// Finds rows, then changes them; says whether there may be more. Two statements, because MariaDB
    /// would look at the whole table for one.
    async fn each(&self, find: &str, values: &[Value<'_>], then: Change) -> Result<bool> {
        let find = Sql::new(DB::DIALECT, find);
        let rows = fetch(&self.outbox, &find, values, "find").await?;
        let ids: sqlx::Result<Vec<_>> = rows.iter().map(|row| DB::text(row, 0)).collect();
        let ids = ids.map_err(|source| failed(&self.outbox, source, "find"))?;
        self.change(then, &ids).await?;
        Ok(ids.len() >= self.rows as usize)
    }

    /// Changes rows, if there are any.
    async fn change(&self, change: Change, ids: &[&str]) -> Result<()> {
        if !ids.is_empty() {
            let values = named::values(DB::DIALECT, ids, &[]);
            execute(&self.outbox, &self.sql(change), &values, "settle").await?;
        }
        Ok(())
    }

    /// What becomes of rows that were forwarded.
    fn done(&self) -> Change {
        match self.cleanup {
            Cleanup::Delete => Change::Delete,
            Cleanup::Keep(_) => Change::Keep,
        }
    }

    fn sql(&self, change: Change) -> Sql {
        let (dialect, table) = (DB::DIALECT, self.outbox.quoted());
        let now = dialect.now();
        let set = match change {
            Change::Delete => return named::delete(dialect, table),
            Change::Keep => &format!("status = 1, due = NULL, forwarded = {now}"),
            Change::Wait => "status = 3, due = NULL",
            Change::Release => "status = 0, due = NULL",
            Change::Fail => &format!(
                "status = ?, write_retries = ?, due = {now} + ?, \
                 last_write_error = COALESCE(?, last_write_error), \
                 raw_data = COALESCE(?, raw_data), message_count = COALESCE(?, message_count)"
            ),
        };
        named::update(dialect, table, set)
    }
}

/// What is done to rows.
#[derive(Debug, Clone, Copy)]
enum Change {
    Delete,
    Keep,
    Wait,
    Release,
    /// With the values of [`failure`].
    Fail,
}

/// How a row is deferred or set aside.
fn failure(verdict: &Verdict) -> Vec<Value<'_>> {
    let (status, attempts, delay, error, rest) = match verdict {
        Verdict::Done => return Vec::new(),
        Verdict::Deferred {
            attempts,
            error,
            delay,
            rest,
            ..
        } => (3, attempts, Some(*delay), error.as_deref(), rest),
        Verdict::SetAside {
            attempts,
            error,
            rest,
        } => (2, attempts, None, Some(error.as_str()), rest),
    };
    let messages = rest.as_ref().map(|rest| rest.messages);
    vec![
        Value::Int(status),
        Value::Int(i64::from(*attempts)),
        Value::MaybeInt(delay.map(millis)),
        Value::MaybeText(error),
        Value::MaybeBytes(rest.as_ref().map(|rest| &*rest.raw_data)),
        Value::MaybeInt(messages.map(|count| i64::try_from(count).unwrap_or(i64::MAX))),
    ]
}

fn read<DB: Database>(rows: &[DB::Row], limit: u32) -> sqlx::Result<Window> {
    let mut window = Window {
        full: rows.len() >= limit as usize,
        ..Window::default()
    };
    if let Some(first) = rows.first() {
        let age = DB::maybe_int(first, 2)?.unwrap_or_default();
        window.age = Some(Duration::from_millis(
            u64::try_from(age).unwrap_or_default(),
        ));
    }
    window.rows.reserve(rows.len());
    for row in rows {
        let Some(raw_data) = DB::maybe_bytes(row, 4)? else {
            window.full = true;
            continue;
        };
        window.last = DB::int(row, 1)?;
        // NULL in tables that the Go library made.
        let attempts = DB::maybe_int(row, 3)?.unwrap_or_default();
        let attempts = u32::try_from(attempts).unwrap_or_default();
        let id = DB::text(row, 0)?.to_owned();
        let raw_data = Bytes::copy_from_slice(raw_data);
        window.rows.push(Row::new(DRIVER, id, attempts, raw_data));
    }
    Ok(window)
}

/// For how many milliseconds a row has been there; NULL if nobody knows.
fn age(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => {
            "(EXTRACT(EPOCH FROM (clock_timestamp() AT TIME ZONE 'UTC') - insert_time) * 1000)::BIGINT"
        }
        Dialect::MySql => "TIMESTAMPDIFF(MICROSECOND, insert_time, SYSDATE(6)) DIV 1000",
        Dialect::Sqlite => {
            "CAST((unixepoch('subsec') - unixepoch(insert_time, 'subsec')) * 1000 AS INTEGER)"
        }
    }
}

/// The attempts, in the width they are read in: to try another costs an error for each row.
fn attempts(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "write_retries::BIGINT",
        Dialect::MySql | Dialect::Sqlite => "write_retries",
    }
}

/// The data as bytes. SQLite lets any value be in any column.
fn raw(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres | Dialect::MySql => "raw_data",
        Dialect::Sqlite => "CAST(raw_data AS BLOB)",
    }
}

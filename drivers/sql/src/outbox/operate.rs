//! What operators ask of an outbox.

use streams_core::Result;

use super::Outbox;
use crate::database::{Database, Sql, Value};
use crate::error::error;

/// A batch that the relay has set aside after too many attempts, or because it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// The batch, as [`Outbox::retry`] takes it.
    pub batch_id: String,
    /// How many messages it has.
    pub messages: u64,
    /// How often it was tried.
    pub attempts: u64,
    /// What went wrong the last time.
    pub error: Option<String>,
}

impl<DB: Database> Outbox<DB> {
    /// How many batches wait to be relayed, deferred ones among them. Those set aside are not counted.
    ///
    /// # Errors
    /// When the database cannot be reached or the table does not exist.
    pub async fn pending(&self) -> Result<u64> {
        let sql = format!(
            "SELECT COUNT(*) FROM {} WHERE status IN (0, 3)",
            self.quoted()
        );
        let rows = self.ask(&sql, "pending").await?;
        let count = rows.first().map_or(Ok(0), |row| DB::int(row, 0));
        let count = count.map_err(|source| self.failed(source, "pending"))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// The batches that were set aside, oldest first, at most `limit`.
    ///
    /// # Errors
    /// As [`pending`](Outbox::pending).
    pub async fn set_aside(&self, limit: u32) -> Result<Vec<SetAside>> {
        let sql = format!(
            "SELECT batch_id, message_count, write_retries, last_write_error FROM {} \
             WHERE status = 2 ORDER BY {} LIMIT {limit}",
            self.quoted(),
            self.sequence()
        );
        let rows = self.ask(&sql, "set_aside").await?;
        let batch = |row: &DB::Row| -> sqlx::Result<SetAside> {
            let count = |column| -> sqlx::Result<u64> {
                // NULL in rows that the Go library wrote, perhaps.
                let count = DB::maybe_int(row, column)?.unwrap_or_default();
                Ok(u64::try_from(count).unwrap_or_default())
            };
            Ok(SetAside {
                batch_id: DB::text(row, 0)?.to_owned(),
                messages: count(1)?,
                attempts: count(2)?,
                error: DB::maybe_text(row, 3)?.map(str::to_owned),
            })
        };
        let batches: sqlx::Result<_> = rows.iter().map(batch).collect();
        batches.map_err(|source| self.failed(source, "set_aside"))
    }

    /// Makes a batch that was set aside ready again, with all its attempts before it. `false` says
    /// that no such batch is set aside.
    ///
    /// # Errors
    /// As [`pending`](Outbox::pending).
    pub async fn retry(&self, batch_id: &str) -> Result<bool> {
        let sql = format!(
            "UPDATE {} SET status = 0, write_retries = 0, due = NULL \
             WHERE batch_id = ? AND status = 2",
            self.quoted()
        );
        let failed = |source| self.failed(source, "retry");
        let mut connection = self.pool().acquire().await.map_err(failed)?;
        let sql = Sql::new(DB::DIALECT, &sql);
        let changed = DB::execute(&mut connection, &sql, &[Value::Text(batch_id)]).await;
        let found = changed.map_err(failed)? > 0;
        if found {
            self.notify();
        }
        Ok(found)
    }

    async fn ask(&self, sql: &str, doing: &'static str) -> Result<Vec<DB::Row>> {
        let failed = |source| self.failed(source, doing);
        let mut connection = self.pool().acquire().await.map_err(failed)?;
        let rows = DB::fetch(&mut connection, &Sql::new(DB::DIALECT, sql), &[]).await;
        rows.map_err(failed)
    }

    fn failed(&self, source: sqlx::Error, doing: &'static str) -> streams_core::Error {
        error(source, doing).with("table", self.table())
    }
}

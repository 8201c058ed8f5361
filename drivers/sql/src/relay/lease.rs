//! Which relay is the active one: a row that it renews, by the clock of the database.

use std::time::Duration;

use streams_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::statement::{execute, millis};
use crate::DRIVER;
use crate::database::{Database, Dialect, Sql, Value};
use crate::outbox::Outbox;

/// A lease on an outbox, held or not.
pub(crate) struct Lease<DB: Database> {
    outbox: Outbox<DB>,
    name: String,
    owner: String,
    length: Duration,
    /// Until when it is surely held: counted from before the statement that took it.
    until: Option<Instant>,
    take: Sql,
    insert: Sql,
    renew: Sql,
    release: Sql,
}

impl<DB: Database> Lease<DB> {
    pub(crate) fn new(outbox: Outbox<DB>, length: Duration) -> Self {
        let (table, now) = (outbox.quoted_leases(), DB::DIALECT.now());
        let sql = |text: &str| Sql::new(DB::DIALECT, text);
        let (ignore, nothing) = match DB::DIALECT {
            Dialect::MySql => (" IGNORE", ""),
            Dialect::Postgres | Dialect::Sqlite => ("", " ON CONFLICT (name) DO NOTHING"),
        };
        Self {
            name: outbox.table().to_string(),
            owner: format!("{:032x}", fastrand::u128(..)),
            length,
            until: None,
            take: sql(&format!(
                "UPDATE {table} SET owner = ?, expires = {now} + ? \
                 WHERE name = ? AND (owner = ? OR expires <= {now})"
            )),
            insert: sql(&format!(
                "INSERT{ignore} INTO {table} (name, owner, expires) VALUES (?, ?, {now} + ?){nothing}"
            )),
            renew: sql(&format!(
                "UPDATE {table} SET expires = {now} + ? WHERE name = ? AND owner = ?"
            )),
            release: sql(&format!(
                "UPDATE {table} SET expires = 0 WHERE name = ? AND owner = ?"
            )),
            outbox,
        }
    }

    /// Takes the lease. `false` says that another one has it.
    pub(crate) async fn take(&mut self) -> Result<bool> {
        let from = Instant::now();
        let (name, owner) = (Value::Text(&self.name), Value::Text(&self.owner));
        let length = Value::Int(millis(self.length));
        let values = [owner, length, name, owner];
        let mut held = execute(&self.outbox, &self.take, &values, "lease").await? > 0;
        if !held && self.until.is_none() {
            let values = [name, owner, length];
            held = execute(&self.outbox, &self.insert, &values, "lease").await? > 0;
        }
        self.until = held.then(|| from + self.length);
        Ok(held)
    }

    /// Renews the lease if a third of it has gone.
    ///
    /// # Errors
    /// `LeaseLost` if another one has it, or has had it meanwhile: what this one knows of the rows is
    /// not true any more then.
    pub(crate) async fn keep(&mut self) -> Result<()> {
        let from = Instant::now();
        if self.renew_at() > from {
            return Ok(());
        }
        let (name, owner) = (Value::Text(&self.name), Value::Text(&self.owner));
        let values = [Value::Int(millis(self.length)), name, owner];
        if execute(&self.outbox, &self.renew, &values, "lease").await? > 0 {
            self.until = Some(from + self.length);
            return Ok(());
        }
        self.until = None;
        Err(Error::new(
            ErrorKind::LeaseLost,
            "another relay has taken over, because this one did not renew its lease in time",
        )
        .driver(DRIVER)
        .with("table", &self.name))
    }

    /// When [`keep`](Self::keep) will renew it.
    pub(crate) fn renew_at(&self) -> Instant {
        let until = self.until.unwrap_or_else(Instant::now);
        until.checked_sub(self.length * 2 / 3).unwrap_or(until)
    }

    /// Whether it is surely held now.
    pub(crate) fn is_held(&self) -> bool {
        self.until.is_some_and(|until| until > Instant::now())
    }

    /// Lets go of it, if it is held.
    pub(crate) async fn release(&mut self) -> Result<()> {
        if self.until.take().is_some() {
            let values = [Value::Text(&self.name), Value::Text(&self.owner)];
            execute(&self.outbox, &self.release, &values, "release").await?;
        }
        Ok(())
    }
}

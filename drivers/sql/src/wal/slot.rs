//! Publication and slot: what PostgreSQL keeps for a reader of its log.

use pgwire_replication::Lsn;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _};
use streams_core::{Error, ErrorKind, Result};

use super::DOING;
use super::error::not_allowed;
use crate::DRIVER;
use crate::database::{Dialect, Sql, Value};
use crate::error::error;
use crate::outbox::Outbox;
use crate::relay::statement::{execute, fetch};

/// Publication and slot of a relay.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) outbox: Outbox<Postgres>,
    pub(super) publication: String,
    pub(super) slot: String,
    /// Whether they are made where they are missing.
    pub(super) manage: bool,
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// Somebody else reads the slot.
    Busy,
    Free(Start),
}

/// From where to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// The table's number in the database.
    pub(super) table: u32,
    /// What was confirmed last.
    pub(super) confirmed: Lsn,
    /// The slot was made now.
    pub(super) created: bool,
    /// What was in the table before the slot has not all gone out yet. It does not come from the slot.
    pub(super) new: bool,
}

/// How a slot stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) active: bool,
    /// How many bytes of log the server keeps that were not confirmed.
    pub(super) lag: i64,
}

struct Existing {
    active: bool,
    lost: bool,
    confirmed: Lsn,
}

impl Slot {
    /// Sees that publication and slot are there and fit. `anew` says that the slot is of no use as it
    /// is.
    ///
    /// # Errors
    /// - `NotFound` if one of them, or the table, is missing and not to be made.
    /// - `InvalidConfig` if the server or one of them is set up in a way that cannot work.
    /// - `Permission`.
    pub(super) async fn set_up(&self, anew: bool) -> Result<Found> {
        self.outbox.check().await?;
        // Making a slot waits for transactions that run. A connection of its own ends with the relay.
        let options = self.outbox.pool().connect_options();
        let connection = PgConnection::connect_with(&options).await;
        let mut connection = connection.map_err(|source| self.failed(source))?;
        let done = self.set_up_on(&mut connection, anew).await;
        connection.close().await.ok();
        done
    }

    async fn set_up_on(&self, connection: &mut PgConnection, anew: bool) -> Result<Found> {
        let row = sqlx::query("SELECT current_setting('wal_level'), to_regclass($1)::oid::BIGINT")
            .bind(self.outbox.quoted())
            .fetch_one(&mut *connection)
            .await;
        let columns = row.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        let (level, table): (String, Option<i64>) =
            columns.map_err(|source| self.failed(source))?;
        let Some(table) = table else {
            let problem =
                "the table does not exist; call `migrate`, or run the SQL files of this crate";
            return Err(self.error(ErrorKind::NotFound, problem));
        };
        if level != "logical" {
            return Err(self
                .error(
                    ErrorKind::InvalidConfig,
                    "the server does not write what logical replication needs; set `wal_level = \
                     logical` in postgresql.conf and restart it, or use the relay that polls",
                )
                .with("wal_level", level));
        }
        let published = self.publication(connection, table).await?;
        let existing = self.existing(connection).await?;
        let (existing, problem) = match existing {
            Some(slot) if slot.active => return Ok(Found::Busy),
            // What was published before a publication was made cannot be told.
            Some(slot) if slot.lost || published || anew => {
                (None, Some("the slot is of no use any more"))
            }
            Some(slot) => (Some(slot), None),
            None => (None, None),
        };
        let created = existing.is_none();
        let confirmed = match existing {
            Some(slot) => slot.confirmed,
            None => {
                // First: if the relay ends while the slot is made, the server may make it all the same.
                self.forget_sweep().await?;
                if let Some(problem) = problem {
                    self.drop_slot(connection, problem).await?;
                }
                self.create_slot(connection).await?
            }
        };
        let new = !self.was_swept().await?;
        let table = u32::try_from(table).unwrap_or_default();
        Ok(Found::Free(Start {
            table,
            confirmed,
            created,
            new,
        }))
    }

    /// Whether all that was in the table before the slot has gone out.
    async fn was_swept(&self) -> Result<bool> {
        let sql = format!("SELECT name FROM {} WHERE name = ?", self.leases());
        let sql = Sql::new(Dialect::Postgres, &sql);
        let name = self.sweep();
        let rows = fetch(&self.outbox, &sql, &[Value::Text(&name)], DOING).await?;
        Ok(!rows.is_empty())
    }

    async fn forget_sweep(&self) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE name = ?", self.leases());
        self.execute(&sql).await
    }

    /// Remembers that all that was in the table before the slot has gone out.
    pub(super) async fn remember_sweep(&self) -> Result<()> {
        let sql = format!(
            "INSERT INTO {} (name, owner, expires) VALUES (?, '', 0) ON CONFLICT (name) DO NOTHING",
            self.leases()
        );
        self.execute(&sql).await
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        let sql = Sql::new(Dialect::Postgres, sql);
        let name = self.sweep();
        let done = execute(&self.outbox, &sql, &[Value::Text(&name)], DOING).await;
        done.map(drop)
    }

    /// The name of its row, among the leases of relays. Those are names of tables, without spaces.
    fn sweep(&self) -> String {
        format!("{} slot {}", self.outbox.table(), self.slot)
    }

    fn leases(&self) -> String {
        self.outbox.quoted_leases()
    }

    /// Sees to the publication; says whether it was made now.
    async fn publication(&self, connection: &mut PgConnection, table: i64) -> Result<bool> {
        let sql = "SELECT p.pubinsert, EXISTS (\
                     SELECT 1 FROM pg_publication_tables t \
                     JOIN pg_namespace n ON n.nspname = t.schemaname \
                     JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
                     WHERE t.pubname = p.pubname AND c.oid = $2) \
                   FROM pg_publication p WHERE p.pubname = $1";
        let found = sqlx::query(sql)
            .bind(&self.publication)
            .bind(sqlx::postgres::types::Oid(
                u32::try_from(table).unwrap_or_default(),
            ))
            .fetch_optional(&mut *connection)
            .await;
        let columns = |row: sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
        let found: sqlx::Result<Option<(bool, bool)>> =
            found.and_then(|row| row.map(columns).transpose());
        let publication = Dialect::Postgres.quote(&self.publication);
        let table = self.outbox.quoted();
        let (sql, new) = match found.map_err(|source| self.failed(source))? {
            Some((false, _)) => {
                return Err(self.error(
                    ErrorKind::InvalidConfig,
                    format!(
                        "the publication leaves out inserts; run `ALTER PUBLICATION {publication} SET \
                         (publish = 'insert, update')`"
                    ),
                ));
            }
            Some((true, true)) => return Ok(false),
            Some((true, false)) => (
                format!("ALTER PUBLICATION {publication} ADD TABLE {table}"),
                false,
            ),
            None => (
                // Updates tell of rows that were set aside and are to be tried again.
                format!(
                    "CREATE PUBLICATION {publication} FOR TABLE {table} \
                     WITH (publish = 'insert, update')"
                ),
                true,
            ),
        };
        if !self.manage {
            return Err(self.error(
                ErrorKind::NotFound,
                format!("the table is not published; run `{sql}`, or let the relay `manage` it"),
            ));
        }
        match sqlx::query(AssertSqlSafe(sql.clone()))
            .execute(&mut *connection)
            .await
        {
            Ok(_) => {
                tracing::info!(publication = self.publication, %table, "published the outbox");
                Ok(new)
            }
            // Another relay was faster.
            Err(source) if is(&source, &["42710", "23505"]) => Ok(false),
            Err(source) if is(&source, &["42501"]) => Err(self
                .error(
                    ErrorKind::Permission,
                    format!("the user may not publish the table; let its owner run `{sql}`"),
                )
                .source(source)),
            Err(source) => Err(self.failed(source)),
        }
    }

    async fn existing(&self, connection: &mut PgConnection) -> Result<Option<Existing>> {
        let sql = "SELECT COALESCE(plugin, ''), COALESCE(database, '') = current_database(), \
                   active_pid IS NOT NULL, COALESCE(wal_status, '') = 'lost', \
                   COALESCE(confirmed_flush_lsn::text, '') \
                   FROM pg_replication_slots WHERE slot_name = $1";
        let row = sqlx::query(sql)
            .bind(&self.slot)
            .fetch_optional(&mut *connection)
            .await
            .map_err(|source| self.failed(source))?;
        let Some(row) = row else { return Ok(None) };
        let columns = || -> sqlx::Result<(String, bool, bool, bool, String)> {
            Ok((
                row.try_get(0)?,
                row.try_get(1)?,
                row.try_get(2)?,
                row.try_get(3)?,
                row.try_get(4)?,
            ))
        };
        let (plugin, here, active, lost, confirmed) =
            columns().map_err(|source| self.failed(source))?;
        if plugin != "pgoutput" || !here {
            return Err(self.error(
                ErrorKind::InvalidConfig,
                "there is a slot of that name for something else: it must be of this database and of \
                 the plugin `pgoutput`; take another name",
            ));
        }
        Ok(Some(Existing {
            active,
            lost,
            confirmed: Lsn::parse(&confirmed).unwrap_or_default(),
        }))
    }

    async fn drop_slot(&self, connection: &mut PgConnection, problem: &str) -> Result<()> {
        if !self.manage {
            return Err(self.error(
                ErrorKind::NotFound,
                format!(
                    "{problem}; run `SELECT pg_drop_replication_slot('{0}')`, then `SELECT \
                     pg_create_logical_replication_slot('{0}', 'pgoutput')`, or let the relay \
                     `manage` it. What is in the table is forwarded then: nothing is lost",
                    self.slot
                ),
            ));
        }
        tracing::error!(
            slot = self.slot,
            "{problem}; it is made anew, and what is in the table is forwarded: nothing is lost"
        );
        let sql = "SELECT pg_drop_replication_slot($1)";
        let done = sqlx::query(sql).bind(&self.slot).execute(connection).await;
        match done {
            Err(source) if !is(&source, &["42704"]) => Err(self.failed(source)),
            _ => Ok(()),
        }
    }

    /// Makes the slot; says from where it tells.
    async fn create_slot(&self, connection: &mut PgConnection) -> Result<Lsn> {
        let create = format!(
            "SELECT pg_create_logical_replication_slot('{}', 'pgoutput')",
            self.slot
        );
        if !self.manage {
            return Err(self.error(
                ErrorKind::NotFound,
                format!(
                    "the slot does not exist; run `{create}`, or let the relay `manage` it. What is \
                     in the table is forwarded then: nothing is lost"
                ),
            ));
        }
        tracing::info!(
            slot = self.slot,
            "making the slot; this waits for the end of transactions that run"
        );
        let sql = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')";
        let row = sqlx::query(sql)
            .bind(&self.slot)
            .fetch_one(connection)
            .await;
        match row.and_then(|row| row.try_get::<String, _>(0)) {
            Ok(position) => Ok(Lsn::parse(&position).unwrap_or_default()),
            // Another relay was faster; it has the slot soon.
            Err(source) if is(&source, &["42710"]) => {
                Err(self.error(ErrorKind::Conflict, "another relay has just made the slot"))
            }
            Err(source) if is(&source, &["42501"]) => {
                let (kind, problem) = not_allowed();
                Err(self.error(kind, problem).source(source))
            }
            Err(source) if is(&source, &["53400"]) => Err(self
                .error(
                    ErrorKind::InvalidConfig,
                    "the server has no slot left; raise `max_replication_slots` and restart it, or \
                     drop a slot that nobody uses",
                )
                .source(source)),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// How the slot stands; `None` if it does not exist.
    pub(super) async fn standing(&self) -> Result<Option<Standing>> {
        let sql = "SELECT active_pid IS NOT NULL, \
                   pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::BIGINT \
                   FROM pg_replication_slots WHERE slot_name = $1";
        let row = sqlx::query(sql)
            .bind(&self.slot)
            .fetch_optional(self.outbox.pool())
            .await;
        let standing = |row: sqlx::postgres::PgRow| -> sqlx::Result<Standing> {
            Ok(Standing {
                active: row.try_get(0)?,
                lag: row.try_get::<Option<i64>, _>(1)?.unwrap_or_default().max(0),
            })
        };
        let standing = row.and_then(|row| row.map(standing).transpose());
        standing.map_err(|source| self.failed(source))
    }

    fn error(&self, kind: ErrorKind, problem: impl Into<String>) -> Error {
        Error::new(kind, problem)
            .operation(DOING)
            .driver(DRIVER)
            .with("slot", &self.slot)
            .with("publication", &self.publication)
    }

    fn failed(&self, source: sqlx::Error) -> Error {
        error(source, DOING).with("slot", &self.slot)
    }
}

fn is(source: &sqlx::Error, codes: &[&str]) -> bool {
    let code = source
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| codes.contains(&&*code))
}

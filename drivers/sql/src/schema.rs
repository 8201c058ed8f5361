//! Tables: how they are made, upgraded and checked.
//!
//! The SQL is in files that a person can run by hand, with default names; here they are put in place
//! of those. What is there in which version stands in the table `streams_schema`, beside the tables.

use sqlx::{AssertSqlSafe, Connection as _, Pool};
use streams_core::{Error, ErrorKind, Result};

use crate::DRIVER;
use crate::database::{Database, Dialect, Sql, Value};
use crate::error::error;
use crate::table::TableName;

/// Tables that are made together, and have a version together.
#[derive(Debug)]
pub(crate) struct Schema {
    /// The version that this crate works with.
    pub(crate) version: i64,
    /// The name in the files that the user's own takes the place of. Whatever begins with it and an
    /// underscore is named after the user's too.
    pub(crate) name: &'static str,
    /// Tables in the files that begin with [`name`](Self::name), without that name itself.
    pub(crate) tables: &'static [&'static str],
    /// What makes the tables. It does nothing where they are there already.
    pub(crate) create: PerDialect,
    /// What adds columns to a table [`name`](Self::name) made by others: lines of
    /// `ALTER TABLE … ADD COLUMN …;`, of which those are run whose column is missing.
    pub(crate) columns: Option<PerDialect>,
}

/// A file for each database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerDialect {
    pub(crate) postgres: &'static str,
    pub(crate) mysql: &'static str,
    pub(crate) sqlite: &'static str,
}

impl PerDialect {
    fn of(self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Postgres => self.postgres,
            Dialect::MySql => self.mysql,
            Dialect::Sqlite => self.sqlite,
        }
    }
}

/// What is shared by all that is in one schema of the database, and never renamed.
const SHARED: [&str; 3] = ["streams_schema", "streams_relay", "streams_notify"];

/// Makes the tables, or brings them to this version. Several may do so at once; they take turns.
///
/// # Errors
/// `InvalidConfig` when the tables are of a newer version; they are left as they are.
pub(crate) async fn migrate<DB: Database>(
    pool: &Pool<DB>,
    table: &TableName,
    schema: &Schema,
) -> Result<()> {
    let failed = |source| error(source, "migrate").with("table", table);
    match DB::DIALECT {
        // Here a statement that makes a table ends the transaction, so it cannot hold the lock. The
        // session does; if this is dropped, its connection is closed, not given back with the lock.
        Dialect::MySql => {
            let mut connection = pool.acquire().await.map_err(failed)?.detach();
            take_turns::<DB>(&mut connection).await.map_err(failed)?;
            let done = migrate_in::<DB>(&mut connection, table, schema).await;
            connection.close().await.map_err(failed)?;
            done
        }
        Dialect::Postgres | Dialect::Sqlite => {
            let begin = AssertSqlSafe(begin_to_write(DB::DIALECT));
            let mut transaction = pool.begin_with(begin).await.map_err(failed)?;
            take_turns::<DB>(&mut transaction).await.map_err(failed)?;
            migrate_in::<DB>(&mut transaction, table, schema).await?;
            transaction.commit().await.map_err(failed)
        }
    }
}

/// What begins a transaction that will write. SQLite has one writer at a time: who has read before
/// cannot wait for the turn any more, so it is taken at once.
pub(crate) fn begin_to_write(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres | Dialect::MySql => "BEGIN",
        Dialect::Sqlite => "BEGIN IMMEDIATE",
    }
}

async fn take_turns<DB: Database>(connection: &mut DB::Connection) -> sqlx::Result<()> {
    let lock = match DB::DIALECT {
        Dialect::Postgres => "SELECT pg_advisory_xact_lock(7310305806325310060)",
        Dialect::MySql => "SELECT GET_LOCK('streams_migrate', 600)",
        Dialect::Sqlite => return Ok(()),
    };
    DB::run(connection, &Sql::new(DB::DIALECT, lock)).await
}

async fn migrate_in<DB: Database>(
    connection: &mut DB::Connection,
    table: &TableName,
    schema: &Schema,
) -> Result<()> {
    let failed = |source| error(source, "migrate").with("table", table);
    if has_table::<DB>(connection, &table.sibling("streams_schema"))
        .await
        .map_err(failed)?
        && let Some(version) = version::<DB>(connection, table).await.map_err(failed)?
        && version >= schema.version
    {
        return compare(version, table, schema);
    }
    if let Some(columns) = schema.columns
        && has_table::<DB>(connection, table).await.map_err(failed)?
    {
        let there = columns_of::<DB>(connection, table).await.map_err(failed)?;
        for line in columns.of(DB::DIALECT).lines() {
            if added_column(line).is_some_and(|column| !there.iter().any(|c| c == column)) {
                run::<DB>(connection, line, table, schema)
                    .await
                    .map_err(failed)?;
            }
        }
    }
    let create = schema.create.of(DB::DIALECT);
    run::<DB>(connection, create, table, schema)
        .await
        .map_err(failed)?;
    tracing::info!(%table, version = schema.version, "the tables are of this version now");
    Ok(())
}

/// The column that a line adds.
fn added_column(line: &str) -> Option<&str> {
    let (_, column) = line.split_once(" ADD COLUMN ")?;
    column.split(' ').next()
}

/// Checks that the tables are there, in the version that this crate works with.
///
/// # Errors
/// `NotFound` when they are not there, `InvalidConfig` when they are of another version.
pub(crate) async fn check<DB: Database>(
    connection: &mut DB::Connection,
    table: &TableName,
    schema: &Schema,
) -> Result<()> {
    let version = match version::<DB>(connection, table).await {
        Ok(version) => version,
        Err(source) => {
            let error = error(source, "check");
            if error.kind() == ErrorKind::NotFound {
                None
            } else {
                return Err(error.with("table", table));
            }
        }
    };
    match version {
        Some(version) => compare(version, table, schema),
        None => Err(Error::new(
            ErrorKind::NotFound,
            "the tables are not there; call `migrate`, or run the SQL files of this crate",
        )
        .driver(DRIVER)
        .with("table", table)),
    }
}

fn compare(version: i64, table: &TableName, schema: &Schema) -> Result<()> {
    let problem = match version.cmp(&schema.version) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => {
            "the tables are of an older version; call `migrate`, or run the SQL files of this crate"
        }
        std::cmp::Ordering::Greater => {
            "the tables are of a newer version; take a newer version of this crate"
        }
    };
    Err(Error::new(ErrorKind::InvalidConfig, problem)
        .driver(DRIVER)
        .with("table", table)
        .with("version", version)
        .with("expected", schema.version))
}

async fn version<DB: Database>(
    connection: &mut DB::Connection,
    table: &TableName,
) -> sqlx::Result<Option<i64>> {
    let versions = table.sibling("streams_schema").quoted(DB::DIALECT);
    let sql = format!("SELECT version FROM {versions} WHERE name = ?");
    let sql = Sql::new(DB::DIALECT, &sql);
    let rows = DB::fetch(connection, &sql, &[Value::Text(&table.to_string())]).await?;
    rows.first().map(|row| DB::int(row, 0)).transpose()
}

async fn has_table<DB: Database>(
    connection: &mut DB::Connection,
    table: &TableName,
) -> sqlx::Result<bool> {
    Ok(!columns_of::<DB>(connection, table).await?.is_empty())
}

/// The names of a table's columns; none if there is no such table.
async fn columns_of<DB: Database>(
    connection: &mut DB::Connection,
    table: &TableName,
) -> sqlx::Result<Vec<String>> {
    let quoted = table.quoted(DB::DIALECT);
    let (sql, mut values) = match DB::DIALECT {
        Dialect::Postgres => (
            "SELECT attname::text FROM pg_attribute \
             WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped",
            vec![Value::Text(&quoted)],
        ),
        Dialect::MySql => (
            "SELECT CAST(column_name AS CHAR) FROM information_schema.columns \
             WHERE table_name = ? AND table_schema = COALESCE(?, DATABASE())",
            vec![Value::Text(table.base())],
        ),
        Dialect::Sqlite => (
            "SELECT name FROM pragma_table_info(?)",
            vec![Value::Text(table.base())],
        ),
    };
    if DB::DIALECT == Dialect::MySql {
        values.push(Value::MaybeText(table.schema()));
    }
    let rows = DB::fetch(connection, &Sql::new(DB::DIALECT, sql), &values).await?;
    let names = rows.iter().map(|row| DB::text(row, 0).map(str::to_owned));
    names.collect()
}

async fn run<DB: Database>(
    connection: &mut DB::Connection,
    text: &str,
    table: &TableName,
    schema: &Schema,
) -> sqlx::Result<()> {
    let text = rename(text, table, schema, DB::DIALECT);
    DB::run(connection, &Sql::new(DB::DIALECT, &text)).await
}

/// Puts the user's names in place of those in a file.
fn rename(text: &str, table: &TableName, schema: &Schema, dialect: Dialect) -> String {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut renamed = String::with_capacity(text.len() + 256);
    let mut rest = text;
    while let Some(start) = rest.find(in_name) {
        let (before, from) = rest.split_at(start);
        renamed.push_str(before);
        let end = from.find(|c| !in_name(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        rest = after;
        let ending = name.strip_prefix(schema.name);
        renamed.push_str(&match ending {
            Some("") if before.ends_with('\'') => table.to_string(),
            Some("") => table.quoted(dialect),
            Some(ending) if schema.tables.contains(&name) => {
                table.with_ending(ending).quoted(dialect)
            }
            Some(ending) if ending.starts_with('_') => {
                dialect.quote(&format!("{}{ending}", table.base()))
            }
            _ if SHARED.contains(&name) => table.sibling(name).quoted(dialect),
            _ => name.to_owned(),
        });
    }
    renamed.push_str(rest);
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema = Schema {
        version: 1,
        name: "streams_egress",
        tables: &["streams_egress_more"],
        create: PerDialect {
            postgres: "",
            mysql: "",
            sqlite: "",
        },
        columns: None,
    };

    #[test]
    fn names_are_put_in_place() {
        let table = TableName::new("events.mine").unwrap();
        let text = "CREATE INDEX streams_egress_ready ON streams_egress (status);\n\
                    INSERT INTO streams_schema VALUES ('streams_egress', streams_egressed);\n\
                    DROP TABLE streams_egress_more";
        assert_eq!(
            rename(text, &table, &SCHEMA, Dialect::Postgres),
            "CREATE INDEX \"mine_ready\" ON \"events\".\"mine\" (status);\n\
             INSERT INTO \"events\".\"streams_schema\" VALUES ('events.mine', streams_egressed);\n\
             DROP TABLE \"events\".\"mine_more\""
        );
    }

    #[test]
    fn the_column_of_a_line_is_known() {
        let line = "ALTER TABLE streams_egress ADD COLUMN due BIGINT NULL;";
        assert_eq!(added_column(line), Some("due"));
        assert_eq!(added_column("-- a comment"), None);
    }
}

//! What the databases have in common, so that everything else is written once.
//!
//! Statements are written with `?` for values and table names in place; [`Sql`] makes them the
//! database's own. Where the databases differ in more than that, the code asks for the [`Dialect`].
//! Times are milliseconds since 1970 in `BIGINT` columns, by the clock of the database: relays and
//! readers on machines whose clocks differ still agree.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::Arc;

use sqlx::AssertSqlSafe;
#[cfg(feature = "mysql")]
pub use sqlx::MySql;
#[cfg(feature = "postgres")]
pub use sqlx::Postgres;
#[cfg(feature = "sqlite")]
pub use sqlx::Sqlite;

/// A database this crate works with: [`Postgres`], [`MySql`] (MariaDB too) or [`Sqlite`], each with
/// the feature of its name.
///
/// It is implemented for these alone.
pub trait Database: Backend {}

/// Which SQL a database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MariaDB and MySQL.
    MySql,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// The time by the database's clock, in milliseconds since 1970. Within a transaction it goes on.
    pub fn now(self) -> &'static str {
        match self {
            Self::Postgres => "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT",
            Self::MySql => "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        }
    }

    /// A name as an identifier, quoted.
    pub fn quote(self, name: &str) -> String {
        match self {
            Self::MySql => format!("`{}`", name.replace('`', "``")),
            Self::Postgres | Self::Sqlite => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// What keeps rows for this transaction alone and leaves out those another one keeps. SQLite has
    /// one writer at a time and needs none.
    pub fn skip_locked(self) -> &'static str {
        match self {
            Self::Postgres | Self::MySql => " FOR UPDATE SKIP LOCKED",
            Self::Sqlite => "",
        }
    }

    /// What follows the `BEGIN` of a transaction that reads the first rows of an index. PostgreSQL goes
    /// by statistics, which tell of the few rows there were when it last looked: it would read and sort
    /// all that have come since, for each batch again.
    pub(crate) fn along_the_index(self) -> &'static str {
        match self {
            Self::Postgres => {
                "; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off; \
                 SET LOCAL enable_seqscan = off"
            }
            Self::MySql | Self::Sqlite => "",
        }
    }
}

/// A statement in the words of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sql(Arc<str>);

impl Sql {
    /// From text with `?` for each value, in order. Text in quotes must not contain any.
    pub fn new(dialect: Dialect, text: &str) -> Self {
        if dialect != Dialect::Postgres {
            return Self(text.into());
        }
        let mut sql = String::with_capacity(text.len() + 16);
        let mut number = 0;
        for c in text.chars() {
            sql.push(match c {
                '?' => {
                    number += 1;
                    sql.push('$');
                    sql.push_str(&number.to_string());
                    continue;
                }
                c => c,
            });
        }
        Self(sql.into())
    }

    /// The text. What it is made of is ours: constants, numbers and validated, quoted table names.
    pub(crate) fn text(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(self.0.clone())
    }
}

/// A value for a `?`.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// A whole number, also for booleans of MySQL and SQLite.
    Int(i64),
    /// A whole number or NULL.
    MaybeInt(Option<i64>),
    /// Text.
    Text(&'a str),
    /// Text or NULL.
    MaybeText(Option<&'a str>),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Bytes or NULL.
    MaybeBytes(Option<&'a [u8]>),
    /// A list of texts: an array of PostgreSQL, for the others JSON. One value however many there are,
    /// so that the statement stays the same.
    List(&'a [&'a str]),
}

/// What is done to a database, by the one for it. An implementation detail of [`Database`].
pub trait Backend: sqlx::Database {
    /// Which SQL it speaks.
    const DIALECT: Dialect;

    /// Runs a statement; returns how many rows it changed.
    fn execute(
        connection: &mut Self::Connection,
        sql: &Sql,
        values: &[Value<'_>],
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Runs statements without values, separated by semicolons.
    fn run(
        connection: &mut Self::Connection,
        sql: &Sql,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Runs a statement; returns its rows.
    fn fetch(
        connection: &mut Self::Connection,
        sql: &Sql,
        values: &[Value<'_>],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Row>>> + Send;

    /// A column of whole numbers of any width, by its place, counted from 0.
    fn int(row: &Self::Row, column: usize) -> sqlx::Result<i64>;

    /// A column of whole numbers of any width, or NULL.
    fn maybe_int(row: &Self::Row, column: usize) -> sqlx::Result<Option<i64>>;

    /// A column of text.
    fn text(row: &Self::Row, column: usize) -> sqlx::Result<&str>;

    /// A column of text or NULL.
    fn maybe_text(row: &Self::Row, column: usize) -> sqlx::Result<Option<&str>>;

    /// A column of bytes.
    fn bytes(row: &Self::Row, column: usize) -> sqlx::Result<&[u8]>;

    /// A column of bytes or NULL.
    fn maybe_bytes(row: &Self::Row, column: usize) -> sqlx::Result<Option<&[u8]>>;
}

/// A list of texts as the databases without arrays take it.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
fn json(list: &[&str]) -> String {
    serde_json::Value::from(list).to_string()
}

/// Implements [`Backend`] for one database. The bodies are the same; generic code would have to name
/// a dozen bounds at each function instead.
macro_rules! backend {
    ($database:ty, $dialect:ident, $list:expr) => {
        impl $crate::database::Database for $database {}

        impl $crate::database::Backend for $database {
            const DIALECT: $crate::database::Dialect = $crate::database::Dialect::$dialect;

            async fn execute(
                connection: &mut Self::Connection,
                sql: &$crate::database::Sql,
                values: &[$crate::database::Value<'_>],
            ) -> sqlx::Result<u64> {
                let done = sqlx::query_with(sql.text(), bind(values)?)
                    .execute(connection)
                    .await?;
                Ok(done.rows_affected())
            }

            async fn run(
                connection: &mut Self::Connection,
                sql: &$crate::database::Sql,
            ) -> sqlx::Result<()> {
                sqlx::raw_sql(sql.text()).execute(connection).await?;
                Ok(())
            }

            async fn fetch(
                connection: &mut Self::Connection,
                sql: &$crate::database::Sql,
                values: &[$crate::database::Value<'_>],
            ) -> sqlx::Result<Vec<Self::Row>> {
                sqlx::query_with(sql.text(), bind(values)?)
                    .fetch_all(connection)
                    .await
            }

            fn int(row: &Self::Row, column: usize) -> sqlx::Result<i64> {
                use sqlx::Row as _;
                row.try_get(column)
                    .or_else(|_| row.try_get::<i32, _>(column).map(i64::from))
                    .or_else(|_| row.try_get::<i16, _>(column).map(i64::from))
            }

            fn maybe_int(row: &Self::Row, column: usize) -> sqlx::Result<Option<i64>> {
                use sqlx::Row as _;
                row.try_get(column)
                    .or_else(|_| Ok(row.try_get::<Option<i32>, _>(column)?.map(i64::from)))
                    .or_else(|_: sqlx::Error| {
                        Ok(row.try_get::<Option<i16>, _>(column)?.map(i64::from))
                    })
            }

            fn text(row: &Self::Row, column: usize) -> sqlx::Result<&str> {
                sqlx::Row::try_get(row, column)
            }

            fn maybe_text(row: &Self::Row, column: usize) -> sqlx::Result<Option<&str>> {
                sqlx::Row::try_get(row, column)
            }

            fn bytes(row: &Self::Row, column: usize) -> sqlx::Result<&[u8]> {
                sqlx::Row::try_get(row, column)
            }

            fn maybe_bytes(row: &Self::Row, column: usize) -> sqlx::Result<Option<&[u8]>> {
                sqlx::Row::try_get(row, column)
            }
        }

        fn bind(
            values: &[$crate::database::Value<'_>],
        ) -> sqlx::Result<<$database as sqlx::Database>::Arguments> {
            use sqlx::Arguments as _;
            use $crate::database::Value;
            let mut bound = <$database as sqlx::Database>::Arguments::default();
            for value in values {
                match *value {
                    Value::Int(value) => bound.add(value),
                    Value::MaybeInt(value) => bound.add(value),
                    Value::Text(value) => bound.add(value),
                    Value::MaybeText(value) => bound.add(value),
                    Value::Bytes(value) => bound.add(value),
                    Value::MaybeBytes(value) => bound.add(value),
                    Value::List(value) => bound.add($list(value)),
                }
                .map_err(sqlx::Error::Encode)?;
            }
            Ok(bound)
        }
    };
}
use backend;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_for_postgres() {
        let text = "DELETE FROM t WHERE a = ? AND b = ?";
        assert_eq!(
            &*Sql::new(Dialect::Postgres, text).0,
            "DELETE FROM t WHERE a = $1 AND b = $2"
        );
        assert_eq!(&*Sql::new(Dialect::Sqlite, text).0, text);
    }
}

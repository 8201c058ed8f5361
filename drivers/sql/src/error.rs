//! The database's errors as those of the core.

use streams_core::{Error, ErrorKind, WriteError};

use crate::DRIVER;

/// The error of a call to the database. `doing` names the operation that failed, such as `write`.
pub(crate) fn error(source: sqlx::Error, doing: &'static str) -> Error {
    let (kind, message) = kind(&source);
    let error = Error::new(kind, message).operation(doing).driver(DRIVER);
    match &source {
        // The text of these may hold a URL, with its password.
        sqlx::Error::Configuration(_) => error,
        _ => error.source(source),
    }
}

/// The error of a batch of which messages from `first` on failed for one reason.
pub(crate) fn all_from(first: usize, count: usize, reason: Error) -> WriteError {
    let (kind, retryable) = (reason.kind(), reason.is_retryable());
    let mut reason = Some(reason);
    let mut next = || {
        reason.take().unwrap_or_else(|| {
            Error::new(kind, "not written, for the same reason as the one before")
                .retryable(retryable)
                .operation("write")
                .driver(DRIVER)
        })
    };
    WriteError::new((first..count).map(|index| (index, next())).collect())
}

fn kind(source: &sqlx::Error) -> (ErrorKind, &'static str) {
    use sqlx::Error as E;
    match source {
        E::Database(error) => of_code(error.code().as_deref().unwrap_or_default(), error.message()),
        E::Io(_) | E::PoolTimedOut | E::WorkerCrashed | E::BeginFailed => (
            ErrorKind::Unavailable,
            "the database cannot be reached; see that it is up and that the pool has connections left",
        ),
        E::Tls(_) => (
            ErrorKind::Permission,
            "the TLS handshake with the database fails; check the certificates",
        ),
        E::PoolClosed => (
            ErrorKind::Closed,
            "the pool of connections was closed; open a new one",
        ),
        E::Configuration(_) => (
            ErrorKind::InvalidConfig,
            "the database's URL or options are wrong; correct them",
        ),
        E::Protocol(_) => (
            ErrorKind::Unavailable,
            "the connection to the database broke; it is opened anew",
        ),
        E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } | E::ColumnDecode { .. } => (
            ErrorKind::InvalidConfig,
            "a table has other columns than it should; run the migrations",
        ),
        _ => (ErrorKind::Other, "the database failed; see the cause"),
    }
}

/// PostgreSQL and MySQL name errors by `SQLSTATE`, SQLite by numbers of its own.
fn of_code(code: &str, text: &str) -> (ErrorKind, &'static str) {
    match code {
        "42P01" | "42S02" | "3F000" => missing_table(),
        "1" if text.contains("no such table") => missing_table(),
        "42703" | "42S22" => wrong_columns(),
        "1" if text.contains("no such column") || text.contains("has no column") => wrong_columns(),
        "42501" | "42000" if text.contains("denied") => not_allowed(),
        "28P01" | "28000" => (
            ErrorKind::Permission,
            "the database refuses the credentials; check user and password",
        ),
        "8" | "23" => (
            ErrorKind::Permission,
            "the database is read-only or may not be opened; check the file's permissions",
        ),
        "25P02" => (
            ErrorKind::Conflict,
            "a statement of this transaction has failed; roll it back and begin another",
        ),
        "08S01" if text.contains("max_allowed_packet") => (
            ErrorKind::TooLarge,
            "the row is larger than the server takes; lower `largest_row` or raise the server's \
             `max_allowed_packet`",
        ),
        "40001" | "40P01" | "5" | "6" | "517" | "261" | "HY000" if is_lock(code, text) => (
            ErrorKind::Conflict,
            "another transaction was in the way; try again",
        ),
        "57P01" | "57P02" | "57P03" | "08000" | "08003" | "08006" | "53300" | "08S01" => (
            ErrorKind::Unavailable,
            "the database shuts down, starts up or has no connection left; it is tried again",
        ),
        "53100" | "13" => (ErrorKind::Full, "the database's disk is full; make room"),
        "23505" | "23000" | "2067" | "1555" => {
            (ErrorKind::Conflict, "there is a row with that key already")
        }
        _ => (
            ErrorKind::Other,
            "the database refused a statement; see the cause",
        ),
    }
}

fn is_lock(code: &str, text: &str) -> bool {
    code != "HY000" || text.contains("lock wait timeout") || text.contains("Lock wait timeout")
}

fn missing_table() -> (ErrorKind, &'static str) {
    (
        ErrorKind::NotFound,
        "the table does not exist; call `migrate`, or run the SQL files of this crate",
    )
}

fn wrong_columns() -> (ErrorKind, &'static str) {
    (
        ErrorKind::InvalidConfig,
        "the table is of another version; call `migrate`, or run the SQL files of this crate",
    )
}

fn not_allowed() -> (ErrorKind, &'static str) {
    (
        ErrorKind::Permission,
        "the user may not do this on the table; grant it",
    )
}

//! Errors of the replication connection as those of the core.

use pgwire_replication::PgWireError;
use streams_core::{Error, ErrorKind};

use super::DOING;
use crate::DRIVER;

/// The state that PostgreSQL gives for a slot that somebody else reads.
pub(super) const IN_USE: &str = "55006";

/// The error of the replication connection.
pub(super) fn error(source: PgWireError) -> Error {
    let (kind, message) = match &source {
        PgWireError::Server(text) => of_code(sqlstate(text)),
        PgWireError::Auth(_) => refused(),
        PgWireError::Tls(_) => (
            ErrorKind::Permission,
            "the TLS handshake with the database fails; check `sslmode` and the certificates, and \
             that this crate has its feature `wal-tls`",
        ),
        PgWireError::MessageTooLarge { .. } => (
            ErrorKind::TooLarge,
            "the server sent a change of more than 1 GiB; delete the row from the outbox, and the \
             slot, and start again",
        ),
        _ => (
            ErrorKind::Unavailable,
            "the replication connection broke; it is opened anew",
        ),
    };
    Error::new(kind, message)
        .operation(DOING)
        .driver(DRIVER)
        .source(source)
}

/// The code of a server's error, from its text.
pub(super) fn sqlstate(text: &str) -> &str {
    let code = text.split_once("SQLSTATE ").map(|(_, after)| after);
    code.and_then(|after| after.get(..5)).unwrap_or_default()
}

fn refused() -> (ErrorKind, &'static str) {
    (
        ErrorKind::Permission,
        "the database refuses the replication connection; check user and password, and that \
         pg_hba.conf lets the user in",
    )
}

fn of_code(code: &str) -> (ErrorKind, &'static str) {
    match code {
        "28000" | "28P01" => refused(),
        "42501" => not_allowed(),
        IN_USE => (ErrorKind::Conflict, "another relay reads the slot"),
        "42704" => (
            ErrorKind::NotFound,
            "the slot or the publication does not exist, or the publication is younger than the \
             slot; drop the slot if it is there (`SELECT pg_drop_replication_slot(…)`), make the \
             publication, then the slot. What is in the table is forwarded then: nothing is lost",
        ),
        "55000" => (
            ErrorKind::NotFound,
            "the slot has lost log that it needs (see `max_slot_wal_keep_size`); drop it with \
             `SELECT pg_drop_replication_slot(…)` and make it anew. What is in the table is \
             forwarded then: nothing is lost",
        ),
        "53300" => (
            ErrorKind::Unavailable,
            "the server has no connection left for replication; raise `max_wal_senders` or \
             `max_connections`",
        ),
        "0A000" | "22023" => (
            ErrorKind::Unsupported,
            "the server cannot do this; it must be PostgreSQL 14 or newer",
        ),
        _ => (
            ErrorKind::Unavailable,
            "the server ended the replication; it is begun anew",
        ),
    }
}

pub(super) fn not_allowed() -> (ErrorKind, &'static str) {
    (
        ErrorKind::Permission,
        "the user may not replicate; grant it with `ALTER ROLE … REPLICATION`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found() {
        assert_eq!(sqlstate("it is active (SQLSTATE 55006)"), IN_USE);
        assert_eq!(sqlstate("nothing"), "");
        assert_eq!(sqlstate("SQLSTATE 5"), "");
    }

    #[test]
    fn kinds_say_whether_to_go_on() {
        let kind = |code: &str| error(PgWireError::Server(format!("x (SQLSTATE {code})"))).kind();
        assert_eq!(kind("42501"), ErrorKind::Permission);
        assert_eq!(kind("42704"), ErrorKind::NotFound);
        assert_eq!(kind("57P01"), ErrorKind::Unavailable);
        assert!(kind(IN_USE).is_retryable());
    }
}

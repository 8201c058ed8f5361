//! The server's errors as those of the core.

use redis::{ErrorKind as RedisKind, RedisError, ServerErrorKind};
use streams_core::{Error, ErrorKind};

use crate::DRIVER;

/// The error of a call to the server. `doing` names the operation that failed, such as `write`.
pub(crate) fn error(source: RedisError, doing: &'static str) -> Error {
    let (kind, message) = kind(&source);
    Error::new(kind, message)
        .operation(doing)
        .driver(DRIVER)
        .source(source)
}

/// An error of this driver's own.
pub(crate) fn failed(kind: ErrorKind, doing: &'static str, message: &str) -> Error {
    Error::new(kind, message).operation(doing).driver(DRIVER)
}

/// Whether the connection is no good any more: the next call needs another.
pub(crate) fn breaks(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        // A server that was the master and is not any more.
        || error.kind() == RedisKind::Server(ServerErrorKind::ReadOnly)
}

/// Whether a group is not there.
pub(crate) fn is_no_group(error: &RedisError) -> bool {
    // A reader that waits is told in other words when its group or stream goes.
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}

/// Whether the user may not do it.
pub(crate) fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// Whether there is no stream.
pub(crate) fn is_no_key(error: &RedisError) -> bool {
    let says = |text: &str| text.contains("no such key") || text.contains("key to exist");
    error.detail().is_some_and(says)
}

fn kind(error: &RedisError) -> (ErrorKind, &'static str) {
    if let Some(code) = error.code()
        && let Some(known) = of_code(code)
    {
        return known;
    }
    match error.kind() {
        RedisKind::Io if error.is_timeout() => (
            ErrorKind::Timeout,
            "the server did not answer in time; see that it is up, or raise `timeout`",
        ),
        RedisKind::Io
        | RedisKind::ClusterConnectionNotFound
        | RedisKind::MasterNameNotFoundBySentinel
        | RedisKind::NoValidReplicasFoundBySentinel => (
            ErrorKind::Unavailable,
            "the server cannot be reached; see that it is up",
        ),
        RedisKind::AuthenticationFailed => (
            ErrorKind::Permission,
            "the server refuses user and password; correct them",
        ),
        RedisKind::InvalidClientConfig
        | RedisKind::EmptySentinelList
        | RedisKind::RESP3NotSupported => (
            ErrorKind::InvalidConfig,
            "the connection's settings are wrong; correct them",
        ),
        RedisKind::Parse | RedisKind::UnexpectedReturnType => (
            ErrorKind::Other,
            "the server's answer is not understood; is it Redis, 7.0 or later?",
        ),
        _ => (
            ErrorKind::Other,
            "the server refuses the operation; see the cause",
        ),
    }
}

fn of_code(code: &str) -> Option<(ErrorKind, &'static str)> {
    Some(match code {
        "OOM" => (
            ErrorKind::Full,
            "the server's memory is full; trim streams, or give it more (`maxmemory`)",
        ),
        "WRONGTYPE" => (
            ErrorKind::InvalidConfig,
            "the stream's key holds something that is no stream; use another name or prefix",
        ),
        "NOGROUP" | "UNBLOCKED" => (
            ErrorKind::NotFound,
            "the group is not there; it was destroyed, or the server lost its data",
        ),
        "NOAUTH" | "WRONGPASS" => (
            ErrorKind::Permission,
            "the server refuses user and password; correct them",
        ),
        "NOPERM" => (
            ErrorKind::Permission,
            "the user may not do this; allow it the commands and keys in this driver's README",
        ),
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY" | "BUSY" | "MOVED"
        | "ASK" | "MISCONF" | "NOREPLICAS" => (
            ErrorKind::Unavailable,
            "the server is not ready to take this; it is tried again later",
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> Error {
        error(
            redis::make_extension_error(code.to_owned(), Some("why".to_owned())),
            "write",
        )
    }

    #[test]
    fn what_may_help_later_is_retryable_and_what_cannot_is_not() {
        for code in ["OOM", "LOADING", "READONLY", "CLUSTERDOWN", "MISCONF"] {
            assert!(server(code).is_retryable(), "{code}");
        }
        for code in ["WRONGTYPE", "NOPERM", "NOAUTH"] {
            assert!(!server(code).is_retryable(), "{code}");
        }
        assert_eq!(server("OOM").kind(), ErrorKind::Full);
        assert_eq!(server("WRONGTYPE").kind(), ErrorKind::InvalidConfig);
    }
}

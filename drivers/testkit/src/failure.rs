//! Why a case failed.

use std::fmt;

use streams_core::{Error, WriteError};

/// Why a case failed, in words.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// What a case comes to.
pub(crate) type Checked<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("an operation failed that should not: {error:?}"))
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self(format!("a write failed that should not: {error}"))
    }
}

impl From<tokio::task::JoinError> for Failure {
    fn from(error: tokio::task::JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self(format!("panicked: {}", panic_text(&*payload))),
            Err(error) => Self(error.to_string()),
        }
    }
}

/// The text of a panic.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown cause")
}

/// Ends the case with a failure unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failure::new(format!($($reason)+)));
        }
    };
}

/// Ends the case with a failure.
macro_rules! fail {
    ($($reason:tt)+) => {
        return Err($crate::failure::Failure::new(format!($($reason)+)))
    };
}

pub(crate) use {ensure, fail};

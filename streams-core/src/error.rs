//! The one error type, and the error of a batch write.

use std::error::Error as StdError;
use std::fmt;

/// The result of most operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// What went wrong, for code that decides what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bus, writer or subscription has been shut down.
    Closed,
    /// A message without data was given to a writer.
    EmptyMessage,
    /// Trying again cannot help: the message itself is at fault.
    Unrecoverable,
    /// The event's type is not in the registry.
    EventNotFound,
    /// Nobody subscribes: the bus has no subscription, or the stream has no group and keeps nothing.
    NoSubscriberRegistered,
    /// The driver cannot do this.
    Unsupported,
    /// The stream, group or server-side object does not exist.
    NotFound,
    /// The message is larger than the driver takes.
    TooLarge,
    /// A bounded buffer is full and set to refuse.
    Full,
    /// A setting is wrong.
    InvalidConfig,
    /// A message, a name or a header is wrong.
    InvalidMessage,
    /// Data could not be encoded or decoded.
    Codec,
    /// The server refused the credentials or the operation.
    Permission,
    /// The server cannot be reached, or is not ready; trying again may help.
    Unavailable,
    /// It took longer than it may.
    Timeout,
    /// What a lease or an assignment guarded now belongs to another.
    LeaseLost,
    /// Somebody else holds or changed it.
    Conflict,
    /// A handler panicked.
    Panic,
    /// Anything else, including a handler's own errors.
    Other,
}

impl ErrorKind {
    /// Whether the same operation may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::Timeout
                | Self::Full
                | Self::NoSubscriberRegistered
                | Self::Conflict
                | Self::Other
        )
    }
}

/// An error that says what failed, where, and what to do next.
///
/// ```
/// use streams_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "the stream does not exist; create it first")
///     .operation("write")
///     .driver("chanbuf")
///     .with("stream", "user.created");
/// assert_eq!(
///     error.to_string(),
///     "write on chanbuf: the stream does not exist; create it first (stream=user.created)",
/// );
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retryable: bool,
    message: String,
    operation: Option<&'static str>,
    driver: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind`. The message says what happened and what to do about it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            retryable: kind.is_retryable(),
            message: message.into(),
            operation: None,
            driver: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// The error of everything used after [`Bus::shutdown`](crate::Bus::shutdown).
    #[must_use]
    pub fn closed(what: &str) -> Self {
        Self::new(
            ErrorKind::Closed,
            format!("{what} has been shut down; build a new one to go on"),
        )
    }

    /// The error for what a driver cannot do.
    pub fn unsupported(driver: &'static str, what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what).driver(driver)
    }

    /// The error for a setting that cannot be.
    pub fn invalid_config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig, message)
    }

    /// Names the operation that failed, such as `write`.
    #[must_use]
    pub fn operation(mut self, operation: &'static str) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// Names the driver that failed.
    #[must_use]
    pub fn driver(mut self, driver: &'static str) -> Self {
        self.0.driver = Some(driver);
        self
    }

    /// Adds a fact, such as the stream. Never a secret: it is printed.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Overrides what the kind says about retrying.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying the same again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The facts added with [`Error::with`], in order.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(k, v)| (*k, v.as_str()))
    }

    /// The operation that failed, where it was named.
    #[must_use]
    pub fn failed_operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The driver that failed, where it was named.
    #[must_use]
    pub fn failed_driver(&self) -> Option<&'static str> {
        self.0.driver
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        match (inner.operation, inner.driver) {
            (Some(operation), Some(driver)) => write!(f, "{operation} on {driver}: ")?,
            (Some(one), None) | (None, Some(one)) => write!(f, "{one}: ")?,
            (None, None) => {}
        }
        f.write_str(&inner.message)?;
        for (i, (name, value)) in inner.context.iter().enumerate() {
            f.write_str(if i == 0 { " (" } else { ", " })?;
            write!(f, "{name}={value}")?;
        }
        if !inner.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {}", chain(&**source))?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// An error and all its causes on one line, outermost first.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Wrappers often repeat their cause; saying it twice helps nobody.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

/// The messages of a batch that were not written, each with its reason.
///
/// A message whose index is not listed **was** written: retry only those listed, and nothing is
/// written twice.
///
/// ```
/// use streams_core::{Error, ErrorKind, WriteError};
///
/// let error = WriteError::new(vec![(3, Error::new(ErrorKind::TooLarge, "300 KiB of 256"))]);
/// assert_eq!(error.indices().collect::<Vec<_>>(), [3]);
/// ```
#[derive(Debug)]
pub struct WriteError {
    failures: Vec<(usize, Error)>,
}

impl WriteError {
    /// From the failed indices, each with its error.
    ///
    /// # Panics
    /// If `failures` is empty: a write with no failure is no error.
    #[must_use]
    pub fn new(mut failures: Vec<(usize, Error)>) -> Self {
        assert!(!failures.is_empty(), "a WriteError names what failed");
        failures.sort_by_key(|(index, _)| *index);
        Self { failures }
    }

    /// One error as that of many messages of a batch, for drivers. The first of them has it itself, with its
    /// cause; the others its kind, its text, and whether to try again.
    ///
    /// ```
    /// use streams_core::{Error, ErrorKind, WriteError};
    ///
    /// let error = Error::new(ErrorKind::Unavailable, "the server is away");
    /// let failures = WriteError::same(error, [1, 4]);
    /// assert_eq!(failures[1].0, 4);
    /// assert!(failures.iter().all(|(_, error)| error.is_retryable()));
    /// ```
    #[must_use]
    pub fn same(error: Error, indices: impl IntoIterator<Item = usize>) -> Vec<(usize, Error)> {
        let (kind, retryable, text) = (error.kind(), error.is_retryable(), error.to_string());
        let mut first = Some(error);
        let again = || Error::new(kind, text.clone()).retryable(retryable);
        let mut next = || first.take().unwrap_or_else(again);
        indices.into_iter().map(|index| (index, next())).collect()
    }

    /// None of the `count` messages was written, all for the same reason.
    ///
    /// # Panics
    /// If `count` is zero.
    #[must_use]
    pub fn all(count: usize, mut error: impl FnMut() -> Error) -> Self {
        Self::new((0..count).map(|index| (index, error())).collect())
    }

    /// The failed indices in rising order.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.failures.iter().map(|(index, _)| *index)
    }

    /// Each failed index with its reason.
    #[must_use]
    pub fn failures(&self) -> &[(usize, Error)] {
        &self.failures
    }

    /// Each failed index with its reason, to keep.
    #[must_use]
    pub fn into_failures(self) -> Vec<(usize, Error)> {
        self.failures
    }

    /// Whether every failure may be gone when the messages are written again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.failures.iter().all(|(_, error)| error.is_retryable())
    }

    /// The first failure as an error of its own, naming how many there were.
    #[must_use]
    pub fn into_error(mut self) -> Error {
        let count = self.failures.len();
        let (index, error) = self.failures.swap_remove(0);
        if count == 1 && index == 0 {
            error
        } else {
            error.with("index", index).with("failed_messages", count)
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, error) = &self.failures[0];
        match self.failures.len() {
            1 => write!(f, "message {index} was not written: {error}"),
            n => write!(f, "{n} messages were not written, first {index}: {error}"),
        }
    }
}

impl StdError for WriteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.failures[0].1)
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        error.into_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_operation_driver_and_context() {
        let error = Error::new(ErrorKind::TooLarge, "too large; split it")
            .operation("write")
            .with("size", 10)
            .with("limit", 5);
        assert_eq!(
            error.to_string(),
            "write: too large; split it (size=10, limit=5)"
        );
        assert!(!error.is_retryable());
    }

    #[test]
    fn chain_lists_causes_once() {
        let inner = Error::new(ErrorKind::Unavailable, "connection refused");
        let outer = Error::new(ErrorKind::Unavailable, "cannot subscribe").source(inner);
        assert_eq!(chain(&outer), "cannot subscribe: connection refused");
    }

    #[test]
    fn write_error_is_retryable_only_if_every_failure_is() {
        let retryable = || Error::new(ErrorKind::Unavailable, "later");
        let fatal = || Error::new(ErrorKind::TooLarge, "never");
        assert!(WriteError::all(2, retryable).is_retryable());
        let mixed = WriteError::new(vec![(1, fatal()), (0, retryable())]);
        assert!(!mixed.is_retryable());
        assert_eq!(mixed.indices().collect::<Vec<_>>(), [0, 1]);
    }
}

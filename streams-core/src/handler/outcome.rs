//! What a handler says of a delivery.

use std::fmt;
use std::time::Duration;

use crate::error::chain;
use crate::{Error, ErrorKind};

/// What becomes of a delivery that was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done.
    Ack,
    /// Handle it again: after this long, or as the backoff policy says.
    Retry {
        /// The delay; `None` leaves it to the policy.
        after: Option<Duration>,
    },
    /// Not now: hand it to the handler again after this long, without counting an attempt. For
    /// layers that hold a message back for a reason of their own, such as an open circuit. A driver
    /// that counts deliveries may still count one, where it is the driver that waits.
    Postpone {
        /// The delay.
        after: Duration,
    },
    /// Write it to the dead letters, then acknowledge it.
    DeadLetter {
        /// Why, for the person who looks into them.
        reason: Box<str>,
    },
    /// Not for this handler now: give it back, to be delivered to anybody.
    Release,
}

impl Outcome {
    /// [`Outcome::DeadLetter`] with a reason.
    pub fn dead_letter(reason: impl Into<Box<str>>) -> Self {
        Self::DeadLetter {
            reason: reason.into(),
        }
    }

    /// [`Outcome::Postpone`] for this long.
    #[must_use]
    pub fn postpone(delay: Duration) -> Self {
        Self::Postpone { after: delay }
    }

    /// [`Outcome::Retry`] after this long.
    #[must_use]
    pub fn retry_after(delay: Duration) -> Self {
        Self::Retry { after: Some(delay) }
    }
}

/// A handler's word on one delivery.
pub type HandlerResult = Result<Outcome, HandlerError>;

/// Why a handler failed: any error, and whether trying again can help.
///
/// Every `std::error::Error` converts with `?`; such an error is retried. An
/// [`Error`](crate::Error) keeps its own word on that: decoding errors and
/// [`Unrecoverable`](ErrorKind::Unrecoverable) are not retried.
///
/// ```
/// use streams_core::HandlerError;
///
/// fn parse(text: &str) -> Result<i32, HandlerError> {
///     text.parse().map_err(HandlerError::unrecoverable)
/// }
/// assert!(parse("x").unwrap_err().is_unrecoverable());
/// ```
pub struct HandlerError(Box<Inner>);

struct Inner {
    source: Box<dyn std::error::Error + Send + Sync>,
    kind: ErrorKind,
    unrecoverable: bool,
    exhausted: bool,
    retry_after: Option<Duration>,
}

impl HandlerError {
    /// A failure that a retry may mend.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source = error.into();
        let (kind, unrecoverable) = match source.downcast_ref::<Error>() {
            Some(error) => (
                error.kind(),
                matches!(
                    error.kind(),
                    ErrorKind::Unrecoverable
                        | ErrorKind::Codec
                        | ErrorKind::EmptyMessage
                        | ErrorKind::InvalidMessage
                ),
            ),
            None => (ErrorKind::Other, false),
        };
        Self(Box::new(Inner {
            source,
            kind,
            unrecoverable,
            exhausted: false,
            retry_after: None,
        }))
    }

    /// A failure that no retry can mend: it goes to the dead letters at once.
    pub fn unrecoverable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut this = Self::new(error);
        this.0.unrecoverable = true;
        this
    }

    /// Asks for a delay of its own before the retry.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Says that a retry policy has given up on it: it goes to the dead letters.
    #[must_use]
    pub fn exhausted(mut self) -> Self {
        self.0.exhausted = true;
        self
    }

    pub(crate) fn panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = panic_text(payload);
        Self::new(Error::new(
            ErrorKind::Panic,
            format!("the handler panicked: {text}"),
        ))
    }

    /// What went wrong, in the core's terms; a foreign error is [`ErrorKind::Other`].
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether no retry can mend it.
    #[must_use]
    pub fn is_unrecoverable(&self) -> bool {
        self.0.unrecoverable
    }

    /// Whether a retry policy has given up on it.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.0.exhausted
    }

    /// The delay it asks for.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The error itself.
    #[must_use]
    pub fn source(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0.source
    }

    /// The error itself, if it is an `E`.
    #[must_use]
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.source.downcast_ref()
    }

    /// The error and all its causes on one line.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(&*self.0.source)
    }
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

// Not `std::error::Error`, so that the blanket conversion below can exist (as in `anyhow`).
impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

/// What a handler closure may return: `()`, an [`Outcome`], or a `Result` of either with any error.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not a handler's result",
    note = "return `()`, `Outcome`, or a `Result` of either whose error is a `std::error::Error` \
            or `HandlerError`"
)]
pub trait IntoHandlerResult {
    /// The result in the one form the runner takes.
    ///
    /// # Errors
    /// The handler's own.
    fn into_handler_result(self) -> HandlerResult;
}

impl IntoHandlerResult for () {
    fn into_handler_result(self) -> HandlerResult {
        Ok(Outcome::Ack)
    }
}

impl IntoHandlerResult for Outcome {
    fn into_handler_result(self) -> HandlerResult {
        Ok(self)
    }
}

impl<T: IntoHandlerResult, E: Into<HandlerError>> IntoHandlerResult for Result<T, E> {
    fn into_handler_result(self) -> HandlerResult {
        self.map_err(Into::into)?.into_handler_result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_convert() {
        assert_eq!(().into_handler_result().unwrap(), Outcome::Ack);
        let result: Result<(), fmt::Error> = Err(fmt::Error);
        assert!(!result.into_handler_result().unwrap_err().is_unrecoverable());
        let result: Result<Outcome, HandlerError> = Ok(Outcome::Release);
        assert_eq!(result.into_handler_result().unwrap(), Outcome::Release);
    }

    #[test]
    fn undecodable_data_is_unrecoverable() {
        let error = HandlerError::from(Error::new(ErrorKind::Codec, "not JSON"));
        assert!(error.is_unrecoverable());
        let error = HandlerError::from(Error::new(ErrorKind::Unavailable, "later"));
        assert!(!error.is_unrecoverable());
    }
}

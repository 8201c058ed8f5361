//! The errors of AWS as those of the core.

use std::error::Error as StdError;
use std::fmt::Write;

use streams_core::{Error, ErrorKind};

use crate::sdk::error::{ProvideErrorMetadata, SdkError};

/// What went wrong with a request. It can be the error of many messages.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) kind: ErrorKind,
    message: &'static str,
    code: Option<String>,
    reason: String,
}

impl Problem {
    pub(crate) fn new(kind: ErrorKind, message: &'static str) -> Self {
        Self {
            kind,
            message,
            code: None,
            reason: String::new(),
        }
    }

    /// The error of the operation `doing`, such as `write`.
    pub(crate) fn error(&self, doing: &'static str) -> Error {
        let mut error = Error::new(self.kind, self.message)
            .operation(doing)
            .driver("sqs");
        if let Some(code) = &self.code {
            error = error.with("code", code);
        }
        if !self.reason.is_empty() {
            error = error.with("reason", &self.reason);
        }
        error
    }

    pub(crate) fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// Whether AWS knows the caller, who may not do this.
    pub(crate) fn is_denied(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        let code = code.rsplit(['.', '#']).next().unwrap_or(code);
        matches!(
            code,
            "AccessDenied"
                | "AccessDeniedException"
                | "AuthorizationError"
                | "AuthorizationErrorException"
        )
    }

    /// Whether AWS says so in these words.
    #[cfg(all(feature = "sqs", feature = "sns"))]
    pub(crate) fn says(&self, words: &str) -> bool {
        self.reason.contains(words)
    }

    /// Of an entry of a batch.
    fn of_entry(code: &str, reason: Option<&str>, is_ours: bool) -> Self {
        let reason = reason.unwrap_or_default();
        Self::of_code(code, reason).unwrap_or_else(|| {
            let (kind, message) = if is_ours {
                (
                    ErrorKind::InvalidMessage,
                    "AWS refuses the message; see the reason",
                )
            } else {
                UNAVAILABLE
            };
            Self {
                kind,
                message,
                code: Some(code.to_owned()),
                reason: reason.to_owned(),
            }
        })
    }

    fn of_code(code: &str, reason: &str) -> Option<Self> {
        let (kind, message) = of_code(code)?;
        Some(Self {
            kind,
            message,
            code: Some(code.to_owned()),
            reason: reason.to_owned(),
        })
    }
}

impl<E: ProvideErrorMetadata + StdError + 'static> From<SdkError<E>> for Problem {
    fn from(error: SdkError<E>) -> Self {
        let with = |kind, message| Self {
            reason: causes(&error),
            ..Self::new(kind, message)
        };
        match &error {
            SdkError::ServiceError(service) => {
                let (code, reason) = (service.err().code(), service.err().message());
                let reason = reason.unwrap_or_default();
                let status = service.raw().status();
                if let Some(known) = code.and_then(|code| Self::of_code(code, reason)) {
                    return known;
                }
                let (kind, message) = if status.is_server_error() || status.as_u16() == 429 {
                    UNAVAILABLE
                } else {
                    OTHER
                };
                Self {
                    kind,
                    message,
                    code: Some(code.map_or_else(|| status.to_string(), str::to_owned)),
                    reason: reason.to_owned(),
                }
            }
            SdkError::TimeoutError(_) => with(
                ErrorKind::Timeout,
                "AWS did not answer in time; it may have done it all the same. Try again",
            ),
            SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => with(
                ErrorKind::Unavailable,
                "AWS cannot be reached; see that the endpoint is right and the network is up",
            ),
            SdkError::DispatchFailure(_) if causes(&error).contains("credential") => with(
                ErrorKind::Permission,
                "there are no credentials; set them as the AWS tools expect them",
            ),
            SdkError::ConstructionFailure(_) => with(
                ErrorKind::InvalidConfig,
                "the request cannot be made; correct the settings of the client",
            ),
            // The connection broke, or what came was no answer.
            _ => with(UNAVAILABLE.0, UNAVAILABLE.1),
        }
    }
}

#[cfg(feature = "sqs")]
impl From<&aws_sdk_sqs::types::BatchResultErrorEntry> for Problem {
    fn from(entry: &aws_sdk_sqs::types::BatchResultErrorEntry) -> Self {
        Self::of_entry(entry.code(), entry.message(), entry.sender_fault())
    }
}

#[cfg(feature = "sns")]
impl From<&aws_sdk_sns::types::BatchResultErrorEntry> for Problem {
    fn from(entry: &aws_sdk_sns::types::BatchResultErrorEntry) -> Self {
        Self::of_entry(entry.code(), entry.message(), entry.sender_fault())
    }
}

const UNAVAILABLE: (ErrorKind, &str) = (
    ErrorKind::Unavailable,
    "AWS could not do it right now; try again",
);
const OTHER: (ErrorKind, &str) = (ErrorKind::Other, "AWS refused the request; see the code");

/// The causes on one line, without the requests and answers that `Debug` would show.
fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to memory does not fail.
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

/// What kind of error a code is, and what to do about it. Codes come with or without a prefix of the
/// protocol before.
fn of_code(code: &str) -> Option<(ErrorKind, &'static str)> {
    let code = code.rsplit(['.', '#']).next().unwrap_or(code);
    Some(match code {
        "QueueDoesNotExist" | "NonExistentQueue" => (
            ErrorKind::NotFound,
            "the queue does not exist; create it, or set `create_queues` on the driver",
        ),
        "NotFound" | "NotFoundException" | "ResourceNotFound" | "ResourceNotFoundException" => (
            ErrorKind::NotFound,
            "the topic does not exist; create it, or set `create_topics` on the driver",
        ),
        "QueueDeletedRecently" => (
            ErrorKind::Unavailable,
            "the queue was deleted within the last minute, and its name is not free yet; try again",
        ),
        "QueueNameExists" | "QueueAlreadyExists" => (
            ErrorKind::Conflict,
            "there is a queue of this name with other settings; change it, or use it as it is",
        ),
        "ReceiptHandleIsInvalid" | "MessageNotInflight" | "InvalidIdFormat" => (
            ErrorKind::LeaseLost,
            "the message is no longer this reader's; it comes again",
        ),
        "BatchRequestTooLong" => (
            ErrorKind::TooLarge,
            "the batch is larger than AWS takes; lower `largest_request`",
        ),
        "InvalidMessageContents" => (
            ErrorKind::InvalidMessage,
            "the message has characters that AWS refuses; send the data as bytes that are not text",
        ),
        "InvalidParameter"
        | "InvalidParameterException"
        | "InvalidParameterValue"
        | "InvalidParameterValueException"
        | "InvalidParameterCombination"
        | "MissingParameter"
        | "InvalidAttributeName"
        | "InvalidAttributeValue"
        | "ValidationError"
        | "ValidationException" => (
            ErrorKind::InvalidConfig,
            "AWS does not take a value; see the reason",
        ),
        "AccessDenied"
        | "AccessDeniedException"
        | "AuthorizationError"
        | "AuthorizationErrorException"
        | "KMSAccessDenied"
        | "KMSAccessDeniedException"
        | "KmsAccessDenied"
        | "NotAuthorized" => (
            ErrorKind::Permission,
            "the caller may not do this; grant it in the IAM policy, or in that of the queue or topic",
        ),
        "RequestExpired"
        | "RequestTimeTooSkewed"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch" => (
            ErrorKind::Permission,
            "AWS refuses the signature; see that the clock of this machine is right, and the secret",
        ),
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "UnrecognizedClient"
        | "InvalidAccessKeyId"
        | "InvalidSecurity"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "ExpiredToken"
        | "ExpiredTokenException" => (
            ErrorKind::Permission,
            "AWS refuses the credentials; see that they are right and have not run out",
        ),
        "UnsupportedOperation" => (ErrorKind::Unsupported, "AWS cannot do this; see the reason"),
        "OverLimit" => (
            ErrorKind::Unavailable,
            "the queue has as many messages in flight as it may; let handlers finish, or have fewer",
        ),
        "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "Throttled"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "KMSThrottling"
        | "KMSThrottlingException"
        | "KmsThrottled" => (
            ErrorKind::Unavailable,
            "AWS throttles the account; send larger batches, or less at the same time",
        ),
        "InternalError"
        | "InternalErrorException"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "RequestTimeout" => UNAVAILABLE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_trying_again_helps() {
        for code in [
            "RequestThrottled",
            "InternalError",
            "OverLimit",
            "AWS.SimpleQueueService.QueueDeletedRecently",
            "ServiceUnavailable",
        ] {
            let problem = Problem::of_code(code, "why").unwrap();
            assert!(problem.is_retryable(), "{code}");
        }
        for (code, kind) in [
            (
                "AWS.SimpleQueueService.NonExistentQueue",
                ErrorKind::NotFound,
            ),
            ("com.amazonaws.sqs#QueueDoesNotExist", ErrorKind::NotFound),
            ("ReceiptHandleIsInvalid", ErrorKind::LeaseLost),
            ("AccessDenied", ErrorKind::Permission),
            ("RequestTimeTooSkewed", ErrorKind::Permission),
            (
                "AWS.SimpleQueueService.BatchRequestTooLong",
                ErrorKind::TooLarge,
            ),
        ] {
            let problem = Problem::of_code(code, "why").unwrap();
            assert_eq!(problem.kind, kind, "{code}");
        }
        assert!(Problem::of_code("NoSuchCode", "").is_none());
    }

    #[test]
    fn an_entry_without_a_known_code_is_by_whose_fault_it_was() {
        let entry = |ours| Problem::of_entry("Odd", Some("so it is"), ours);
        assert_eq!(entry(true).kind, ErrorKind::InvalidMessage);
        assert_eq!(entry(false).kind, ErrorKind::Unavailable);
        let text = entry(true).error("write").to_string();
        assert!(text.contains("code=Odd, reason=so it is"), "{text}");
    }
}

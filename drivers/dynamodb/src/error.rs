//! The errors of DynamoDB as those of the core.

use std::error::Error as StdError;
use std::fmt::Write;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::CancellationReason;
use streams_core::{Error, ErrorKind};

use crate::DRIVER;

/// What the SDK reports for an operation.
pub(crate) type Failure<E> = SdkError<E>;

/// The error of a request. `doing` names the operation that failed, such as `write`.
pub(crate) fn error<E>(source: &Failure<E>, doing: &'static str) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let new = |(kind, message): (ErrorKind, &str)| {
        Error::new(kind, message).operation(doing).driver(DRIVER)
    };
    match source {
        SdkError::ServiceError(service) => {
            let status = service.raw().status();
            let code = service.err().code().map(last);
            let server = status.is_server_error() || status.as_u16() == 429;
            let known = code.and_then(of_code);
            let error = new(known.unwrap_or(if server { UNAVAILABLE } else { OTHER }));
            let error = match code {
                Some(code) => error.with("code", code),
                None => error.with("status", status),
            };
            match service.err().message() {
                Some(reason) => error.with("reason", reason),
                None => error,
            }
        }
        SdkError::TimeoutError(_) => new((
            ErrorKind::Timeout,
            "DynamoDB did not answer in time; it may have done it all the same. Try again",
        )),
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => new((
            ErrorKind::Unavailable,
            "DynamoDB cannot be reached; see that the endpoint is right and the network is up",
        ))
        .with("reason", causes(source)),
        SdkError::DispatchFailure(_) if causes(source).contains("credential") => new((
            ErrorKind::Permission,
            "there are no credentials; set them as the AWS tools expect them",
        ))
        .with("reason", causes(source)),
        SdkError::ConstructionFailure(_) => new((
            ErrorKind::InvalidConfig,
            "the request cannot be made; correct the settings of the client",
        ))
        .with("reason", causes(source)),
        // The connection broke, or what came was no answer.
        _ => new(UNAVAILABLE).with("reason", causes(source)),
    }
}

/// The code of an error, if the service said one.
pub(crate) fn code<E: ProvideErrorMetadata>(source: &Failure<E>) -> Option<&str> {
    let error = source.as_service_error()?;
    error.code().map(last)
}

/// The error of a transaction. Of one that was cancelled it names each item that was at fault, by its
/// number; the first `own` of them are the caller's.
pub(crate) fn transaction(source: &Failure<TransactWriteItemsError>, own: usize) -> Error {
    let Some(reasons) = reasons(source) else {
        return error(source, "commit");
    };
    let at_fault = || {
        let reasons = reasons.iter().enumerate();
        reasons.filter_map(|(index, reason)| Some((index, reason.code()?, reason)))
    };
    let at_fault = || at_fault().filter(|(_, code, _)| *code != "None");
    let codes: Vec<_> = at_fault().map(|(_, code, _)| code).collect();
    let (kind, message) = cancelled(&codes);
    let mut error = Error::new(kind, message).operation("commit").driver(DRIVER);
    // A request has up to a hundred; the first few tell enough.
    for (index, code, reason) in at_fault().take(5) {
        let whose = if index < own { "" } else { " of the outbox" };
        let text = reason.message().unwrap_or_default();
        error = error.with("item", format!("{index}{whose}: {code}: {text}"));
    }
    error.with("at_fault", codes.len())
}

/// Why a transaction was cancelled, item by item; `None` if it was not.
pub(crate) fn reasons(source: &Failure<TransactWriteItemsError>) -> Option<&[CancellationReason]> {
    match source.as_service_error()? {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => {
            Some(cancelled.cancellation_reasons())
        }
        _ => None,
    }
}

/// A condition that does not hold will not hold by itself; it wins over all that may go away.
fn cancelled(codes: &[&str]) -> (ErrorKind, &'static str) {
    let has = |code: &str| codes.contains(&code);
    if has("ConditionalCheckFailed") {
        return (
            ErrorKind::Unrecoverable,
            "the transaction was cancelled and nothing of it was written: a condition does not hold. \
             Read the items again, and decide anew",
        );
    }
    if has("ValidationError") {
        return (
            ErrorKind::InvalidConfig,
            "the transaction was cancelled and nothing of it was written: DynamoDB does not take an \
             item; see the reason",
        );
    }
    if has("ItemCollectionSizeLimitExceeded") {
        return (
            ErrorKind::Unrecoverable,
            "the transaction was cancelled and nothing of it was written: there is more than 10 GB in \
             one partition key of a table with local indexes; delete some",
        );
    }
    if has("TransactionConflict") {
        return (
            ErrorKind::Conflict,
            "the transaction was cancelled and nothing of it was written: another one was at the same \
             items. Try again",
        );
    }
    if has("ThrottlingError") || has("ProvisionedThroughputExceeded") {
        return (
            ErrorKind::Unavailable,
            "the transaction was cancelled and nothing of it was written: DynamoDB throttles a table. \
             Try again, later or with more capacity",
        );
    }
    (
        ErrorKind::Other,
        "the transaction was cancelled and nothing of it was written; see the reasons",
    )
}

const UNAVAILABLE: (ErrorKind, &str) = (
    ErrorKind::Unavailable,
    "DynamoDB could not do it right now; try again",
);
const OTHER: (ErrorKind, &str) = (
    ErrorKind::Other,
    "DynamoDB refused the request; see the code",
);

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

/// Codes come with or without a prefix of the protocol before.
fn last(code: &str) -> &str {
    code.rsplit(['.', '#']).next().unwrap_or(code)
}

/// What kind of error a code is, and what to do about it.
fn of_code(code: &str) -> Option<(ErrorKind, &'static str)> {
    Some(match code {
        "ResourceNotFoundException" | "TableNotFoundException" => (
            ErrorKind::NotFound,
            "the table or its stream does not exist; call `migrate`, or make it as the README says",
        ),
        "ResourceInUseException" | "TableInUseException" => (
            ErrorKind::Conflict,
            "the table is being made or changed; try again when it is active",
        ),
        "ConditionalCheckFailedException" => (
            ErrorKind::Conflict,
            "the item was changed by another; read it again",
        ),
        "TransactionConflictException" | "ReplicatedWriteConflictException" => (
            ErrorKind::Conflict,
            "a transaction is at the same item; try again",
        ),
        "TransactionInProgressException" => (
            ErrorKind::Conflict,
            "a transaction with this token is still running; try again",
        ),
        "IdempotentParameterMismatchException" => (
            ErrorKind::Unrecoverable,
            "a transaction with this token but other items has been committed; that one counts",
        ),
        "ItemCollectionSizeLimitExceededException" => (
            ErrorKind::Unrecoverable,
            "there is more than 10 GB in one partition key of a table with local indexes; delete some",
        ),
        "ValidationException" | "SerializationException" => (
            ErrorKind::InvalidConfig,
            "DynamoDB does not take a value, or a table has another schema; see the reason",
        ),
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" => (
            ErrorKind::Permission,
            "the caller may not do this; grant it in the IAM policy, which the README has",
        ),
        "RequestExpired"
        | "RequestTimeTooSkewed"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch" => (
            ErrorKind::Permission,
            "AWS refuses the signature; see that the clock of this machine is right, and the secret",
        ),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "IncompleteSignatureException"
        | "MissingAuthenticationTokenException"
        | "ExpiredTokenException"
        | "OptInRequired" => (
            ErrorKind::Permission,
            "AWS refuses the credentials; see that they are right and have not run out",
        ),
        "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "ThrottlingException"
        | "Throttling"
        | "LimitExceededException" => (
            ErrorKind::Unavailable,
            "DynamoDB throttles; send less at the same time, or give the table more capacity",
        ),
        "InternalServerError" | "InternalFailure" | "ServiceUnavailable" => UNAVAILABLE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_trying_again_helps() {
        for (code, kind, again) in [
            (
                "ProvisionedThroughputExceededException",
                ErrorKind::Unavailable,
                true,
            ),
            ("InternalServerError", ErrorKind::Unavailable, true),
            ("TransactionConflictException", ErrorKind::Conflict, true),
            ("ResourceNotFoundException", ErrorKind::NotFound, false),
            ("AccessDeniedException", ErrorKind::Permission, false),
            ("ValidationException", ErrorKind::InvalidConfig, false),
        ] {
            let (found, _) = of_code(last(&format!("com.amazonaws.dynamodb#{code}"))).unwrap();
            assert_eq!((found, found.is_retryable()), (kind, again), "{code}");
        }
        assert!(of_code("NoSuchCode").is_none());
    }

    #[test]
    fn a_condition_that_does_not_hold_wins_over_what_may_go_away() {
        let kind = |codes: &[&str]| cancelled(codes).0;
        let both = ["TransactionConflict", "ConditionalCheckFailed"];
        assert_eq!(kind(&both), ErrorKind::Unrecoverable);
        assert_eq!(kind(&["TransactionConflict"]), ErrorKind::Conflict);
        assert_eq!(kind(&["ThrottlingError"]), ErrorKind::Unavailable);
        assert_eq!(kind(&["ValidationError"]), ErrorKind::InvalidConfig);
    }
}

//! The client's errors as those of the core.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use streams_core::{Error, ErrorKind};

use crate::config::DRIVER;

/// The error of a client's call. `doing` names the operation that failed, such as `write`.
pub(crate) fn error(source: &KafkaError, doing: &'static str) -> Error {
    let code = code(source);
    let (kind, message) = match source {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => (
            ErrorKind::InvalidConfig,
            "the client does not take a setting; correct it, or leave it out",
        ),
        KafkaError::Canceled => (
            ErrorKind::Closed,
            "the client was closed meanwhile; open a new one",
        ),
        _ => code.map_or(
            (ErrorKind::Other, "the client failed; see the cause"),
            of_code,
        ),
    };
    let error = Error::new(kind, message).operation(doing).driver(DRIVER);
    let error = match code {
        Some(code) => error.with("code", format_args!("{code:?}")),
        None => error,
    };
    match source {
        // It holds the value, which may be a secret.
        KafkaError::ClientConfig(_, _, property, _) => error.with("property", property),
        other => error.source(other.clone()),
    }
}

/// The code of an error, also where the client's own accessor leaves it out.
pub(crate) fn code(source: &KafkaError) -> Option<Code> {
    match source {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether no broker answered, or not in time.
pub(crate) fn is_silence(source: &KafkaError) -> bool {
    matches!(
        code(source),
        Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::AllBrokersDown)
    )
}

/// Whether asking again soon may help: nobody answered, or a leader is about to be elected, as after a
/// topic was created.
pub(crate) fn is_passing(source: &KafkaError) -> bool {
    is_silence(source) || code(source).is_some_and(is_election)
}

fn is_election(code: Code) -> bool {
    matches!(
        code,
        Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
    )
}

/// What kind of error a code is, and what to do about it.
pub(crate) fn of_code(code: Code) -> (ErrorKind, &'static str) {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownTopicId => (
            ErrorKind::NotFound,
            "the topic does not exist; create it, or set `create_topics` on the driver",
        ),
        Code::UnknownPartition => (
            ErrorKind::NotFound,
            "the partition does not exist; ask `partitions` how many the topic has",
        ),
        Code::UnknownGroup | Code::GroupIdNotFound => (
            ErrorKind::NotFound,
            "the consumer group does not exist; check its name",
        ),
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::NoOffset => (
            ErrorKind::NotFound,
            "the topic no longer keeps that offset, or not yet; start at another position",
        ),
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => (
            ErrorKind::TooLarge,
            "the message is larger than the topic takes; split it, or raise the topic's \
             `max.message.bytes` and the driver's `largest_message`",
        ),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::UnacceptableCredential => (
            ErrorKind::Permission,
            "the brokers refuse the credentials; check user, password and mechanism",
        ),
        Code::SSL => (
            ErrorKind::Permission,
            "the TLS handshake with the brokers fails; check the authority's certificate, the \
             client's own, and that this port speaks TLS",
        ),
        Code::TopicAuthorizationFailed => (
            ErrorKind::Permission,
            "the user may not do this on the topic; grant it there",
        ),
        Code::GroupAuthorizationFailed => (
            ErrorKind::Permission,
            "the user may not read as this consumer group; grant it READ there",
        ),
        Code::TransactionalIdAuthorizationFailed => (
            ErrorKind::Permission,
            "the user may not use this transactional id; grant it WRITE there",
        ),
        Code::ClusterAuthorizationFailed => (
            ErrorKind::Permission,
            "the user may not do this on the cluster; grant it there",
        ),
        Code::MessageTimedOut | Code::TimedOutQueue => (
            ErrorKind::Timeout,
            "the brokers did not confirm the message within `delivery_timeout`; it may have been \
             written all the same. See that they are up, and write it again",
        ),
        code if is_election(code) => (
            ErrorKind::Unavailable,
            "the brokers elect a leader for the partition or the group just now; try again",
        ),
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::NetworkException
        | Code::BrokerNotAvailable
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::WaitingForCoordinator
        | Code::NotController
        | Code::KafkaStorageError
        | Code::ListenerNotFound
        | Code::ThrottlingQuotaExceeded
        | Code::RebalanceInProgress
        | Code::ConcurrentTransactions
        | Code::UnstableOffsetCommit
        | Code::ISRInsufficient => (
            ErrorKind::Unavailable,
            "no broker could answer; see that they are up and can be reached, and try again",
        ),
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::AssignmentLost
        | Code::PollExceeded
        | Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::TransactionCoordinatorFenced => (
            ErrorKind::LeaseLost,
            "another member or producer has taken this one's place; open it anew",
        ),
        // Where the brokers assign partitions.
        Code::UnreleasedInstanceId => (
            ErrorKind::Unavailable,
            "another member of the group has this instance id; end it, or wait until its session \
             has timed out",
        ),
        Code::TopicAlreadyExists => (
            ErrorKind::Conflict,
            "the topic exists already; leave it, or delete it first",
        ),
        Code::InvalidTopic => (
            ErrorKind::InvalidMessage,
            "the brokers do not take this topic name; use letters, digits, `.`, `_` and `-`",
        ),
        Code::InvalidRecord | Code::InvalidTimestamp => (
            ErrorKind::InvalidMessage,
            "the brokers do not take this record; a compacted topic wants a key, and a topic may \
             bound how far times are from now",
        ),
        Code::InvalidArgument
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidConfig
        | Code::InvalidRequiredAcks
        | Code::InvalidSessionTimeout
        | Code::InvalidTransactionTimeout
        | Code::InvalidGroupId
        | Code::InvalidRequest
        | Code::InconsistentGroupProtocol
        | Code::PolicyViolation
        | Code::UnknownProtocol => (
            ErrorKind::InvalidConfig,
            "the brokers do not take this setting; correct it",
        ),
        Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedCompressionType
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedAssignor
        | Code::TopicDeletionDisabled
        | Code::NotImplemented => (
            ErrorKind::Unsupported,
            "these brokers cannot do this; update them or leave it out",
        ),
        Code::QueueFull => (
            ErrorKind::Full,
            "the client's queue is full; write less at once, or raise `queue_messages`",
        ),
        Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy => (
            ErrorKind::Unavailable,
            "the client was given up before the message was confirmed; write it again",
        ),
        Code::Fatal | Code::OutOfOrderSequenceNumber | Code::UnknownProducerId => (
            ErrorKind::Unavailable,
            "the client lost its place in the order of messages and is opened anew; try again",
        ),
        _ => (
            ErrorKind::Other,
            "the brokers or the client failed; see the code",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_go_away_by_itself_is_retryable() {
        let kind = |code| error(&KafkaError::MessageProduction(code), "write");
        for code in [
            Code::AllBrokersDown,
            Code::BrokerTransportFailure,
            Code::MessageTimedOut,
            Code::QueueFull,
            Code::Fatal,
        ] {
            assert!(kind(code).is_retryable(), "{code:?}");
        }
        for code in [
            Code::UnknownTopicOrPartition,
            Code::MessageSizeTooLarge,
            Code::TopicAuthorizationFailed,
            Code::Authentication,
            Code::InvalidReplicationFactor,
            Code::IllegalGeneration,
        ] {
            assert!(!kind(code).is_retryable(), "{code:?}");
        }
    }

    #[test]
    fn the_code_of_admin_operations_is_found() {
        let source = KafkaError::AdminOp(Code::TopicAlreadyExists);
        let error = error(&source, "create_topic");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(
            error.to_string(),
            "create_topic on kafka: the topic exists already; leave it, or delete it first \
             (code=TopicAlreadyExists)"
        );
        assert!(std::error::Error::source(&error).is_some());
    }
}

"""Classes of Kafka errors: what each means for a group member, a producer or a request."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

#: Errors that mean this member lost its assignment: everything since the last commit has to be discarded.
MEMBERSHIP_LOST: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._NO_OFFSET,
    }
)

#: Another process has taken over this member's or this producer's identity.
MEMBER_FENCED: Final = frozenset({KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID})
FENCED: Final = MEMBER_FENCED | {KafkaError._FENCED}

#: The same for a transactional producer, whatever the error's flags say.
PRODUCER_FENCED: Final = FENCED | {KafkaError.INVALID_PRODUCER_EPOCH}

#: A topic does not take this record; others may pass.
RECORD_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
    }
)

UNAUTHORIZED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)

#: Rejected permanently, by authorization or by authentication.
REFUSED: Final = UNAUTHORIZED | {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}

#: A broker or a setting that does not allow transactions as tokentrace makes them.
UNSUPPORTED: Final = frozenset(
    {
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError._INVALID_ARG,
        KafkaError._NOT_CONFIGURED,
    }
)

#: Answers while leaders, coordinators or the controller are elected, or about a topic that was created a moment ago:
#: the next answer may differ.
TRANSIENT: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_CONTROLLER,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._DESTROY_BROKER,
        KafkaError._ALL_BROKERS_DOWN,
    }
)


#: The answer to a request was lost: the brokers may have done what it asks.
UNANSWERED: Final = frozenset(
    {
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
    }
)

#: Exceptions of a call that may report deliveries: while the library raises, each report ends as a SystemError.
REPORTING: Final = (KafkaException, SystemError)


def error_of(failure: KafkaException | SystemError) -> KafkaError:
    """Return the error that the library's exception carries. Raises a SystemError that does not come from one."""
    if isinstance(failure, SystemError):
        if not isinstance(failure.__cause__, KafkaException):
            raise failure
        failure = failure.__cause__
    error: KafkaError = failure.args[0]
    return error

"""Classes of Kafka errors: what each means for a member of a group and for its producer."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

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
FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID})

UNAUTHORIZED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)

#: Refused for good, by authorization or by authentication.
REFUSED: Final = UNAUTHORIZED | {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}

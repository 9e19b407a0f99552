"""Election: membership of a group for a topic with one partition, which tells whether it is this member's.

Kafka gives the partition to one member, and to another one when that is gone. Nothing is read by the membership itself:
whoever has the partition reads it by other means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from confluent_kafka import OFFSET_END, Consumer, KafkaError, TopicPartition

from tokentrace.errors import FatalError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import FENCED, REFUSED
from tokentrace.kafka.leaving import leave
from tokentrace.kafka.membership import cooperative_session

log = logging.getLogger(__name__)


class Election:
    """One membership. Used by one thread."""

    def __init__(self, clients: KafkaClients, *, topic: str, group_id: str, session_timeout_s: float) -> None:
        self._group_id = group_id
        self._owned = False
        self._failure: BaseException | None = None
        self._consumer = clients.consumer(group_id=group_id, settings=cooperative_session(session_timeout_s))
        partition = TopicPartition(topic, 0, OFFSET_END)

        def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if partitions:
                self._guarded(lambda: consumer.incremental_assign([partition]))
                self._guarded(lambda: consumer.pause([partition]))
                self._owned = True

        def on_revoke(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if partitions:
                self._owned = False
                self._guarded(lambda: consumer.incremental_unassign(partitions))

        self._consumer.subscribe([topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke)

    def poll(self, timeout_s: float) -> bool:
        """Take part, and return whether the partition is this member's now. Raises FatalError if Kafka refuses it."""
        for message in self._consumer.consume(1, timeout_s):
            if (error := message.error()) is not None:
                self._check(error)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self._owned

    def close(self) -> None:
        """Leave the group."""
        leave(self._consumer, lambda: self._owned)
        self._owned = False
        self._consumer.close()

    def _guarded(self, action: Callable[[], None]) -> None:
        """An exception must not leave a callback: `poll` raises it."""
        try:
            action()
        except Exception as failure:
            self._failure = self._failure or failure

    def _check(self, error: KafkaError) -> None:
        if error.code() in REFUSED | FENCED or error.fatal() or error.code() == KafkaError._FATAL:
            raise FatalError(
                f"Kafka does not let this worker be a member of group {self._group_id!r} ({error.str()}). It has to be "
                "allowed to read it."
            )
        log.debug("Kafka error in a member of group %s: %s", self._group_id, error.str())

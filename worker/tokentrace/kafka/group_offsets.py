"""Group offsets: reading and changing what a consumer group has committed, from outside the group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of
from tokentrace.kafka.offsets import Committed

TIMEOUT_S: Final = 15.0


class GroupOffsets:
    """The committed offsets of one group for one topic."""

    def __init__(self, clients: KafkaClients, group_id: str, topic: str) -> None:
        self._admin = clients.admin()
        self._group_id = group_id
        self._topic = topic

    def committed(self) -> dict[int, Committed]:
        """Return partition -> what is committed, where something is. Raises UsageError if it cannot be read."""
        request = ConsumerGroupTopicPartitions(self._group_id)
        try:
            answer = self._admin.list_consumer_group_offsets([request])[self._group_id].result(TIMEOUT_S)
        except KafkaException as failure:
            reason = error_of(failure).str()
            raise UsageError(f"The offsets of group {self._group_id!r} cannot be read ({reason}).") from failure
        return {
            found.partition: Committed(found.offset, found.leader_epoch, found.metadata or "")
            for found in answer.topic_partitions or []
            if found.topic == self._topic and found.offset >= 0
        }

    def alter(self, offsets: Mapping[int, int]) -> None:
        """Commit these offsets without metadata. Raises UsageError while the group has members, whose they are."""
        wanted = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        change = ConsumerGroupTopicPartitions(self._group_id, wanted)
        try:
            done = self._admin.alter_consumer_group_offsets([change])[self._group_id].result(TIMEOUT_S)
            for changed in done.topic_partitions or []:
                if changed.error is not None:
                    raise KafkaException(changed.error)
        except KafkaException as failure:
            raise UsageError(
                f"The offsets of group {self._group_id!r} cannot be changed ({error_of(failure).str()}); "
                "stop its workers first."
            ) from failure


class ProgressOffsets:
    """The offsets of a group that has no members: they are the progress of a command, committed in its transactions."""

    def __init__(self, clients: KafkaClients, group_id: str, topic: str) -> None:
        self._consumer = clients.consumer(group_id=group_id)
        self._group_id = group_id
        self._topic = topic

    def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return partition -> committed offset, where there is one. Raises FatalError if they cannot be read."""
        wanted = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            found = self._consumer.committed(wanted, timeout=TIMEOUT_S)
        except KafkaException as failure:
            reason = error_of(failure).str()
            raise FatalError(f"The offsets of group {self._group_id!r} cannot be read ({reason}).") from failure
        return {result.partition: result.offset for result in found if result.offset >= 0}

    def member(self) -> Any:
        """Return what a transaction needs to commit offsets of this group."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Free the connections."""
        self._consumer.close()

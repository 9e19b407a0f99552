"""Group offsets: reading and changing what a consumer group has committed, from outside the group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition

from tokentrace.errors import UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of

TIMEOUT_S: Final = 15.0


class GroupOffsets:
    """The committed offsets of one group for one topic."""

    def __init__(self, clients: KafkaClients, group_id: str, topic: str) -> None:
        self._admin = clients.admin()
        self._group_id = group_id
        self._topic = topic

    def committed(self) -> dict[int, int]:
        """Return partition -> committed offset, where there is one. Raises UsageError if they cannot be read."""
        request = ConsumerGroupTopicPartitions(self._group_id)
        try:
            answer = self._admin.list_consumer_group_offsets([request])[self._group_id].result(TIMEOUT_S)
        except KafkaException as failure:
            reason = error_of(failure).str()
            raise UsageError(f"The offsets of group {self._group_id!r} cannot be read ({reason}).") from failure
        return {
            found.partition: found.offset
            for found in answer.topic_partitions or []
            if found.topic == self._topic and found.offset >= 0
        }

    def alter(self, offsets: Mapping[int, int]) -> None:
        """Commit these offsets. Raises UsageError while the group has members: only they may change them."""
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

"""Log bounds: where the partitions of a topic begin and end, asked from outside any group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from tokentrace.errors import UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of
from tokentrace.kafka.moves import LogBounds

TIMEOUT_S: Final = 15.0
_UNKNOWN: Final = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC}


class TopicBounds:
    """The bounds of one topic's logs. Each method raises UsageError if Kafka does not tell them."""

    def __init__(self, clients: KafkaClients, topic: str) -> None:
        self._admin = clients.admin()
        self._topic = topic

    def bounds(self, partitions: Iterable[int]) -> dict[int, LogBounds]:
        """Return partition -> its log's bounds, of those that the topic has."""
        wanted = list(partitions)
        first = self._offsets(dict.fromkeys(wanted, OffsetSpec.earliest()))  # type: ignore[no-untyped-call]
        ends = self._offsets(dict.fromkeys(first, OffsetSpec.latest()))  # type: ignore[no-untyped-call]
        return {partition: LogBounds(first[partition], end) for partition, end in ends.items()}

    def first_since(self, times_s: Mapping[int, float]) -> dict[int, int]:
        """Return partition -> the first offset whose record is stamped with this Unix time or later, -1 if none is."""
        return self._offsets({p: OffsetSpec.for_timestamp(int(time_s * 1000)) for p, time_s in times_s.items()})

    def _offsets(self, specs: Mapping[int, Any]) -> dict[int, int]:
        if not specs:
            return {}
        asked = {TopicPartition(self._topic, partition): spec for partition, spec in specs.items()}
        found = {}
        for answered, answer in self._admin.list_offsets(asked, request_timeout=TIMEOUT_S).items():
            try:
                found[answered.partition] = answer.result(TIMEOUT_S).offset
            except KafkaException as failure:
                error = error_of(failure)
                if error.code() not in _UNKNOWN:
                    reason = error.str()
                    raise UsageError(f"The offsets of topic {self._topic!r} cannot be read ({reason}).") from failure
        return found

"""End offsets of a topic's partitions, before or behind open transactions, asked from outside any group.

A consumer asks for them. An admin client's ListOffsets ends the whole process where a broker's answer comes after the
request has timed out (librdkafka 2.16, its issue 4605: an assertion on `eonce->refcnt`).
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Final, Literal

from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition

from tokentrace.errors import ClientFailed, FatalError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import REFUSED, TRANSIENT, error_of
from tokentrace.kafka.waiting import Wait

#: Time after which offsets that brokers do not tell are given up.
TIMEOUT_S: Final = 60.0
#: Longest wait for one answer: a stop waits for it.
REQUEST_TIMEOUT_S: Final = 5.0
#: A topic that was created a moment ago is not known to every broker.
_TRANSIENT: Final = TRANSIENT | {KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


class EndOffsets:
    """A client for the end offsets of one topic, for a `with` statement.

    isolation: "read_committed" for the ends of what can be read, before transactions that are open, "read_uncommitted"
    for those behind them.
    """

    def __init__(
        self,
        clients: KafkaClients,
        topic: str,
        group_id: str,
        isolation: Literal["read_committed", "read_uncommitted"],
    ) -> None:
        """group_id: librdkafka requires one; the client never joins it."""
        self._topic = topic
        self._stop = clients.stop
        self._consumer = clients.consumer(group_id=group_id, settings={"isolation.level": isolation})

    def __enter__(self) -> EndOffsets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._consumer.close()

    def find(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return partition -> the offset behind its last record.

        Raises FatalError if Kafka refuses it, ClientFailed if brokers do not tell it in time, StopRequested.
        """
        asked = [TopicPartition(self._topic, partition, OFFSET_END) for partition in partitions]
        if not asked:
            return {}
        wait = Wait(self._stop, TIMEOUT_S)
        while True:
            try:
                found = self._consumer.offsets_for_times(asked, timeout=min(wait.request_timeout_s, REQUEST_TIMEOUT_S))
                error = next((end.error for end in found if end.error is not None), None)
            except KafkaException as failure:
                error = error_of(failure)
            if error is None:
                return {end.partition: end.offset for end in found}
            if error.code() not in _TRANSIENT or not wait.pause("Kafka does not answer yet (%s)", error.str()):
                kind = FatalError if error.code() in REFUSED else ClientFailed
                raise kind(f"The end of topic {self._topic!r} cannot be found: {error.str()}.")

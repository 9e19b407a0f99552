"""Producing: records, the one call that queues them, and an idempotent producer that reports their delivery."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of

#: librdkafka's number for "the partitioner chooses".
ANY_PARTITION: Final = -1

Headers = Sequence[tuple[str, str | bytes | None]]


class Record(NamedTuple):
    """A record to be written. value: None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = ANY_PARTITION
    headers: Headers = ()


def partition_of(name: str, partitions: int) -> int:
    """The partition that holds the records of `name`, in a topic with so many partitions."""
    return zlib.crc32(name.encode()) % partitions


def produce(
    producer: Producer, record: Record, on_delivery: Callable[[KafkaError | None, Message], None] | None = None
) -> None:
    """Queue a record, and wait while the queue is full. Raises KafkaException for a record that cannot be queued."""
    while True:
        try:
            producer.produce(
                record.topic,
                key=record.key,
                value=record.value,
                partition=record.partition,
                headers=list(record.headers),
                on_delivery=on_delivery,
            )
            return
        except BufferError:
            producer.poll(0.1)


class IdempotentProducer:
    """Produces outside transactions and reports the delivery of each record."""

    def __init__(self, clients: KafkaClients, settings: Mapping[str, Any] | None = None) -> None:
        """settings: librdkafka properties that only this producer needs."""
        self._clients = clients
        self._producer = clients.producer(settings)

    def produce(self, record: Record, on_delivery: Callable[[str | None], None]) -> None:
        """Queue a record. on_delivery gets None once it is written, or why it was not; called in `poll` or `flush`.

        A record that cannot even be queued is reported at once.
        """
        try:
            produce(self._producer, record, lambda error, _: on_delivery(None if error is None else error.str()))
        except KafkaException as failure:
            on_delivery(error_of(failure).str())

    def poll(self, timeout_s: float = 0.0) -> None:
        """Report deliveries; wait for one for so long."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Wait for all deliveries and return how many records are left. Raises FatalError for a failed producer."""
        try:
            return int(self._producer.flush(timeout_s))
        except KafkaException as failure:
            raise FatalError(
                f"Kafka no longer accepts records of this producer ({error_of(failure).str()})."
            ) from failure

    def purge(self) -> None:
        """Drop the queued records, so that they cannot arrive beside a second attempt."""
        self._producer.purge()
        self.flush(1.0)

    def check_topic(self, topic: str) -> None:
        """Raises UsageError if no broker answers or the topic cannot be written."""
        try:
            error = self._producer.list_topics(topic, timeout=10.0).topics[topic].error
        except KafkaException as failure:
            raise UsageError(self._clients.unreachable(error_of(failure))) from failure
        if error is not None:
            servers = self._clients.bootstrap_servers
            raise UsageError(f"Topic {topic!r} cannot be written at {servers} ({error.str()}); check kafka.topic.")

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait for the deliveries that are left. Never raises: `flush` has reported a failed producer."""
        with suppress(FatalError):
            self.flush(timeout_s)

"""Producing: records, the one call that queues them, and an idempotent producer that reports their delivery."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tokentrace.errors import ClientFailed, FatalError, StopRequested, UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of
from tokentrace.model.stop import StopSignal

#: librdkafka's number for "the partitioner chooses".
ANY_PARTITION: Final = -1

#: Bytes of a batch of one record beside its key, value and headers, and of a header beside its name and value: the
#: largest that the fields of variable length can be (Kafka's record format, version 2).
RECORD_OVERHEAD: Final = 61 + 36
HEADER_OVERHEAD: Final = 10

Headers = Sequence[tuple[str, str | bytes | None]]


class Record(NamedTuple):
    """A record to be written. value: None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = ANY_PARTITION
    headers: Headers = ()


def record_bytes(record: Record) -> int:
    """Return the most bytes that a record takes as a batch of its own, without compression.

    `max.message.bytes` of a topic limits what a batch takes after compression, so a record within it always fits.
    """
    headers = sum(
        HEADER_OVERHEAD + len(name.encode()) + len(value.encode() if isinstance(value, str) else value or b"")
        for name, value in record.headers
    )
    return RECORD_OVERHEAD + len(record.key or b"") + len(record.value or b"") + headers


def paced(records: Iterable[Record], batch_bytes: Mapping[str, int], flush: Callable[[], object]) -> Iterator[Record]:
    """Give the records, and call `flush` before a batch could outgrow the limit of its topic.

    batch_bytes: topic -> most bytes of a batch; a topic that is not in it takes every batch of the producer.
    """
    queued = dict.fromkeys(batch_bytes, 0)
    for record in records:
        limit = batch_bytes.get(record.topic)
        if limit is not None:
            size = record_bytes(record)
            if queued[record.topic] and queued[record.topic] + size > limit:
                flush()
                queued = dict.fromkeys(batch_bytes, 0)
            queued[record.topic] += size
        yield record


def partition_of(name: str, partitions: int) -> int:
    """The partition that holds the records of `name`, in a topic with so many partitions."""
    return zlib.crc32(name.encode()) % partitions


def produce(
    producer: Producer,
    record: Record,
    stop: StopSignal,
    on_delivery: Callable[[KafkaError | None, Message], None] | None = None,
) -> None:
    """Queue a record, and wait while the queue is full.

    Raises KafkaException for a record that cannot be queued, StopRequested if the queue stays full at a stop.
    """
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
            if stop.expired:
                raise StopRequested("The queue of records is full.") from None
            producer.poll(0.1)


class IdempotentProducer:
    """Produces outside transactions and reports the delivery of each record.

    too_large: whether a record was refused for its size since this was last set to False.
    """

    def __init__(self, clients: KafkaClients, settings: Mapping[str, Any] | None = None) -> None:
        """settings: librdkafka properties that only this producer needs."""
        self._clients = clients
        self._producer = clients.producer(settings)
        self.too_large = False

    def produce(self, record: Record, on_delivery: Callable[[str | None], None]) -> None:
        """Queue a record. on_delivery gets None once it is written, or why it was not; called in `poll` or `flush`.

        A record that cannot even be queued is reported at once.
        """

        def report(error: KafkaError | None, _: object = None) -> None:
            self.too_large |= error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE
            on_delivery(None if error is None else error.str())

        try:
            produce(self._producer, record, self._clients.stop, report)
        except KafkaException as failure:
            report(error_of(failure))

    def poll(self, timeout_s: float = 0.0) -> None:
        """Report deliveries; wait for one for so long."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Wait for all deliveries and return how many records are left. Raises ClientFailed for a failed producer."""
        try:
            return int(self._producer.flush(self._clients.stop.bounded(timeout_s)))
        except KafkaException as failure:
            raise ClientFailed(
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

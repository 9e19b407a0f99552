"""Single partition: a group member for a topic with one partition, and a reader of what is appended to one.

A consumer group gives the one partition to one of its members: an election that Kafka runs anyway, with fencing. The
member tells its listener when the partition comes and goes, and reads it from wherever the listener says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tokentrace.errors import FatalError, Unanswered
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import FENCED, REFUSED, error_of
from tokentrace.kafka.leaving import leave
from tokentrace.kafka.membership import cooperative_session
from tokentrace.kafka.offsets import REQUEST_TIMEOUT_S, CommittedOffsets

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Headers of a message as the library gives them.
ReceivedHeaders = dict[str, str | bytes | None] | list[tuple[str, str | bytes | None]] | None


class PartitionRecord(NamedTuple):
    """A record of the partition, or the partition's end. written_s: Unix time, about 0 if it is not known."""

    offset: int
    value: bytes | None
    headers: ReceivedHeaders = None
    key: bytes | None = None
    written_s: float = 0.0


class PartitionListener(Protocol):
    """Follows who owns the partition. Its methods run inside `poll`; what they raise, `poll` raises."""

    def acquire(self) -> int:
        """Prepare to own the partition, which is this member's now; return the offset to read from."""

    def hand_over(self) -> None:
        """Finish and commit: the partition is still this member's, and is another's next."""

    def release(self) -> None:
        """Discard what is not committed: the partition is not this member's any more."""


class SinglePartitionConsumer:
    """A member of a group that reads a topic with one partition. Used by one thread."""

    def __init__(self, clients: KafkaClients, *, topic: str, group_id: str, session_timeout_s: float) -> None:
        self._topic = topic
        self._group_id = group_id
        self._failure: BaseException | None = None
        self._listener: PartitionListener | None = None
        self._owned = self._closing = False
        # No static membership: when the partition's owner leaves, another member continues at once.
        self._consumer = clients.consumer(group_id=group_id, settings=cooperative_session(session_timeout_s))
        self._committed = CommittedOffsets(self._consumer, topic, clients.stop)
        self._wait_s = clients.callback_wait_s

    def subscribe(self, listener: PartitionListener) -> None:
        """Join the group."""

        def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            self._owned = self._owned or bool(partitions)
            # Closing runs a rebalance that was under way; the partition is revoked again at once.
            if partitions and not self._closing:
                self._guarded(lambda: consumer.incremental_assign([self._partition(listener.acquire())]))

        def on_revoke(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if partitions:
                self._guarded(listener.hand_over)
                on_lost(consumer, partitions)

        def on_lost(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            self._owned = False
            self._guarded(listener.release)
            self._guarded(lambda: consumer.incremental_unassign(partitions))

        self._consumer.subscribe([self._topic], on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)

    def poll(self, max_records: int, timeout_s: float) -> list[PartitionRecord]:
        """Return the next records. The value is None where the partition ends, and empty for a tombstone.

        Raises FatalError when Kafka rejects this member, or has no record at its position any more.
        """
        messages = self._consumer.consume(max_records, timeout_s)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        records: list[PartitionRecord] = []
        for message in messages:
            error, offset = message.error(), message.offset() or 0
            if error is None:
                records.append(_record(message, message.value() or b""))
            elif error.code() == KafkaError._PARTITION_EOF:
                records.append(PartitionRecord(offset, None))
            else:
                self._on_error(error)
        return records

    def await_stable_offset(self) -> None:
        """Wait while a transaction of an earlier owner is open, so that all that it committed can be read.

        Raises FatalError if Kafka refuses this member or the transaction does not end, StopRequested.
        """
        try:
            self._committed.stable([0], self._wait_s)
        except Unanswered as failure:
            raise FatalError(f"Topic {self._topic!r} cannot be read: {failure}.") from failure

    def offsets(self) -> tuple[int, int]:
        """Return (offset of the first record, offset behind the last one)."""
        first, end = self._request(
            lambda: self._consumer.get_watermark_offsets(self._partition(), timeout=REQUEST_TIMEOUT_S)
        )
        return int(first), int(end)

    def offset_at(self, time_s: float) -> int | None:
        """Return the offset of the first record that was written at this Unix time or later, None without one."""
        asked = self._partition(max(int(time_s * 1000), 0))
        found = self._request(lambda: self._consumer.offsets_for_times([asked], timeout=REQUEST_TIMEOUT_S)[0])
        if found.error is not None:
            raise FatalError(f"Offsets of topic {self._topic!r} cannot be found by time: {found.error.str()}.")
        return int(found.offset) if found.offset >= 0 else None

    def group_metadata(self) -> Any:
        """Return what a transaction needs to commit an offset for this member."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group; if the partition is still this member's, its listener hands it over first."""
        self._closing = True
        leave(self._consumer, lambda: self._owned)
        self._consumer.close()

    def _partition(self, offset: int | None = None) -> TopicPartition:
        return TopicPartition(self._topic, 0) if offset is None else TopicPartition(self._topic, 0, offset)

    def _guarded(self, action: Callable[[], None]) -> None:
        """An exception that left a callback inside consume() would lose a message: `poll` raises it instead."""
        try:
            action()
        except Exception as failure:
            self._failure = self._failure or failure

    def _request(self, request: Callable[[], _T]) -> _T:
        try:
            return request()
        except KafkaException as failure:
            error = error_of(failure)
            self._raise_if_fatal(error)
            raise FatalError(f"The offsets of topic {self._topic!r} cannot be read: {error.str()}.") from failure

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise FatalError(
                f"Topic {self._topic!r} was recreated, or its retention removed records before they were read "
                f"({error.str()})."
            )
        self._raise_if_fatal(error)
        log.info("Kafka error in a member of group %s: %s", self._group_id, error.str())

    def _raise_if_fatal(self, error: KafkaError) -> None:
        if error.code() in REFUSED:
            raise FatalError(
                f"Kafka does not let this worker read topic {self._topic!r} as a member of group {self._group_id!r} "
                f"({error.str()}). It has to be allowed to read both."
            )
        if error.fatal() or error.code() in FENCED | {KafkaError._FATAL}:
            raise FatalError(
                f"Kafka no longer accepts this member of group {self._group_id!r} ({error.str()}). Another worker with "
                "the same replica id may have started: give every worker its own worker.replica_id."
            )


def _record(message: Message, value: bytes | None) -> PartitionRecord:
    written_s = message.timestamp()[1] / 1e3
    return PartitionRecord(message.offset() or 0, value, message.headers(), message.key(), written_s)


class TailReader:
    """Reads what is appended to a topic's one partition from an offset on, without joining a group."""

    def __init__(self, clients: KafkaClients, *, topic: str, group_id: str, offset: int) -> None:
        """group_id: librdkafka requires one and ACLs apply to it."""
        self._consumer = clients.consumer(
            group_id=group_id, settings={"auto.offset.reset": "earliest", "enable.partition.eof": False}
        )
        self._consumer.assign([TopicPartition(topic, 0, offset)])

    def poll(self, max_records: int = 100, timeout_s: float = 0.0) -> list[PartitionRecord]:
        """Return the records that have arrived, a tombstone with the value None; waits for so long for the first."""
        messages = self._consumer.consume(max_records, timeout_s)
        return [_record(message, message.value()) for message in messages if message.error() is None]

    def close(self) -> None:
        self._consumer.close()

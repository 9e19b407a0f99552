"""Reading a topic whole: every committed record, from a start to the end that the topic has now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Literal, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka import Message as Message
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ClusterMetadata,
    TopicDescription,
)

from tokentrace.errors import ClientFailed, FatalError, Unreachable, UsageError
from tokentrace.kafka.batch import message_offset, message_partition
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.end_offsets import EndOffsets
from tokentrace.kafka.errors import TRANSIENT, UNAUTHORIZED, error_of
from tokentrace.kafka.waiting import Wait
from tokentrace.model.stop import StopSignal

#: Longest time without progress before reading is given up. An open transaction holds readers back for at most
#: its own time-out, which is far shorter.
STALL_TIMEOUT_S: Final = 60.0
REQUEST_TIMEOUT_S: Final = 15.0
#: Longest time between two looks at the stop signal.
LOOK_S: Final = 0.2

_SETTINGS: Final[dict[str, Any]] = {
    "auto.offset.reset": "earliest",
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 50,
}

_T = TypeVar("_T")


def result_of(future: Future[_T], stop: StopSignal) -> _T:
    """Wait for the answer to an admin request. Raises what it was answered with, StopRequested."""
    while True:
        try:
            return future.result(LOOK_S)
        except TimeoutError:
            stop.check()


def retry_transient(request: Callable[[float], _T], timeout_s: float, stop: StopSignal, *, new: str = "") -> _T:
    """Make an admin request again while its error is transient.

    request: makes it with a time-out in seconds, which is long: one that ends before its answer comes can end the
    process, see `end_offsets`. Raises the last KafkaException, after `timeout_s` and a request at
    most, and StopRequested. new: a topic that this process has created, which brokers may not know for a while.
    """
    wait = Wait(stop, timeout_s, level=logging.INFO if new else logging.WARNING)
    waiting = f"Topic {new} is new, and not known to every broker yet (%s)" if new else "Kafka does not answer yet (%s)"
    while True:
        try:
            return request(REQUEST_TIMEOUT_S)
        except KafkaException as failure:
            error = error_of(failure)
            if error.code() not in TRANSIENT or not wait.pause(waiting, error.str()):
                raise


def list_topics(clients: KafkaClients, admin: AdminClient, topic: str | None = None) -> ClusterMetadata:
    """Return the metadata of the cluster, or of one topic. Raises Unreachable if no broker answers, StopRequested."""
    wait = Wait(clients.stop, REQUEST_TIMEOUT_S)
    while True:
        try:
            metadata: ClusterMetadata = admin.list_topics(topic, timeout=wait.request_timeout_s)
            clients.causes.clear()
            return metadata
        except KafkaException as failure:
            error = error_of(failure)
            if error.code() not in TRANSIENT or not wait.pause("%s", clients.unreachable(error)):
                raise Unreachable(clients.unreachable(error)) from failure


def partition_count(clients: KafkaClients, admin: AdminClient, topic: str, timeout_s: float = STALL_TIMEOUT_S) -> int:
    """Return the topic's number of partitions; a topic that was created a moment ago has none at first.

    Raises ClientFailed if there are none in time, Unreachable if no broker answers, StopRequested.
    """
    wait = Wait(clients.stop, timeout_s)
    while not (count := len(list_topics(clients, admin, topic).topics[topic].partitions)):
        if not wait.pause("Topic %s has no partitions yet", topic):
            raise ClientFailed(f"Topic {topic!r} has no partitions.")
    return count


def failed(error: KafkaError, message: str) -> FatalError:
    """Return the error to raise: a ClientFailed where the cause passes with an outage."""
    return ClientFailed(message) if error.code() in TRANSIENT else FatalError(message)


def topic_id(clients: KafkaClients, admin: AdminClient, topic: str) -> str:
    """Return the id that Kafka gave a topic when it was created (KIP-516), empty if it may not be described.

    It tells a topic from another one of the same name. Raises ClientFailed if Kafka does not tell it, StopRequested.
    """
    try:
        describe = partial(_description, clients, admin, topic)
        return str(retry_transient(describe, STALL_TIMEOUT_S, clients.stop).topic_id)
    except KafkaException as failure:
        error = error_of(failure)
        if error.code() in UNAUTHORIZED:
            return ""
        raise ClientFailed(f"Topic {topic!r} cannot be described: {error.str()}.") from failure


def _description(clients: KafkaClients, admin: AdminClient, topic: str, timeout_s: float) -> TopicDescription:
    answers = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)
    description: TopicDescription = result_of(answers[topic], clients.stop)
    return description


class OffsetReader:
    """Reads single records of one topic by their offset, without joining a group or committing."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        """group_id: librdkafka requires one and ACLs apply to it."""
        self._stop = clients.stop
        self._consumer = clients.consumer(group_id=group_id, settings={"fetch.wait.max.ms": 50})
        self._topic = topic

    def read(self, partition: int, offset: int) -> Message | None:
        """Return the record, None if the topic does not retain it. Raises FatalError if the topic cannot be read."""
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])
        wait = Wait(self._stop, STALL_TIMEOUT_S, pause_s=0.01)
        while not (messages := self._consumer.consume(1, 0.5)):
            if not wait.pause("Topic %s is not read yet", self._topic):
                raise FatalError(f"Topic {self._topic!r} cannot be read; is a broker down?")
        (message,) = messages
        error = message.error()
        if error is None:
            return message if message_offset(message) == offset else None
        if error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
            return None
        raise FatalError(f"Topic {self._topic!r} cannot be read: {error.str()}.")

    def close(self) -> None:
        """Free the connections."""
        self._consumer.close()


class TopicReader:
    """Reads one topic whole, without joining a group or committing. Every method raises StopRequested."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        """group_id: librdkafka requires one and ACLs apply to it."""
        self._clients = clients
        self._topic = topic
        self._group_id = group_id

    def exists(self) -> bool:
        """Return whether the topic exists. Raises UsageError if it may not be described, or no broker answers."""
        admin = self._clients.admin()
        if self._topic in list_topics(self._clients, admin).topics:
            return True
        # Kafka lists only the topics that may be described.
        try:
            _description(self._clients, admin, self._topic, REQUEST_TIMEOUT_S)
        except KafkaException as failure:
            if error_of(failure).code() in UNAUTHORIZED:
                raise UsageError(
                    f"Topic {self._topic!r} may not be described with these credentials: grant Describe on it "
                    "(docs/deploy.md has the rights of each command)."
                ) from failure
            return False
        return True

    def topic_id(self) -> str:
        """Return the id that Kafka gave the topic when it was created, empty if it may not be described."""
        return topic_id(self._clients, self._clients.admin(), self._topic)

    def partition_count(self) -> int:
        """Return the topic's number of partitions. Raises FatalError if it has none."""
        return partition_count(self._clients, self._clients.admin(), self._topic)

    def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        """Return partition -> its end, behind open transactions. Raises FatalError if it cannot be found."""
        with self._ends("read_uncommitted") as ends:
            return ends.find(partitions)

    def read_to_end(self, starts: Mapping[int, int], *, await_open: bool = True) -> Iterator[Message]:
        """Give every committed record from `starts` to the end that the partitions have now, each partition in order.

        starts: partition -> first offset. await_open: wait for the transactions that are open below that end; without
        it, give what can be read at once, up to the first of them. Raises FatalError if the topic cannot be read.
        """
        with self._ends("read_uncommitted" if await_open else "read_committed") as all_ends:
            ends = {partition: end for partition, end in all_ends.find(starts).items() if end > starts[partition]}
        if not ends:
            return
        if await_open:
            self._await_transactions(ends)
        consumer = self._clients.consumer(group_id=self._group_id, settings=_SETTINGS)
        try:
            consumer.assign([TopicPartition(self._topic, partition, starts[partition]) for partition in ends])
            wait = Wait(self._clients.stop, STALL_TIMEOUT_S, pause_s=0.01)
            while ends:
                messages = consumer.consume(5000, 0.05)
                if messages:
                    wait.progressed(STALL_TIMEOUT_S)
                elif not wait.pause("Topic %s is not read to its end yet", self._topic):
                    raise ClientFailed(f"Topic {self._topic!r} cannot be read to its end; is a broker down?")
                for message in messages:
                    yield from self._take(message, ends)
        finally:
            consumer.close()

    def _take(self, message: Message, ends: dict[int, int]) -> Iterator[Message]:
        """Give the message if it is a record below its partition's end; remove the partition at its end."""
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise failed(error, f"Topic {self._topic!r} cannot be read: {error.str()}.")
        partition, offset = message_partition(message), message_offset(message)
        if partition not in ends:
            return
        if error is None:
            if offset < ends[partition]:
                yield message
            offset += 1
        # Markers of transactions have offsets too: a partition may end behind its last record.
        if offset >= ends[partition]:
            del ends[partition]

    def _await_transactions(self, ends: Mapping[int, int]) -> None:
        """Wait for the transactions that are open below these ends: readers do not see past them."""
        wait = Wait(self._clients.stop, STALL_TIMEOUT_S, pause_s=0.05)
        with self._ends("read_committed") as readable:
            while any(offset < ends[partition] for partition, offset in readable.find(ends).items()):
                if not wait.pause("A transaction on topic %s has not ended yet", self._topic):
                    raise ClientFailed(f"A transaction on topic {self._topic!r} does not end; is a broker down?")

    def _ends(self, isolation: Literal["read_committed", "read_uncommitted"]) -> EndOffsets:
        return EndOffsets(self._clients, self._topic, self._group_id, isolation)

"""Dead letters: reading them, and sending them back to the topic that they came from.

Backtest is remembered as committed offsets of a consumer group of its own (`<group>.dlq-replay`), so that what has
been sent back once is not sent again unless asked for. A crash in between repeats some, and never loses any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tokentrace.commit.dead_letters import PREFIX
from tokentrace.errors import FatalError, UsageError

_silent = logging.getLogger("librdkafka")
_TIMEOUT_S: Final = 15.0
#: Messages between two commits of the replay's progress.
_REPLAY_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """One record of the dead-letter topic. source: topic, partition and offset of the message as it was consumed."""

    partition: int
    offset: int
    reason: str
    error: str
    source: tuple[str, int, int]
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int | None


class DeadLetters:
    """The dead-letter topic of one consumer group."""

    def __init__(self, client_config: Mapping[str, Any], topic: str, group_id: str) -> None:
        """client_config: properties of librdkafka, with bootstrap.servers."""
        self._config = dict(client_config)
        self._topic = topic
        self._consumer = Consumer(
            {
                **self._config,
                "group.id": f"{group_id}.dlq-replay",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
            },
            logger=_silent,
        )

    def close(self) -> None:
        """Free the connections."""
        self._consumer.close()

    def read(self, after_replayed: bool = False) -> Iterator[DeadLetterRecord]:
        """Every record that is there now, partition by partition in the log's order.

        after_replayed: start where the last replay ended. Raises UsageError when there is no such topic or broker.
        """
        partitions = self._partitions()
        if after_replayed:
            committed = self._consumer.committed(
                [TopicPartition(self._topic, p) for p in partitions], timeout=_TIMEOUT_S
            )
            starts = {each.partition: each.offset for each in committed if each.offset >= 0}
        else:
            starts = {}
        ends = {}
        offsets = []
        for partition in partitions:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_TIMEOUT_S)
            start = max(starts.get(partition, low), low)
            if start < high:
                ends[partition] = high
                offsets.append(TopicPartition(self._topic, partition, start))
        self._consumer.assign(offsets)
        deadline_s = time.monotonic() + _TIMEOUT_S
        while ends:
            # consume() waits for all that it is asked for, so the wait is short and repeated.
            messages = self._consumer.consume(500, 0.1)
            if messages:
                deadline_s = time.monotonic() + _TIMEOUT_S
            elif time.monotonic() > deadline_s:
                raise FatalError(f"Kafka stopped answering while {self._topic} was read; try again.")
            for message in messages:
                error = message.error()
                partition = _partition(message)
                if partition not in ends:
                    continue
                if error is None:
                    record = _record(message)
                    if record.offset < ends[partition]:
                        yield record
                    if record.offset >= ends[partition] - 1:
                        del ends[partition]
                elif error.code() == KafkaError._PARTITION_EOF:
                    # Transaction markers take offsets that no message has.
                    del ends[partition]
                else:
                    raise FatalError(f"{self._topic} cannot be read: {error.str()}.")
        self._consumer.unassign()

    def replay(self, wanted: Callable[[DeadLetterRecord], bool], *, again: bool, dry_run: bool) -> dict[str, int]:
        """Send records back, byte for byte and with their own headers. Returns topic -> how many.

        again: also those that a replay has already passed. Records that are not wanted are passed over.
        Raises FatalError when one cannot be delivered; what went before is remembered.
        """
        config = {**self._config, "enable.idempotence": True, "message.max.bytes": 1_000_000_000}
        producer = Producer(config, logger=_silent)
        sent: dict[str, int] = {}
        positions: dict[int, int] = {}
        pending = 0
        for record in self.read(after_replayed=not again):
            positions[record.partition] = record.offset + 1
            if wanted(record):
                topic = record.source[0]
                sent[topic] = sent.get(topic, 0) + 1
                if not dry_run:
                    self._send(producer, record)
                    pending += 1
            if pending >= _REPLAY_BATCH:
                self._settle(producer, positions)
                pending = 0
        if not dry_run:
            self._settle(producer, positions)
        return sent

    def _send(self, producer: Producer, record: DeadLetterRecord) -> None:
        headers: list[tuple[str, str | bytes | None]] = [
            (name, value) for name, value in record.headers if not name.startswith(PREFIX)
        ]
        while True:
            try:
                producer.produce(
                    record.source[0], key=record.key, value=record.value, headers=headers, on_delivery=self._on_delivery
                )
                return
            except BufferError:
                producer.poll(0.1)
            except KafkaException as failure:
                raise FatalError(f"{record.source[0]} cannot be written: {failure.args[0].str()}.") from failure

    _failure: KafkaError | None = None

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        self._failure = self._failure or error

    def _settle(self, producer: Producer, positions: Mapping[int, int]) -> None:
        """Wait for every delivery, then remember how far the replay has come."""
        left = producer.flush(_TIMEOUT_S)
        if self._failure is not None or left:
            why = self._failure.str() if self._failure is not None else "the broker does not acknowledge it"
            raise FatalError(f"A dead letter could not be sent back: {why}.")
        if positions:
            offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in positions.items()]
            self._consumer.commit(offsets=offsets, asynchronous=False)

    def _partitions(self) -> list[int]:
        servers = self._config["bootstrap.servers"]
        try:
            topic = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic]
        except KafkaException as failure:
            raise UsageError(
                f"No Kafka broker answers at {servers} ({failure.args[0].str()}); check kafka.bootstrap_servers."
            ) from failure
        if topic.error is not None:
            raise UsageError(
                f"There is no topic {self._topic!r} at {servers}; a worker makes it when it starts. "
                "Check kafka.dead_letter_topic."
            )
        return sorted(topic.partitions)


def _record(message: Message) -> DeadLetterRecord:
    headers: tuple[tuple[str, bytes | None], ...] = tuple(message.headers() or ())  # type: ignore[arg-type]
    own = {name.removeprefix(PREFIX): (value or b"").decode("utf-8", "replace") for name, value in headers}
    kind, timestamp_ms = message.timestamp()
    offset = message.offset()
    assert offset is not None
    return DeadLetterRecord(
        partition=_partition(message),
        offset=offset,
        reason=own.get("reason", ""),
        error=own.get("error", ""),
        source=(own.get("topic", ""), _int(own.get("partition")), _int(own.get("offset"))),
        key=message.key(),
        value=message.value(),
        headers=headers,
        timestamp_ms=timestamp_ms if kind else None,
    )


def _partition(message: Message) -> int:
    partition = message.partition()
    assert partition is not None
    return partition


def _int(text: str | None) -> int:
    return int(text) if text is not None and text.lstrip("-").isdigit() else -1

"""Batches: consumed messages as a RawBatch, which is the last that knows of Kafka's messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from tokentrace.model.messages import Envelope, RawBatch

#: Partition -> rows of its first and last message.
Extents = Mapping[int, tuple[int, int]]


def message_partition(message: Message) -> int:
    """Return the partition of a consumed message."""
    partition = message.partition()
    assert partition is not None
    return partition


def message_offset(message: Message) -> int:
    """Return the offset of a consumed message."""
    offset = message.offset()
    assert offset is not None
    return offset


def message_partitions(messages: Sequence[Message]) -> NDArray[np.int32]:
    """Return int32[n], the partition of each message."""
    return np.fromiter(map(Message.partition, messages), np.int32, len(messages))


def extents_of(partitions: NDArray[np.int32]) -> dict[int, tuple[int, int]]:
    """Return the extents of int32[n] partitions. Within a partition, consume() keeps the log's order."""
    extents = {}
    last = len(partitions) - 1
    for partition in np.flatnonzero(np.bincount(partitions)):
        here = partitions == partition
        extents[int(partition)] = (int(here.argmax()), last - int(here[::-1].argmax()))
    return extents


def raw_batch(
    messages: Sequence[Message], partitions: NDArray[np.int32], extents: Extents, clock: Callable[[], float]
) -> RawBatch:
    """Return the messages as a batch. clock: Unix time in seconds, for messages without a timestamp."""

    def time_ms(message: Message) -> int:
        kind, timestamp_ms = message.timestamp()
        return timestamp_ms if kind else int(clock() * 1000)

    return RawBatch(
        values=list(map(Message.value, messages)),
        partitions=partitions,
        positions={partition: message_offset(messages[last]) + 1 for partition, (_, last) in extents.items()},
        envelope=lambda row: _envelope(messages[row]),
        times_ms={
            partition: (time_ms(messages[first]), time_ms(messages[last]))
            for partition, (first, last) in extents.items()
        },
        timestamps_ms=lambda rows: np.array([time_ms(messages[row]) for row in rows.tolist()], np.int64),
    )


def _envelope(message: Message) -> Envelope:
    kind, timestamp_ms = message.timestamp()
    return Envelope(
        topic=message.topic() or "",
        partition=message_partition(message),
        offset=message_offset(message),
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),  # type: ignore[arg-type]
        timestamp_ms=timestamp_ms if kind else None,
    )

"""Batches: consumed messages as a RawBatch, which is the last that knows of Kafka's messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter, methodcaller
from typing import Any, Final

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from tokentrace.model.messages import OTHER_GROUP_VALUE, SCHEMA_HEADERS, Envelope, RawBatch

#: Header of a replayed message: the consumer group that counts it.
TARGET_GROUP: Final = "tokentrace.target_group"

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
    messages: Sequence[Message],
    partitions: NDArray[np.int32],
    extents: Extents,
    clock: Callable[[], float],
    group_id: str,
) -> RawBatch:
    """Return the messages as a batch. clock: Unix time in seconds, for messages without a timestamp.

    group_id: the group that counts them.
    """

    def time_ms(message: Message) -> int:
        kind, timestamp_ms = message.timestamp()
        return timestamp_ms if kind else int(clock() * 1000)

    values = list(map(Message.value, messages))
    headers = _all_headers(messages)
    names = _names_in(headers)
    if TARGET_GROUP in names:
        for row in _rows_of_other_groups(headers, group_id.encode()):
            values[row] = OTHER_GROUP_VALUE
    return RawBatch(
        values=values,
        partitions=partitions,
        positions={partition: message_offset(messages[last]) + 1 for partition, (_, last) in extents.items()},
        envelope=lambda row: envelope_of(messages[row]),
        times_ms={
            partition: (time_ms(messages[first]), time_ms(messages[last]))
            for partition, (first, last) in extents.items()
        },
        timestamps_ms=lambda rows: np.array([time_ms(messages[row]) for row in rows.tolist()], np.int64),
        keys=lambda: list(map(Message.key, messages)),
        headers=lambda name: _values_of(_all_headers(messages), name, len(messages)),
        schema_headers=_schema_headers(headers, names),
    )


def schema_headers(messages: Sequence[Message]) -> dict[str, list[bytes | str | None]]:
    """Return the values of each header of SCHEMA_HEADERS that any message has; see `RawBatch`."""
    headers = _all_headers(messages)
    return _schema_headers(headers, _names_in(headers))


def _schema_headers(headers: list[Any], names: Collection[str]) -> dict[str, list[bytes | str | None]]:
    return {name: _values_of(headers, name, len(headers)) for name in SCHEMA_HEADERS if name in names}


def _names_in(headers: list[Any]) -> set[str]:
    return set(map(itemgetter(0), chain.from_iterable(filter(None, headers))))


def _all_headers(messages: Sequence[Message]) -> list[Any]:
    """Return the headers of each message, nothing if no message has any. Runs no Python code per message."""
    return list(map(Message.headers, messages)) if any(map(Message.headers, messages)) else []


def _values_of(headers: list[Any], name: str, n: int) -> list[bytes | str | None]:
    """Return a header of each of n messages. Runs no Python code per message where each has headers."""
    if not headers:
        return [None] * n
    if None in headers:
        headers = [found or () for found in headers]
    return list(map(methodcaller("get", name), map(dict, headers)))


def _rows_of_other_groups(headers: Sequence[Any], group: bytes) -> Iterator[int]:
    """Yield the rows of messages that a replay has sent to another group."""
    for row, found in enumerate(headers):
        if any(name == TARGET_GROUP and value != group for name, value in found or ()):
            yield row


def envelope_of(message: Message) -> Envelope:
    """Return a message with all that it has."""
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

"""Batches: what a RawBatch says of the messages that it was made of."""

from __future__ import annotations

import numpy as np
from confluent_kafka import Message

from tokentrace.kafka.batch import extents_of, message_partitions, raw_batch


def message(partition: int, offset: int, timestamp: tuple[int, int]) -> Message:
    return Message(
        topic="t", partition=partition, offset=offset, key=b"k", value=b"v%d" % offset, headers=[("h", b"1")],
        timestamp=timestamp,
    )  # fmt: skip


MESSAGES = [message(2, 8, (1, 1000)), message(0, 5, (1, 2000)), message(2, 9, (0, -1)), message(2, 12, (2, 4000))]


def test_extents_are_the_rows_of_the_first_and_last_message_of_a_partition() -> None:
    partitions = message_partitions(MESSAGES)
    assert partitions.dtype == np.int32
    assert extents_of(partitions) == {0: (1, 1), 2: (0, 3)}


def test_a_raw_batch_has_positions_and_times_by_partition() -> None:
    partitions = message_partitions(MESSAGES)
    batch = raw_batch(MESSAGES, partitions, extents_of(partitions), lambda: 7.0)
    assert list(batch.values) == [b"v8", b"v5", b"v9", b"v12"]
    assert batch.positions == {0: 6, 2: 13}
    assert batch.times_ms == {0: (2000, 2000), 2: (1000, 4000)}
    assert batch.timestamps_ms(np.array([0, 2, 3])).tolist() == [1000, 7000, 4000], "without a timestamp: now"


def test_an_envelope_is_the_whole_message() -> None:
    partitions = message_partitions(MESSAGES)
    batch = raw_batch(MESSAGES, partitions, extents_of(partitions), lambda: 7.0)
    envelope = batch.envelope(0)
    assert (envelope.topic, envelope.partition, envelope.offset) == ("t", 2, 8)
    assert (envelope.key, envelope.value, envelope.headers) == (b"k", b"v8", (("h", b"1"),))
    assert [batch.envelope(row).timestamp_ms for row in (0, 2, 3)] == [1000, None, 4000]

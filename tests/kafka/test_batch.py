"""Batches: what a RawBatch says of the messages that it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from confluent_kafka import Message

from tokentrace.kafka.batch import TARGET_GROUP, extents_of, message_partitions, raw_batch, schema_headers
from tokentrace.model.messages import CONFLUENT_SCHEMA_ID, OTHER_GROUP_VALUE


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
    batch = raw_batch(MESSAGES, partitions, extents_of(partitions), lambda: 7.0, "g")
    assert list(batch.values) == [b"v8", b"v5", b"v9", b"v12"]
    assert batch.positions == {0: 6, 2: 13}
    assert batch.times_ms == {0: (2000, 2000), 2: (1000, 4000)}
    assert batch.timestamps_ms(np.array([0, 2, 3])).tolist() == [1000, 7000, 4000], "without a timestamp: now"


@pytest.mark.parametrize("others", [[], [("trace", b"1")]], ids=["alone", "beside other headers"])
def test_a_message_that_a_replay_has_sent_to_another_group_has_no_value(others: list[tuple[str, bytes | None]]) -> None:
    targets = [None, b"mine", b"theirs", None, b"theirs"]
    messages = [
        Message(
            topic="t", partition=0, offset=offset, value=b"v%d" % offset,
            headers=[*others, *([] if target is None else [(TARGET_GROUP, target)])] or None,
        )
        for offset, target in enumerate(targets)
    ]  # fmt: skip
    partitions = message_partitions(messages)
    batch = raw_batch(messages, partitions, extents_of(partitions), lambda: 7.0, "mine")
    assert [value is OTHER_GROUP_VALUE for value in batch.values] == [False, False, True, False, True]
    assert [batch.values[row] for row in (0, 1, 3)] == [b"v0", b"v1", b"v3"]
    assert batch.envelope(2).value == b"v2"
    assert batch.positions == {0: 5}


@pytest.mark.parametrize("bare", [False, True], ids=["all have headers", "some have none"])
def test_a_batch_gives_keys_and_headers_of_its_messages(bare: bool) -> None:
    headers: list[list[tuple[str, bytes | None]] | None] = [[("a", b"1"), ("b", b"2")], [("a", b"3"), ("a", b"4")]]
    headers += [[("b", None)], None if bare else [("c", b"5")]]
    messages = [
        Message(topic="t", partition=0, offset=row, key=None if row == 1 else b"k%d" % row, value=b"v", headers=found)
        for row, found in enumerate(headers)
    ]
    partitions = message_partitions(messages)
    batch = raw_batch(messages, partitions, extents_of(partitions), lambda: 7.0, "g")
    assert list(batch.all_keys()) == [b"k0", None, b"k2", b"k3"]
    assert list(batch.all_headers("a")) == [b"1", b"4", None, None]
    assert list(batch.all_headers("b")) == [b"2", None, None, None]
    part = batch.select(np.array([1, 2]))
    assert (list(part.all_keys()), list(part.all_headers("a"))) == ([None, b"k2"], [b"4", None])


@pytest.mark.parametrize("bare", [False, True], ids=["all have headers", "some have none"])
def test_a_batch_has_the_headers_that_name_schemas_and_its_parts_have_them_too(bare: bool) -> None:
    name, guid = CONFLUENT_SCHEMA_ID, b"\1" + bytes(range(16))
    headers: list[list[tuple[str, bytes]] | None] = [[("a", b"1")], [(name, guid), ("a", b"1")]]
    headers.append(None if bare else [("c", b"")])
    messages = [
        Message(topic="t", partition=0, offset=row, value=b"v", headers=found) for row, found in enumerate(headers)
    ]
    partitions = message_partitions(messages)
    batch = raw_batch(messages, partitions, extents_of(partitions), lambda: 7.0, "g")
    assert batch.schema_headers == schema_headers(messages) == {name: [None, guid, None]}
    assert batch.select(np.array([1, 2])).schema_headers == {name: [guid, None]}
    assert raw_batch(MESSAGES, message_partitions(MESSAGES), {}, lambda: 7.0, "g").schema_headers == {}


def test_an_envelope_is_the_whole_message() -> None:
    partitions = message_partitions(MESSAGES)
    batch = raw_batch(MESSAGES, partitions, extents_of(partitions), lambda: 7.0, "g")
    envelope = batch.envelope(0)
    assert (envelope.topic, envelope.partition, envelope.offset) == ("t", 2, 8)
    assert (envelope.key, envelope.value, envelope.headers) == (b"k", b"v8", (("h", b"1"),))
    assert [batch.envelope(row).timestamp_ms for row in (0, 2, 3)] == [1000, None, 4000]

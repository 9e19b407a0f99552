"""Damaged records of tokentrace's own topics: one line that says which one it is and how to go on, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Message

from tests.aggregate.test_dedup import NOW_S
from tests.golden import golden
from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tests.state.test_admin import Parts, parts, written
from tests.state.test_positions import StateTopic, offsets_of, positions, state
from tests.state.test_wide_totals import absurd, topic, write
from tokentrace.aggregate.dedup import DedupChunk
from tokentrace.errors import UnreadableRecord
from tokentrace.model.snapshot import ExpiredKey, ExpiredTotals
from tokentrace.state import StateReader, expired_key, replica_key
from tokentrace.state.dedup_records import DedupReader, decode_dedup_chunk, dedup_key, encode_dedup_chunk
from tokentrace.state.headers import Header
from tokentrace.state.keys import parse_key
from tokentrace.state.log_generations import HEADER as GENERATIONS
from tokentrace.state.positions import CountedPositions
from tokentrace.state.records import is_wide
from tokentrace.state.schemas import decode_record, encode_record, record_schemas

__all__ = ["parts", "positions", "state", "topic"]

#: Ways in which a record is damaged.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda value: b"",
    "cut to a half": lambda value: value[: len(value) // 2],
    "cut by a byte": lambda value: value[:-1],
    "longer by a byte": lambda value: value + b"\0",
    "garbage": lambda value: b"\xff\xfe garbage \x00\x01",
    "another schema": lambda value: value[:3] + bytes([value[3] ^ 1]) + value[4:],
    "garbage behind its schema": lambda value: value[:10] + b"\xff" * 30,
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


def records_of_every_kind() -> dict[str, bytes]:
    """Name of the schema -> a record of it."""
    found: dict[str, bytes] = {}
    for pairs in golden("0.1.0")[0].values():
        for _, value in pairs:
            name = record_schemas().name(value or b"")
            if name is not None:
                found.setdefault(name, value)
    cell = decode_record(found["state-cell"], "state-cell")
    found["state-cell-wide"] = encode_record("state-cell-wide", {**cell, "carried": {"cost_nano_usd": 2}})
    return found


@pytest.mark.parametrize(("name", "value"), records_of_every_kind().items(), ids=str)
def test_decode_of_any_damaged_record_is_a_record_or_says_that_it_cannot_be_read(name: str, value: bytes) -> None:
    value = value[:700]
    cuts = [value[:end] for end in range(len(value) - 1)]
    flips = [
        value[:place] + bytes([value[place] ^ flip]) + value[place + 1 :]
        for place in range(len(value))
        for flip in (0x01, 0x80, 0xFF)
    ]
    said = []
    for found in [*cuts, *flips]:
        try:
            decode_record(found, name)
        except UnreadableRecord as error:
            said.append(str(error))
            continue
        assert found not in cuts, "a part of a record is not a record"
    assert len(said) >= len(cuts)
    assert not [line for line in said if "\n" in line]


@damaged
@pytest.mark.parametrize("name", sorted(records_of_every_kind()))
def test_decode_rejects_damage_of_every_kind(name: str, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UnreadableRecord):
        decode_record(damage(records_of_every_kind()[name]), name)


def of_kind(records: Mapping[bytes, bytes | None], kind: str) -> bytes:
    """Return the key of a record of this kind."""
    for key, value in records.items():
        parsed = parse_key(key)
        if parsed is None or value is None:
            continue
        found = "replica" if parsed[1] is None else "expired" if isinstance(parsed[1], ExpiredKey) else "cell"
        if found == "cell" and is_wide(value):
            found = "wide cell"
        if found == kind:
            return key
    raise AssertionError(kind)


@damaged
@pytest.mark.parametrize("kind", ["replica", "cell", "wide cell", "expired"])
def test_restore_names_the_damaged_record_and_the_remedy(
    topic: Any, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    rig = Harness()
    rig.count(absurd(20_000))
    rig.count(absurd(1, model="small"))
    rig.commit()
    totals = rig.ledger.totals
    totals.expired[ExpiredKey("m", "p", 0)] = ExpiredTotals(np.ones(LAYOUT.width, np.int64), 5.0)  # type: ignore[index]
    write(topic, rig)
    key = of_kind(topic.records, kind)
    topic.records[key] = damage(topic.records[key])
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "the.state", "g")
    with pytest.raises(UnreadableRecord) as failure:
        reader.restore("a", LAYOUT, Harness().groups, "spans")
    line = str(failure.value)
    offset = list(topic.records).index(key)
    assert line.startswith(f"The record at offset {offset} of topic 'the.state', partition 0, key {key.decode()!r} ")
    assert "tokentrace state reset --totals --replica a" in line
    assert "\n" not in line


def test_restore_passes_over_damaged_records_of_another_replica_in_its_partition(topic: Any) -> None:
    rig = Harness()
    rig.count(absurd(3))
    rig.commit()
    write(topic, rig)
    topic.records |= {replica_key("b"): b"junk", expired_key("b", ExpiredKey("m", "p", 0)): b""}
    reader = StateReader(ScriptedClients(producer=ScriptedProducer), "state", "g")
    totals = reader.restore("a", LAYOUT, Harness().groups, "spans")
    assert totals is not None
    assert totals.positions == rig.ledger.totals.positions


@damaged
def test_state_admin_names_a_damaged_record_and_removes_it_with_the_totals_of_its_replica(
    parts: Parts, damage: Callable[[bytes], bytes]
) -> None:
    admin, topic, _, clients = parts
    topic.records[replica_key("a")] = damage(topic.records[replica_key("a")] or b"")
    for command in (admin.replicas, admin.counted_up_to, lambda: admin.forget_positions("a")):
        with pytest.raises(UnreadableRecord, match=re.escape("""topic 'state', partition 0, key '["a"]'""")):
            command()
    admin.forget_totals("a")
    written(clients, topic)
    topic.records = {key: value for key, value in topic.records.items() if value is not None}
    assert [totals.replica for totals in admin.replicas()] == ["b"]


def test_state_admin_knows_the_positions_though_a_cell_is_damaged(parts: Parts) -> None:
    admin, topic, *_ = parts
    topic.records[of_kind(topic.records, "cell")] = b"junk"
    assert admin.counted_up_to() == {0: 50}


@damaged
def test_positions_pass_over_the_damaged_record_of_another_replica_and_say_so_once(
    state: StateTopic,
    positions: CountedPositions,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    state.commit("good", {0: 5})
    state.commit("bad", {0: 9, 1: 4})
    (value,) = [value for log in state.logs for key, value, *_ in log if key == replica_key("bad")]
    assert offsets_of(positions) == {0: 9, 1: 4}
    state.put("bad", replica_key("bad"), damage(value or b""))
    state.commit("good", {0: 7})
    for _ in range(3):
        assert offsets_of(positions) == {0: 9, 1: 4}, "what the replica has counted before is still compared"
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.match(
        r"""The record at offset 1 of topic 'state', partition \d+, key '\["bad"\]' cannot be read: """, line
    )
    state.commit("bad", {0: 12})
    assert offsets_of(positions) == {0: 12}


class DedupTopic:
    """The deduplication topic, in the place of its reader."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self.records = records
        self.headers: list[Header] | None = None

    def partition_count(self) -> int:
        return 1

    def read_to_end(self, _: Mapping[int, int]) -> Iterator[Message]:
        for offset, (key, value) in enumerate(self.records.items()):
            yield Message(topic="ids", partition=0, offset=offset, key=key, value=value, headers=self.headers)


@damaged
def test_dedup_reader_names_the_damaged_record_and_the_remedy(
    damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [DedupChunk(0, position, 0, NOW_S, np.arange(9, dtype=np.uint64)) for position in (3, 5)]
    records = {dedup_key("spans", chunk): encode_dedup_chunk(chunk) for chunk in chunks}
    key = dedup_key("spans", chunks[1])
    records[key] = damage(records[key])
    monkeypatch.setattr("tokentrace.state.dedup_records.TopicReader", lambda *_: DedupTopic(records))
    reader = DedupReader(ScriptedClients(producer=ScriptedProducer), "ids", "g")
    with pytest.raises(UnreadableRecord) as failure:
        reader.read("spans", [0])
    line = str(failure.value)
    assert line.startswith(f"The record at offset 1 of topic 'ids', partition 0, key {key.decode()!r} cannot be read: ")
    assert "restore the topic from a copy, or delete it" in line


def test_dedup_reader_rejects_a_part_of_an_id() -> None:
    value = encode_record("seen-chunk", {"published_at": 5, "keys": b"nine bytes"})
    with pytest.raises(UnreadableRecord, match="a part of an id"):
        decode_dedup_chunk(0, 1, 0, value)


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"\xff", b'{"topic": "spans"}', b'{"topic": "spans", "partitions": {"a": 1}}']
)
def test_positions_pass_over_a_damaged_header_of_another_replica(
    state: StateTopic, positions: CountedPositions, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    state.commit("good", {0: 5})
    state.commit("bad", {0: 9})
    (value,) = [value for log in state.logs for key, value, _ in log if key == replica_key("bad")]
    state.put("bad", replica_key("bad"), value, [(GENERATIONS, header)])
    assert offsets_of(positions) == {0: 5}
    assert f"The header {GENERATIONS} of a record is damaged" in caplog.text

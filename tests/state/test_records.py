"""The records of the state: what goes in comes out, by name, and what cannot be read is refused."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import fastavro
import numpy as np
import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form

from tests.harness import LAYOUT, Harness
from tests.services import ROOT
from tests.spanfactory import message, random_span
from tokentrace.errors import FatalError
from tokentrace.kafka.producer import partition_of
from tokentrace.model.measures import SUMS, Layout
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec, cell_key, replica_key
from tokentrace.state.keys import parse_key
from tokentrace.state.records import ROLLUP_BYTES, Progress, decode_positions
from tokentrace.state.schemas import decode_record


@pytest.fixture
def rig() -> Harness:
    rig = Harness()
    rng = random.Random(3)
    rig.count([message(random_span(rng)) for _ in range(500)] + [b"junk"])
    return rig


@pytest.mark.parametrize("name", ["x", "ünï-cödé", 'quo"te', ""])
def test_keys_come_back(name: str) -> None:
    assert parse_key(replica_key(name)) == (name, None)
    assert parse_key(cell_key("r", Group(name, "p", name), 2)) == ("r", (Group(name, "p", name), 2))


@pytest.mark.parametrize(
    "key", [None, b"", b"no json", b"{}", b"[1]", b'["a","b"]', b'["r","m","p","c","fine"]', b"\xff"]
)
def test_other_keys_are_none_of_ours(key: bytes | None) -> None:
    assert parse_key(key) is None


def test_totals_come_back(rig: Harness) -> None:
    rig.commit()
    totals = rig.ledger.totals
    codec = StateCodec(LAYOUT)
    cells = [codec.cell(value) for value in codec.cells(totals.values, totals.created_s)]
    rows = np.array([row for row, _ in cells], np.int64)
    created_s = np.array([created for _, created in cells])
    value = codec.replica("r0", "spans", totals)
    again = codec.totals(value, rows, created_s, totals.changed_s, "spans")
    assert (again.values == totals.values).all()
    assert again.created_s == pytest.approx(totals.created_s)
    assert again.rejected == totals.rejected
    assert sum(totals.rejected.values()) >= 1
    assert (dict(again.partitions), dict(again.positions)) == (dict(totals.partitions), dict(totals.positions))
    assert codec.totals(value, rows, created_s, totals.changed_s, "another topic").positions == {}
    assert decode_positions(value, "spans") == {0: 501}


def rollup(value: bytes) -> Any:
    return decode_record(value, "rollup")


PROGRESS = Progress(12, {3: 1_790_000_000_000_000, 0: 1_790_000_000_000_001}, 7)


def test_a_commit_tells_how_far_event_time_has_come_once_and_after_its_rows() -> None:
    codec = StateCodec(LAYOUT)
    rows = ROLLUP_BYTES // 75
    minutes, cells = np.arange(rows), [(Group("m", "p", "c"), 0)] * rows
    values = np.ones((rows, LAYOUT.width), np.int64)
    records = list(map(rollup, codec.rollups("r", 5.0, minutes, cells, values, PROGRESS)))
    assert sum(len(record["rows"]) for record in records) == rows
    assert [record["clamped"] for record in records] == [0, 7]
    assert [record["source_partitions"] for record in records] == [12, 12]
    reached = [
        {partition["partition"]: partition["event_time"] for partition in record["reached"]} for record in records
    ]
    assert reached == [{}, PROGRESS.reached_us]
    alone = list(codec.rollups("r", 5.0, minutes[:0], [], values[:0], PROGRESS))
    assert [(record["rows"], record["clamped"]) for record in map(rollup, alone)] == [([], 7)]
    assert list(codec.rollups("r", 5.0, minutes[:0], [], values[:0], Progress(12))) == []


def test_rollups_add_up_to_the_changes_and_come_back_by_name(rig: Harness) -> None:
    changes = rig.delta.changes()
    rows = rig.delta.by_minute()
    groups = rig.groups
    cells = [(groups.groups[groups.cell_group[cell]], int(groups.cell_status[cell])) for cell in rows.cells]
    codec = StateCodec(LAYOUT)
    records = list(map(rollup, codec.rollups("r0", 5.0, rows.minutes, cells, rows.values, PROGRESS)))
    assert {record["replica"] for record in records} == {"r0"}
    total = np.zeros(LAYOUT.width, np.int64)
    for record in records:
        minutes, found, values = codec.rollup_rows(record)
        assert len(minutes) == len(found) == len(values)
        total += values.sum(axis=0)
        for row, sums in zip(record["rows"], values, strict=True):
            assert {name: row["counts"][name] for name in SUMS} == dict(zip(SUMS, sums.tolist(), strict=False))
    assert (total == changes.values.sum(axis=0)).all()


@pytest.mark.parametrize(
    ("units", "file"), [({}, "history/0.1.0/state-cell.avsc"), ({"usage": {"page": 2}}, "state-cell.avsc")]
)
def test_records_can_be_read_with_the_schema_files_alone(units: dict[str, Any], file: str) -> None:
    """As a warehouse would: by fastavro, with the file whose fingerprint the value names."""
    rig = Harness()
    rig.count([message({**random_span(random.Random(1)), **units})])
    rig.commit()
    totals = rig.ledger.totals
    value = next(iter(StateCodec(LAYOUT).cells(totals.values, totals.created_s)))
    schema = json.loads((ROOT / "schemas" / file).read_text())
    header = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
    assert value[:10] == header
    record = fastavro.schemaless_reader(io.BytesIO(value[10:]), fastavro.parse_schema(schema), None)
    assert record["counts"]["spans"] == totals.values[0, Layout.column("spans")]


def test_other_buckets_are_refused(rig: Harness) -> None:
    rig.commit()
    totals = rig.ledger.totals
    value = StateCodec(LAYOUT).replica("r0", "spans", totals)
    other = StateCodec(Layout.build({"ttft_ms": (1.0, 2.0)}))
    with pytest.raises(FatalError, match=r"other buckets \(ttft_ms\)"):
        other.totals(value, totals.values, totals.created_s, totals.changed_s, "spans")


def test_record_of_a_newer_version_is_refused() -> None:
    with pytest.raises(FatalError, match="newer version"):
        decode_record(b"\xc3\x01" + bytes(8) + b"x", "state-cell")


def test_replicas_are_spread_over_the_partitions_and_stay_there() -> None:
    found = [partition_of(f"tokentrace-{index}", 12) for index in range(200)]
    assert set(found) == set(range(12))
    assert found == [partition_of(f"tokentrace-{index}", 12) for index in range(200)]

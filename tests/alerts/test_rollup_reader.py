"""Rollup records read as arrays, against fastavro."""

from __future__ import annotations

import random
from typing import Never

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import LAYOUT
from tests.model.test_varint import random_rows
from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.errors import UnreadableRecord
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec, replica_key
from tokentrace.state.records import Progress
from tokentrace.state.schemas import decode_record

LABELS = st.text(max_size=5) | st.text(st.characters(max_codepoint=127), max_size=200) | st.just("gpt-4o")
VALUES = LABELS.filter(bool)
DIMENSIONS = st.dictionaries(VALUES, VALUES, max_size=4).map(lambda values: tuple(sorted(values.items())))
GROUPS = st.lists(st.builds(Group, LABELS, LABELS, LABELS, st.just(()) | DIMENSIONS), min_size=1, max_size=6)
EVERY = np.arange(LAYOUT.width)


class Numbers:
    def __init__(self) -> None:
        self.groups: list[Group] = []

    def __call__(self, group: Group) -> int:
        if group not in self.groups:
            self.groups.append(group)
        return self.groups.index(group)


def _never(value: bytes) -> Never:
    raise AssertionError("This record is as tokentrace writes it.")


@given(GROUPS, st.integers(0, 40), st.integers(0, 1 << 30), st.sampled_from(["of one day", "any", "negative too"]))
def test_a_record_is_read_as_fastavro_reads_it(groups: list[Group], rows: int, seed: int, minute: str) -> None:
    rng = random.Random(seed)
    codec, numbers = StateCodec(LAYOUT), Numbers()
    columns = EVERY if seed % 3 else np.array(sorted(rng.sample(range(LAYOUT.width), 9)))
    reader = RollupReader(LAYOUT, columns, numbers)
    # Only these are used by rules: latency's and ttft's own sums are not.
    used = [
        c for c in columns.tolist() if c not in (LAYOUT.histograms["latency_ms"].sum, LAYOUT.histograms["ttft_ms"].sum)
    ]
    keep = [columns.tolist().index(c) for c in used]
    values = random_rows(LAYOUT, rows)
    from_, to = {"of one day": (29_000_000, 29_001_440), "any": (0, 1 << 40), "negative too": (-5, 1 << 40)}[minute]
    minutes = np.array([rng.randrange(from_, to) for _ in range(rows)], np.int64)
    if minute == "of one day":
        reader._resolved = _never  # type: ignore[method-assign]
    cells = [(rng.choice(groups), rng.randrange(3)) for _ in range(rows)]
    progress = Progress(7, {1: 5, 0: 1 << 50}, 3)
    for _ in range(2):  # Once with names that are new, once with known ones.
        found = [reader.read(value) for value in codec.rollups("r", 5.0, minutes, cells, values, progress)]
        assert [item.committed_at_us for item in found] == [5_000_000]
        assert (found[0].source_partitions, found[0].reached_us, found[0].clamped) == (7, {1: 5, 0: 1 << 50}, 3)
        assert found[0].minutes.tolist() == minutes.tolist()
        assert [numbers.groups[g] for g in found[0].groups] == [group for group, _ in cells]
        assert found[0].statuses.tolist() == [status for _, status in cells]
        assert (found[0].values[:, keep] == values[:, used]).all()


def test_histograms_with_other_buckets_are_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    other = Layout.build({"latency_ms": (1.0, 2.0)})
    values = np.ones((1, other.width), np.int64)
    record = next(StateCodec(other).rollups("r", 5.0, np.array([9]), [(Group("m", "p", "c"), 1)], values, Progress()))
    reader = RollupReader(LAYOUT, EVERY, Numbers())
    for _ in range(2):
        found = reader.read(record)
        assert found.values[0, LAYOUT.histograms["latency_ms"].buckets].tolist() == [0] * 11
        assert found.values[0, LAYOUT.histograms["ttft_ms"].buckets].tolist() == [1] * 11
        assert found.values[0, LAYOUT.column("spans")] == 1
    assert caplog.text.count("latency_ms") == 1


@pytest.mark.parametrize("blocks", ["size", "many"])
def test_blocks_of_other_writers_are_read(blocks: str) -> None:
    """An array may come in several blocks, and each may tell its size in bytes."""
    codec, numbers = StateCodec(LAYOUT), Numbers()
    values = random_rows(LAYOUT, 3)
    # None of them is plain, so that all have one schema.
    values[:, LAYOUT.column("web_searches")] = 1
    cells = [(Group("m", "p", "c" * i), i) for i in range(3)]
    one = [next(codec.rollups("r", 5.0, np.array([i]), [cells[i]], values[i : i + 1], Progress())) for i in range(3)]
    head = next(codec.rollups("r", 5.0, np.array([0]), cells[:1], values[:1], Progress()))
    rows = [_only_row(rollup) for rollup in one]
    start = head[: -len(rows[0]) - 2]
    from tests.decode.helpers import zigzag

    block = (lambda row: zigzag(-1) + zigzag(len(row)) + row) if blocks == "size" else (lambda row: zigzag(1) + row)
    value = start + b"".join(map(block, rows)) + b"\0"
    assert len(decode_record(value, "rollup")["rows"]) == 3
    found = RollupReader(LAYOUT, EVERY, numbers).read(value)
    assert found.minutes.tolist() == [0, 1, 2]
    assert [numbers.groups[g] for g in found.groups] == [group for group, _ in cells]
    assert found.values[:, 0].tolist() == values[:, 0].tolist()


def _only_row(value: bytes) -> bytes:
    """The row of a record that has one: between the count of rows and the end of the array."""
    empty = next(StateCodec(LAYOUT).rollups("r", 5.0, np.zeros(0, np.int64), [], np.zeros((0, LAYOUT.width), np.int64),
                                            Progress(0, {0: 0})))  # fmt: skip
    # The heads differ in what was reached: an empty array is one byte, this one is four.
    return value[len(empty) - 1 - 3 + 1 : -1]


@pytest.mark.parametrize("cut", [1, 2, 7, 30])
def test_a_record_that_is_cut_short_is_an_error_and_no_row(cut: int) -> None:
    codec = StateCodec(LAYOUT)
    minutes = np.full(3, 29_000_000)
    cells = [(Group("m", "p", "c"), 0)] * 3
    value = next(codec.rollups("r", 5.0, minutes, cells, random_rows(LAYOUT, 3), Progress()))
    reader = RollupReader(LAYOUT, EVERY, Numbers())
    with pytest.raises(UnreadableRecord):
        reader.read(value[:-cut])


def test_a_damaged_record_is_rows_or_an_error_for_the_operator() -> None:
    """Every flip of a byte, and every cut, in the record of two rows."""
    codec = StateCodec(LAYOUT)
    cells = [(Group("model", "provider", "c"), 0), (Group("m", "p", "é"), 2)]
    value = next(codec.rollups("r", 5.0, np.full(2, 29_000_000), cells, random_rows(LAYOUT, 2), Progress(1, {0: 7})))
    flips = [value[:i] + bytes([value[i] ^ flip]) + value[i + 1 :] for i in range(len(value)) for flip in (1, 0x80)]
    reader, rejected = RollupReader(LAYOUT, EVERY, Numbers()), 0
    for damaged in [*flips, *(value[:end] for end in range(len(value)))]:
        try:
            rollup = reader.read(damaged)
        except UnreadableRecord:
            rejected += 1
            continue
        assert len(damaged) == len(value), "a part of a record is not a record"
        assert set(rollup.statuses.tolist()) <= {0, 1, 2}
    assert rejected > len(value)


def test_a_record_of_something_else_is_refused() -> None:
    codec = StateCodec(LAYOUT)
    cell = next(codec.cells(np.zeros((1, LAYOUT.width), np.int64), np.zeros(1)))
    reader = RollupReader(LAYOUT, EVERY, Numbers())
    for value in (cell, b"", replica_key("r")):
        with pytest.raises(UnreadableRecord):
            reader.read(value)

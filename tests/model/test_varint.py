"""The state's own encoder writes, byte for byte, what fastavro writes."""

from __future__ import annotations

import io
import itertools
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrace.decode.framing import SINGLE_OBJECT_MARKER
from tokentrace.decode.schema_tree import parse_schema
from tokentrace.decode.schemas.files import bundled_schema, fingerprint_of, released_schemas
from tokentrace.model.measures import SUMS, Layout
from tokentrace.model.snapshot import Group
from tokentrace.model.spans import STATUSES
from tokentrace.model.varint import decode_at, decode_long, encode_long, encode_rows
from tokentrace.state.records import ROLLUP_BYTES, Progress, StateCodec
from tokentrace.state.schemas import decode_record

LAYOUTS = [Layout.build(), Layout.build({"latency_ms": (1.0,), "eval_score": (0.5, 1.0)})]
OWN_SUMS = {"latency_ms": "latency_us_sum", "ttft_ms": "ttft_us_sum", "eval_score": "eval_score_millionths_sum"}


def by_fastavro(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def record(name: str, value: Any, first: bool = False) -> bytes:
    """first: with the schema of the first release, which has no field for what is 0."""
    schema = released_schemas()["0.1.0", name] if first else bundled_schema(name)
    return SINGLE_OBJECT_MARKER + fingerprint_of(schema) + by_fastavro(parse_schema(schema), value)


def counts(layout: Layout, row: list[int]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(SUMS, row, strict=False))
    for name, histogram in layout.histograms.items():
        buckets = row[histogram.buckets]
        fields[f"{name}_buckets"] = buckets if any(buckets) else []
        if name in OWN_SUMS:
            fields[OWN_SUMS[name]] = row[histogram.sum]
    return fields | {"usage": []}


def is_plain(layout: Layout, row: list[int]) -> bool:
    """True for a row without anything that the first release did not know."""
    first, last = SUMS.index("cache_write_tokens"), SUMS.index("priced_reported")
    later = SUMS[first:last] + SUMS[SUMS.index("priced_estimated") :]
    return not any(row[layout.column(name)] for name in later)


def random_rows(layout: Layout, rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of every length, and histograms with and without observations."""
    rng = np.random.default_rng(4)
    values = rng.integers(0, 1 << 63, (rows, layout.width), np.int64) >> rng.integers(0, 63, (rows, layout.width))
    for histogram in layout.histograms.values():
        values[rng.random(rows) < 0.4, histogram.buckets] = 0
    values[:1] = 0
    values[1:2] = (1 << 63) - 1
    return values


@given(st.lists(st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.booleans()), max_size=30), st.integers(1, 4))
def test_numbers_are_written_as_fastavro_writes_them(numbers: list[tuple[int, bool]], columns: int) -> None:
    whole = numbers[: len(numbers) // columns * columns]
    values = np.array([value for value, _ in whole], np.int64).reshape(-1, columns)
    keep = np.array([kept for _, kept in whole], np.bool_).reshape(-1, columns)
    expected = [
        b"".join(by_fastavro("long", value) for value, kept in zip(row, mask, strict=True) if kept)
        for row, mask in zip(values.tolist(), keep.tolist(), strict=True)
    ]
    assert encode_rows(values, keep) == expected
    assert [encode_long(value) for value, _ in numbers] == [by_fastavro("long", value) for value, _ in numbers]
    encoded = expected and b"".join(expected)
    if encoded:
        data = np.frombuffer(encoded, np.uint8)
        ends = np.flatnonzero(data < 0x80)
        begins = np.concatenate(([0], ends[:-1] + 1))
        kept = values[keep].tolist()
        assert decode_at(data, begins, ends).tolist() == kept
        assert [decode_long(encoded, at)[0] for at in begins.tolist()] == kept


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [0, 1, 2500])
def test_cells_are_written_as_fastavro_writes_them(layout: Layout, rows: int) -> None:
    values = random_rows(layout, rows)
    created_s = np.arange(rows) * 1.5
    expected = [
        record(
            "state-cell",
            {"created_at": round(created * 1e6), "counts": counts(layout, row)},
            is_plain(layout, row),
        )
        for row, created in zip(values.tolist(), created_s.tolist(), strict=True)
    ]
    assert list(StateCodec(layout).cells(values, created_s)) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [0, 1, 100, 12_000])
def test_rollups_are_written_as_fastavro_writes_them(layout: Layout, rows: int) -> None:
    values = random_rows(layout, rows)
    minutes = np.arange(rows) % 7 + 29_000_000
    cells = [(Group(f"modèle-{row % 9}", "", "c" * (row % 90)), row % 3) for row in range(rows)]
    bounds = {name: list(histogram.bounds) for name, histogram in layout.histograms.items()}
    entries = [
        {"minute": minute, **group.labels(), "status": STATUSES[status], "counts": counts(layout, row)}
        for minute, (group, status), row in zip(minutes.tolist(), cells, values.tolist(), strict=True)
    ]
    found = list(StateCodec(layout).rollups("r", 5e-6, minutes, cells, values, Progress(3)))
    # Each is as full as it may be, and below the megabyte that a broker takes.
    assert all(ROLLUP_BYTES * 0.99 < len(item) < 1_000_000 for item in found[:-1])
    assert (len(found) > 2) == (rows == 12_000)
    assert bool(found) == bool(rows)
    firsts = [0, *itertools.accumulate(len(decode_record(item, "rollup")["rows"]) for item in found)]
    assert firsts[-1] == rows
    expected = [
        record(
            "rollup",
            {
                "replica": "r",
                "committed_at": 5,
                "bounds": bounds,
                "source_partitions": 3,
                "reached": [],
                "clamped": 0,
                "rows": entries[first:last],
            },
            all(is_plain(layout, row) for row in values.tolist()),
        )
        for first, last in itertools.pairwise(firsts)
    ]
    assert found == expected

"""Aggregation and the delta: integers that add up, whatever comes first and however it is cut into batches."""

from __future__ import annotations

import math
import tracemalloc
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import LAYOUT, plain, span_batch
from tests.spanfactory import span
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.sums import aggregate, aggregate_parts
from tokentrace.model.measures import DEFAULT_BOUNDS, SUMS, Layout
from tokentrace.model.wide import LIMIT
from tokentrace.pricing import Priced

TOKENS = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens", "reasoning_tokens")
SOURCE_COLUMNS = ("priced_reported", "priced_computed", "unpriced")


def aggregated(
    records: Sequence[dict[str, Any]], keys: Sequence[int], nano_usd: Sequence[int], sources: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Key -> its row by name."""
    priced = Priced(np.array(nano_usd, np.int64), np.array(sources, np.uint8))
    result = aggregate(span_batch(*records), np.array(keys, np.int64), priced, LAYOUT)
    assert result.keys.tolist() == sorted(set(keys))
    return {key: plain(row) for key, row in zip(result.keys.tolist(), result.values, strict=True)}


def added_up(
    records: Sequence[dict[str, Any]], keys: Sequence[int], nano_usd: Sequence[int], sources: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """The same in plain Python."""
    sums: dict[int, Counter[str]] = {key: Counter() for key in keys}
    buckets: dict[tuple[int, str], list[int]] = {}
    for record, key, cost, source in zip(records, keys, nano_usd, sources, strict=True):
        row = sums[key]
        row.update({"spans": 1, "cost_nano_usd": cost, SOURCE_COLUMNS[source]: 1})
        row.update({name: record[name] or 0 for name in TOKENS})
        observed = {name: record[name] for name in ("latency_ms", "ttft_ms") if record[name]}
        observed |= {name: record[name] for name in TOKENS[:2] if record[name] is not None}
        if (score := record["attributes"].get("eval.score")) is not None:
            observed["eval_score"] = score
        for name, value in observed.items():
            bounds = DEFAULT_BOUNDS[name]
            buckets.setdefault((key, name), [0] * (len(bounds) + 1))[bisect_left(bounds, value)] += 1
            scale = 1_000_000 if name == "eval_score" else 1000
            row[f"sum {name}"] += value if name in TOKENS else round(value * scale)
    rows = {key: {name: row[name] for name in SUMS if row[name]} for key, row in sums.items()}
    for (key, name), counts in buckets.items():
        rows[key][f"histogram {name}"] = (counts, sums[key][f"sum {name}"])
    return rows


# The layout.


@pytest.mark.parametrize("bounds", [None, {"latency_ms": (1.0,), "eval_score": (0.5,), "prompt_tokens": (1.0, 2.0)}])
def test_every_column_of_a_row_has_one_meaning(bounds: dict[str, tuple[float, ...]] | None) -> None:
    layout = Layout.build(bounds)
    columns = [layout.column(name) for name in SUMS]
    for name, histogram in layout.histograms.items():
        assert histogram.bounds == (bounds or {}).get(name, DEFAULT_BOUNDS[name])
        columns += range(histogram.buckets.start, histogram.buckets.stop)
        if name in SUMS:
            assert (histogram.sum, histogram.scale) == (layout.column(name), 1)
        else:
            columns.append(histogram.sum)
    assert sorted(columns) == list(range(layout.width))


# Aggregation.


def test_a_row_says_everything_that_is_counted_of_a_span() -> None:
    record = span(
        prompt_tokens=64, completion_tokens=65, cached_prompt_tokens=7, reasoning_tokens=9, latency_ms=50.0,
        ttft_ms=50.0001, attributes={"eval.score": 0.35},
    )  # fmt: skip
    assert aggregated([record], [5], [123], [1]) == {
        5: {
            "spans": 1,
            "cost_nano_usd": 123,
            "prompt_tokens": 64,
            "completion_tokens": 65,
            "cached_prompt_tokens": 7,
            "reasoning_tokens": 9,
            "priced_computed": 1,
            "histogram latency_ms": ([1] + [0] * 10, 50_000),
            "histogram ttft_ms": ([0, 1] + [0] * 9, 50_000),
            "histogram prompt_tokens": ([1] + [0] * 14, 64),
            "histogram completion_tokens": ([0, 1] + [0] * 13, 65),
            "histogram eval_score": ([0, 0, 0, 1] + [0] * 7, 350_000),
        }
    }


@pytest.mark.parametrize("absent", [None, 0.0])
def test_a_latency_that_is_zero_or_absent_is_not_observed(absent: float | None) -> None:
    row = aggregated([span(latency_ms=absent, ttft_ms=absent)], [0], [0], [2])[0]
    assert {name for name in row if name.startswith("histogram")} == {
        "histogram prompt_tokens",
        "histogram completion_tokens",
    }


def test_a_count_of_zero_is_observed_and_an_absent_one_is_not() -> None:
    row = aggregated([span(prompt_tokens=0, completion_tokens=None)], [0], [0], [2])[0]
    assert row == {"spans": 1, "unpriced": 1, "histogram prompt_tokens": ([1] + [0] * 14, 0)}


@pytest.mark.parametrize("name", DEFAULT_BOUNDS)
def test_an_observation_at_a_bound_is_within_it_and_one_beyond_is_not(name: str) -> None:
    whole = name.endswith("tokens")
    values = [value for bound in DEFAULT_BOUNDS[name] for value in (bound, math.nextafter(bound, math.inf))]
    if whole:
        values = [value for bound in DEFAULT_BOUNDS[name] for value in (int(bound), int(bound) + 1)]
    if name == "eval_score":
        values.pop()  # A value beyond 1 is not a score.
    fields = [{"attributes": {"eval.score": value}} if name == "eval_score" else {name: value} for value in values]
    records = [span(**values) for values in fields]
    counts = [1, *([2] * (len(DEFAULT_BOUNDS[name]) - 1)), len(values) % 2 ^ 1]
    rows = aggregated(records, [0] * len(records), [0] * len(records), [2] * len(records))
    assert rows[0][f"histogram {name}"][0] == counts


@pytest.mark.parametrize("amount", [10**15, 10**15 + 1, 2 * 10**16, 2**53 + 1, (1 << 26) - 1, 1 << 26])
def test_sums_are_exact_where_a_double_is_not(amount: int) -> None:
    many = 400
    keys = [index % 3 for index in range(many)]
    nano_usd = [amount - index for index in range(many)]
    rows = aggregated([span()] * many, keys, nano_usd, [0] * many)
    assert [rows[key]["cost_nano_usd"] for key in range(3)] == [sum(nano_usd[key::3]) for key in range(3)]


def test_no_spans_make_no_rows() -> None:
    assert aggregated([], [], [], []) == {}


COUNT = st.none() | st.sampled_from([0, 64, 65, 10**9]) | st.integers(0, 3000)
MS = st.none() | st.sampled_from([0.0, 50.0, 1e9, 0.0005, 0.0015]) | st.floats(0, 1e9)
SCORE = st.one_of(st.just({}), st.floats(0, 1).map(lambda score: {"eval.score": score}))
RECORD = st.fixed_dictionaries(
    {**dict.fromkeys(TOKENS, COUNT), "latency_ms": MS, "ttft_ms": MS, "attributes": SCORE}
).map(lambda fields: span(**fields))
KEY = st.integers(0, 3) | st.sampled_from([1000, 1_000_000, 2**40, 2**60])
COUNTED = st.tuples(RECORD, KEY, st.integers(0, 2 * 10**16), st.integers(0, 2))


@given(st.lists(COUNTED, max_size=12))
def test_rows_are_what_plain_addition_gives(counted: list[tuple[dict[str, Any], int, int, int]]) -> None:
    columns = [list(column) for column in zip(*counted, strict=True)] or [[], [], [], []]
    assert aggregated(*columns) == added_up(*columns)


ABSURD = 999_999 * 10**9


@pytest.mark.parametrize("spans", [4_600, 4_700, 10_000, 20_000])
def test_spans_are_summed_in_parts_that_do_not_overflow(spans: int) -> None:
    batch = span_batch(*[span(prompt_tokens=10**9)] * spans)
    priced = Priced(np.full(spans, ABSURD), np.zeros(spans, np.uint8))
    parts = list(aggregate_parts(batch, np.zeros(spans, np.int64), priced, LAYOUT))
    cost, prompt = (LAYOUT.column(name) for name in ("cost_nano_usd", "prompt_tokens"))
    assert sum(int(part.values[0, cost]) for part in parts) == spans * ABSURD
    assert sum(int(part.values[0, prompt]) for part in parts) == spans * 10**9
    assert max(part.largest for part in parts) < LIMIT
    assert len(parts) == -(-spans * ABSURD // LIMIT)


def test_no_sum_exceeds_what_its_aggregate_says() -> None:
    records = [span(prompt_tokens=7, completion_tokens=0, latency_ms=latency) for latency in (1.0, 2.5)]
    key = np.zeros(2, np.int64)
    batch, source = span_batch(*records), np.zeros(2, np.uint8)
    assert aggregate(batch, key, Priced(np.array([5, 0]), source), LAYOUT).largest == 2 * 2500
    assert aggregate(batch, key, Priced(np.array([9000, 1]), source), LAYOUT).largest == 2 * 9000


# The delta.

WIDTH = LAYOUT.width


def added(delta: Delta, minute: int, row_of_cell: dict[int, int]) -> None:
    """Add rows that hold one number throughout."""
    cells = np.array(list(row_of_cell), np.int64)
    delta.add(minute, cells, np.array(list(row_of_cell.values()), np.int64)[:, None].repeat(WIDTH, 1))


def by_minute(delta: Delta) -> dict[tuple[int, int], int]:
    minutes, cells, values, starts = delta.by_minute()
    assert list(starts) == [0]
    assert (values == values[:, :1]).all()
    pairs = list(zip(minutes.tolist(), cells.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    return dict(zip(pairs, values[:, 0].tolist(), strict=True))


def changes(delta: Delta) -> dict[int, int]:
    cells, values, carried = delta.changes()
    assert not carried
    assert (np.diff(cells) > 0).all()
    assert (values == values[:, :1]).all()
    return dict(zip(cells.tolist(), values[:, 0].tolist(), strict=True))


ADDITION = st.tuples(
    st.integers(0, 3) | st.just(29_000_000),
    st.dictionaries(st.integers(0, 5) | st.sampled_from([1000, 4000, 2_000_000]), st.integers(0, 2**50), max_size=5),
)


@given(st.lists(ADDITION, max_size=10), st.lists(ADDITION, max_size=5))
def test_a_deltas_minutes_and_changes_are_the_sums_of_what_was_added(
    forgotten: list[tuple[int, dict[int, int]]], additions: list[tuple[int, dict[int, int]]]
) -> None:
    delta = Delta(LAYOUT)
    for minute, rows in forgotten:
        added(delta, minute, rows)
    delta.clear()
    assert (by_minute(delta), changes(delta)) == ({}, {})
    minutes: Counter[tuple[int, int]] = Counter()
    cells: Counter[int] = Counter()
    for minute, rows in additions:
        added(delta, minute, rows)
        minutes.update({(minute, cell): value for cell, value in rows.items()})
        cells.update(rows)
    assert (by_minute(delta), changes(delta)) == (dict(minutes), dict(cells))


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, LIMIT - 1)), max_size=3), max_size=6
    )
)
def test_a_deltas_rows_never_overflow_and_its_changes_are_exact(batches: list[list[tuple[int, int, int]]]) -> None:
    delta = Delta(LAYOUT)
    sums: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        # One sum of a batch is below the limit, whatever it is summed by.
        numbers = [(minute, cell, value // len(batch)) for minute, cell, value in batch]
        delta.reserve(sum(value for *_, value in numbers))
        for minute, cell, value in numbers:
            added(delta, minute, {cell: value})
            sums[minute, cell] += value
    found: Counter[tuple[int, int]] = Counter()
    for part in delta.by_minute().parts():
        pairs = list(zip(part.minutes.tolist(), part.cells.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
        assert part.values.min(initial=0) >= 0
        found.update(dict(zip(pairs, part.values[:, 0].tolist(), strict=True)))
    assert found == sums
    cells, values, carried = delta.changes()
    totals: Counter[int] = Counter()
    for (_, cell), value in sums.items():
        totals[cell] += value
    assert {
        cell: value + LIMIT * carried.get(index, {}).get(0, 0)
        for index, (cell, value) in enumerate(zip(cells.tolist(), values[:, 0].tolist(), strict=True))
    } == dict(totals)


def test_a_minute_of_few_cells_among_many_takes_no_more_memory_than_its_rows() -> None:
    tracemalloc.start()
    try:
        delta = Delta(LAYOUT)
        before, _ = tracemalloc.get_traced_memory()
        for minute in range(300):
            added(delta, minute, {1000 * (minute + 1): 1, 7: 1})
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(by_minute(delta)) == 600
    assert after - before < 8 * 600 * WIDTH * 8


def test_cells_that_were_few_are_found_when_they_have_become_many() -> None:
    delta = Delta(LAYOUT)
    added(delta, 1, {90_000: 1, 5: 1, 2_000_000: 1})
    for first in (0, 3000, 40_000):
        added(delta, 1, dict.fromkeys(range(first, first + 5000), 10))
    added(delta, 1, {90_000: 100, 5: 100, 2_000_000: 100, 3_000_000: 100})
    expected = {cell: 10 + 10 * (3000 <= cell < 5000) for cell in [*range(8000), *range(40_000, 45_000)]}
    expected |= {5: 111, 90_000: 101, 2_000_000: 101, 3_000_000: 100}
    assert changes(delta) == expected


def test_changes_are_the_callers_own() -> None:
    delta = Delta(LAYOUT)
    added(delta, 1, {0: 1, 4: 2})
    first = delta.changes()
    added(delta, 1, {0: 10, 4: 10})
    delta.clear()
    added(delta, 1, {3: 5})
    assert (first.cells.tolist(), first.values[:, 0].tolist()) == ([0, 4], [1, 2])


def test_a_delta_without_positions_is_nothing_to_commit() -> None:
    delta = Delta(LAYOUT)
    assert not delta
    delta.positions[3] = 0
    assert delta
    delta.clear()
    assert not delta

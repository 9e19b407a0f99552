"""Rollups summed to cells: the same as one row after the other, in whatever range their keys are."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.helpers import part_of
from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.errors import FatalError
from tokentrace.ledger.cells import CELL_SUMS, Cells, add_up, cells_of
from tokentrace.ledger.parts import Parts
from tokentrace.ledger.tables import LEDGER_SOURCES
from tokentrace.ledger.unwritten import Unwritten
from tokentrace.pricing import SOURCE_SUMS

DAY_US = 86_400_000_000
SPANS, COST = CELL_SUMS.index("spans"), CELL_SUMS.index("cost_nano_usd")
LAST = len(CELL_SUMS) - 1
ZONES = ("Asia/Kolkata", "Australia/Lord_Howe")
#: Minutes around the turn of a month, and around a midnight in Kolkata, 18:30 UTC, and in Lord Howe, 13:30 UTC.
EDGES = [at + near for at in (29_846_880, 29_832_150, 29_831_850) for near in (-841, -840, -1, 0, 14, 15, 719, 720)]


def rollup(committed_at_us: int, rows: list[tuple[int, int, int, list[int], int]]) -> Rollup:
    """rows: (minute, group, status, spans by source, cost)."""
    values = np.zeros((len(rows), len(CELL_SUMS)), np.int64)
    for at, (_, _, _, sources, cost) in enumerate(rows):
        values[at, [CELL_SUMS.index(name) for name in SOURCE_SUMS]] = sources
        values[at, SPANS], values[at, COST], values[at, LAST] = sum(sources), cost, cost % 3
    minutes, groups, statuses = (np.array([row[at] for row in rows], np.int64) for at in range(3))
    return Rollup("r", committed_at_us, minutes, groups, statuses, values, 0, {}, 0)


ROWS = st.lists(
    st.tuples(
        st.sampled_from([0, 59, 60, 61, 29_000_000, 2**50, *EDGES]),
        st.sampled_from([0, 1, 7, 2**30]),
        st.integers(0, 2),
        st.sampled_from([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1], [1, 1, 0, 0]]),
        st.integers(0, 10**12),
    ),
    max_size=12,
)


@given(st.lists(st.tuples(st.integers(0, 3 * DAY_US), ROWS), min_size=1, max_size=4))
def test_cells_are_the_sums_of_the_rows(commits: list[tuple[int, list[tuple[int, int, int, list[int], int]]]]) -> None:
    expected: dict[tuple[int, ...], Counter[int]] = {}
    for committed_at_us, rows in commits:
        for minute, group, status, sources, cost in rows:
            used = [at for at, count in enumerate(sources) if count]
            source = used[0] if len(used) == 1 else LEDGER_SOURCES.index("mixed")
            hour, first, until = part_of(minute * 60_000_000, ZONES) if minute < 2**50 else (minute // 60, 0, 60)
            key = (hour, group, status, source, first, until, committed_at_us // DAY_US)
            sums = expected.setdefault(key, Counter())
            sums.update({SPANS: sum(sources), COST: cost, LAST: cost % 3})
    cells = cells_of([rollup(*commit) for commit in commits], Parts(ZONES))
    assert [tuple(key) for key in cells.keys.tolist()] == sorted(expected, key=lambda key: (key[0], key[4], *key[1:]))
    for key, row in zip(cells.keys.tolist(), cells.values, strict=True):
        assert {at: int(row[at]) for at in (SPANS, COST, LAST)} == {
            at: expected[tuple(key)][at] for at in (SPANS, COST, LAST)
        }


@given(st.lists(st.tuples(st.integers(0, 3 * DAY_US), ROWS), min_size=1, max_size=6), st.integers(1, 30))
def test_cells_that_are_added_up_are_those_of_all_rows(
    commits: list[tuple[int, list[tuple[int, int, int, list[int], int]]]], most_rows: int
) -> None:
    rollups = [rollup(*commit) for commit in commits]
    sum_up = partial(cells_of, parts=Parts(ZONES))
    expected, unwritten = sum_up(rollups), Unwritten(sum_up, most_rows)
    for one in rollups:
        many = unwritten.add(one)
        assert many <= (len(expected.keys) >= most_rows), "what is written was enough for a transaction"
    found = unwritten.cells()
    assert found is not None
    assert rows_of(found) == rows_of(expected)
    assert len(found.keys) == len(expected.keys)
    assert (unwritten.records, unwritten.rows) == (len(rollups), sum(len(one.minutes) for one in rollups))
    unwritten.clear()
    assert (unwritten.cells(), unwritten.records, unwritten.rows) == (None, 0, 0)


def rows_of(cells: Cells) -> dict[tuple[int, ...], list[int]]:
    return {tuple(key): row for key, row in zip(cells.keys.tolist(), cells.values.tolist(), strict=True)}


def test_a_sum_of_sums_that_64_bits_may_not_hold_is_refused() -> None:
    half = cells_of([rollup(0, [(0, 0, 0, [1, 0, 0, 0], 2**61)])], Parts())
    with pytest.raises(FatalError, match="has a sum beyond 62 bits"):
        add_up([half, half])


def test_a_sum_that_64_bits_may_not_hold_is_refused() -> None:
    rows = [(0, 0, 0, [1, 0, 0, 0], 2**61)]
    assert int(cells_of([rollup(0, rows)], Parts()).values[0, COST]) == 2**61
    with pytest.raises(FatalError, match="has a sum beyond 62 bits"):
        cells_of([rollup(0, rows * 8)], Parts())

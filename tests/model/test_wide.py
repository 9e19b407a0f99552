"""Wide sums: what int64 rows and their carried multiples hold together is the exact sum."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrace.model.wide import LIMIT, carry, joined, plus_carried, put_row, sum_runs, words

WIDE = st.integers(0, 2**80) | st.sampled_from([0, LIMIT - 1, LIMIT, LIMIT + 1, 2**63 - 1, 2**63, 2**64, 2**80])
NARROW = st.integers(0, LIMIT - 1) | st.sampled_from([0, 1, LIMIT - 1])


def exact(values: Any, carried: Any) -> list[list[int]]:
    return [
        [int(number) + LIMIT * carried.get(row, {}).get(column, 0) for column, number in enumerate(numbers)]
        for row, numbers in enumerate(values.tolist())
    ]


@given(st.lists(st.tuples(WIDE, WIDE), min_size=1, max_size=4))
def test_a_row_holds_exact_numbers_of_any_size(rows: list[tuple[int, int]]) -> None:
    values, carried = np.zeros((len(rows), 2), np.int64), {}
    for row, numbers in enumerate(rows):
        put_row(values, carried, row, numbers)
    carry(values, np.arange(len(rows)), carried)
    assert exact(values, carried) == [list(numbers) for numbers in rows]
    assert values.max() < LIMIT
    assert carried.keys() == {row for row, numbers in enumerate(rows) if max(numbers) >= LIMIT}


@given(st.lists(st.tuples(st.integers(0, 2), NARROW), max_size=12))
def test_rows_that_are_added_and_carried_hold_the_exact_sum(additions: list[tuple[int, int]]) -> None:
    values, carried = np.zeros((3, 2), np.int64), {}
    sums = [0, 0, 0]
    for row, number in additions:
        values[row] += number
        carry(values, np.array([row]), carried)
        sums[row] += number
    assert exact(values, carried) == [[number, number] for number in sums]
    assert values.max() < LIMIT


def test_carrying_changes_no_mapping_that_a_snapshot_holds() -> None:
    values = np.array([[LIMIT, 0]])
    shown = {1: 5}
    carried = {0: shown}
    carry(values, np.array([0]), carried)
    assert (values.tolist(), carried, shown) == ([[0, 0]], {0: {0: 1, 1: 5}}, {1: 5})


def test_carried_multiples_of_two_rows_add_up() -> None:
    assert plus_carried({0: 1, 3: 2}, {3: 5, 4: 1}) == {0: 1, 3: 7, 4: 1}


@given(st.lists(st.lists(NARROW, min_size=1, max_size=6), min_size=1, max_size=5))
def test_sums_of_runs_are_exact(runs: list[list[int]]) -> None:
    lengths = [len(run) for run in runs]
    sums = sum_runs(np.array([*chain(*runs)], np.int64), np.cumsum([0, *lengths[:-1]]))
    assert [int(number) for number in sums] == [sum(run) for run in runs]


@pytest.mark.parametrize(("number", "dtype"), [(LIMIT // 2, np.int64), (LIMIT - 1, np.object_)])
def test_sums_of_runs_are_python_integers_only_where_int64_may_not_hold_them(number: int, dtype: type) -> None:
    assert sum_runs(np.full(3, number), np.array([0])).dtype == dtype


@given(st.lists(st.tuples(st.booleans(), NARROW), max_size=20))
def test_two_words_are_added_and_subtracted_exactly(changes: list[tuple[bool, int]]) -> None:
    sums, whole = np.zeros((2, 1), np.int64), 0
    for add, number in changes:
        sums += (1 if add else -1) * np.array(words(np.array([number])))
        whole += number if add else -number
    assert joined(*sums).tolist() == [whole]

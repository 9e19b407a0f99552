"""Forgetting: cells with a value of a dimension are folded into those of the value `__forgotten__`.

Every other label stays, so every sum but those by this dimension stays what it was. A cell began when the oldest of
those began that are folded into it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np

from tokentrace.model.snapshot import ExpiredTotals
from tokentrace.model.wide import Carried, carry, put_row
from tokentrace.state.keys import Cell

#: Value of what was forgotten.
FORGOTTEN: Final = "__forgotten__"


class Folded(NamedTuple):
    """totals: cell -> its totals after the fold. removed: cells that have no record any more."""

    totals: Mapping[Cell, ExpiredTotals]
    removed: Collection[Cell]


def fold(
    cells: Iterable[Cell],
    read: Callable[[Cell], tuple[list[int], float]],
    dimension: str,
    values: Collection[str],
) -> Folded:
    """Fold the cells with one of these values. read: a cell -> (its row, exact integers; Unix time of its creation)."""
    known = set(cells)
    removed = [cell for cell in known if any((dimension, value) in cell[0].dimensions for value in values)]
    parts: dict[Cell, list[Cell]] = {}
    for cell in removed:
        parts.setdefault(_target(cell, dimension), []).append(cell)
    totals = {}
    for target, sources in parts.items():
        found = [read(cell) for cell in [*sources, *({target} & known)]]
        row = [sum(column) for column in itertools.zip_longest(*(row for row, _ in found), fillvalue=0)]
        totals[target] = totals_of(row, min(created_s for _, created_s in found))
    return Folded(totals, removed)


def totals_of(row: list[int], created_s: float) -> ExpiredTotals:
    """Return exact integers of any size as the totals of one cell."""
    values = np.zeros((1, len(row)), np.int64)
    carried: dict[int, Carried] = {}
    put_row(values, carried, 0, row)
    carry(values, np.zeros(1, np.int64), carried)
    return ExpiredTotals(values[0], created_s, carried.get(0, {}))


def _target(cell: Cell, dimension: str) -> Cell:
    group, status = cell
    pairs = (*((name, value) for name, value in group.dimensions if name != dimension), (dimension, FORGOTTEN))
    return group._replace(dimensions=tuple(sorted(pairs))), status

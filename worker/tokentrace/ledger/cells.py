"""Cells: rollups summed to hours of a group, status, price source and booking day, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.errors import FatalError
from tokentrace.ledger.tables import HOUR_SUMS, MIXED, UNIT_SUMS
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import Layout
from tokentrace.pricing import SOURCE_SUMS
from tokentrace.pricing.rates import US_PER_DAY

#: The sums of a cell, in the order of its columns.
CELL_SUMS: Final = (*HOUR_SUMS, *UNIT_SUMS)
_SPANS: Final = CELL_SUMS.index("spans")
_SOURCES: Final = [CELL_SUMS.index(name) for name in SOURCE_SUMS]
_MINUTES: Final = 60
#: No sum reaches it: databases keep 64 bits with a sign.
_LIMIT: Final = 1 << 62


class Cells(NamedTuple):
    """c cells, distinct and ascending. keys: int64[c, 5], hour, group, status, source, booked. values: int64[c, sums].

    Groups are numbered as the rollups' reader numbers them.
    """

    keys: Ints
    values: Ints


def columns_of(layout: Layout) -> Ints:
    """Return the layout's columns of CELL_SUMS, for the reader of rollups."""
    return np.array([layout.fields[name].start for name in CELL_SUMS], np.int64)


def cells_of(rollups: Sequence[Rollup]) -> Cells:
    """Sum the rows of rollups to cells. Raises FatalError for a sum beyond 62 bits."""
    values = np.concatenate([rollup.values for rollup in rollups])
    booked = [np.full(len(rollup.minutes), rollup.committed_at_us // US_PER_DAY) for rollup in rollups]
    keys = np.stack(
        [
            np.concatenate([rollup.minutes for rollup in rollups]) // _MINUTES,
            np.concatenate([rollup.groups for rollup in rollups]),
            np.concatenate([rollup.statuses for rollup in rollups]),
            _source(values),
            np.concatenate(booked),
        ],
        axis=1,
    )
    return _summed(keys, values)


def _source(values: Ints) -> Ints:
    """Return int64[r], the source of each row's cost: that of all of its spans, or mixed."""
    alike = values[:, _SOURCES] == values[:, _SPANS, None]
    return np.where(alike.any(axis=1), alike.argmax(axis=1), MIXED)


def _summed(keys: Ints, values: Ints) -> Cells:
    if not len(keys):
        return Cells(keys, values)
    order = np.lexsort(keys.T[::-1])
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.concatenate(([True], (keys[1:] != keys[:-1]).any(axis=1))))
    # A sum of 64 bits wraps silently, one of floats does not.
    if np.add.reduceat(values.astype(np.float64), starts, axis=0).max() >= _LIMIT:
        raise FatalError("An hour of one group has a sum beyond 64 bits. Set limits.max_cost_usd lower.")
    return Cells(keys[starts], np.add.reduceat(values, starts, axis=0))

"""Cells: rollups summed to hours, or parts of them, of a group, status, price source and booking day, as arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.errors import FatalError
from tokentrace.ledger.parts import Parts
from tokentrace.ledger.tables import HOUR_SUMS, HOURS, MIXED, UNIT_SUMS
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import Layout
from tokentrace.pricing import SOURCE_SUMS
from tokentrace.pricing.rates import US_PER_DAY

#: The sums of a cell, in the order of its columns.
CELL_SUMS: Final = (*HOUR_SUMS, *UNIT_SUMS)
_SPANS: Final = CELL_SUMS.index("spans")
_SOURCES: Final = [CELL_SUMS.index(name) for name in SOURCE_SUMS]
#: No sum reaches it: databases keep 64 bits with a sign.
_LIMIT: Final = 1 << 62


class Cells(NamedTuple):
    """c cells, distinct, in the order of their hours. values: int64[c, sums].

    keys: int64[c, 7], hour, group, status, source, from_minute, until_minute, booked, as the table has them. Groups are
    numbered as the rollups' reader numbers them.
    """

    keys: Ints
    values: Ints


def columns_of(layout: Layout) -> Ints:
    """Return the layout's columns of CELL_SUMS, for the reader of rollups."""
    return np.array([layout.fields[name].start for name in CELL_SUMS], np.int64)


def cells_of(rollups: Sequence[Rollup], parts: Parts) -> Cells:
    """Sum the rows of rollups to cells of these parts. Raises FatalError for a sum beyond 62 bits."""
    used, values = _used([rollup.values for rollup in rollups])
    keys = np.stack(
        [
            parts.starts(np.concatenate([rollup.minutes for rollup in rollups])),
            np.concatenate([rollup.groups for rollup in rollups]),
            np.concatenate([rollup.statuses for rollup in rollups]),
            np.concatenate([_source(rollup.values) for rollup in rollups]),
            np.concatenate([_booked(rollup) for rollup in rollups]),
        ]
    )
    if not len(values):
        return Cells(np.zeros((0, len(HOURS.primary_key)), np.int64), np.zeros((0, len(CELL_SUMS)), np.int64))
    keys, sums = _by_key(keys, used, values)
    return Cells(_with_parts(keys, parts), sums)


def add_up(parts: Sequence[Cells]) -> Cells:
    """Sum cells, some of which are in several parts. Raises FatalError for a sum beyond 62 bits."""
    parts = [part for part in parts if len(part.keys)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([part.keys for part in parts]).T
    keys, sums = _by_key(keys, *_used([part.values for part in parts]))
    return Cells(keys.T, sums)


def _used(parts: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Return the columns that are not all 0, and the rows of all parts with these alone: few have any of the units."""
    used = np.flatnonzero(np.logical_or.reduce([values.any(axis=0) for values in parts]))
    return used, np.concatenate([values[:, used] for values in parts])


def _by_key(keys: Ints, used: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Return the distinct keys in their order, and int64[c, sums], the sums of their rows.

    keys: int64[k, r]. values: int64[r, u], of the columns `used`.
    """
    order = _order(keys)
    keys, values = keys[:, order], values[order]
    starts = np.flatnonzero(np.concatenate(([True], (keys[:, 1:] != keys[:, :-1]).any(axis=0))))
    sums = np.zeros((len(starts), len(CELL_SUMS)), np.int64)
    sums[:, used] = _sums(values, starts)
    return keys[:, starts], sums


def _with_parts(keys: Ints, parts: Parts) -> Ints:
    """Return int64[c, 7], the keys with the part in place of its first minute. keys: int64[5, c]."""
    starts, group, status, source, booked = keys
    found, places = np.unique(starts, return_inverse=True)
    hour, first, until = np.array([parts.part(start) for start in found.tolist()], np.int64)[places].T
    return np.stack([hour, group, status, source, first, until, booked], axis=1)


def _booked(rollup: Rollup) -> Ints:
    return np.full(len(rollup.minutes), rollup.committed_at_us // US_PER_DAY)


def _source(values: Ints) -> Ints:
    """Return int64[r], the source of each row's cost: that of all of its spans, or mixed."""
    alike = values[:, _SOURCES] == values[:, _SPANS, None]
    return np.where(alike.any(axis=1), alike.argmax(axis=1), MIXED)


def _order(keys: Ints) -> Ints:
    """Return int64[r], the order of the rows by their keys. keys: int64[k, r]."""
    low = keys.min(axis=1)
    sizes = [int(size) for size in keys.max(axis=1) - low + 1]
    if math.prod(sizes) >= _LIMIT:
        return np.lexsort(keys[::-1])
    packed = np.zeros(keys.shape[1], np.int64)
    for column, size, first in zip(keys, sizes, low, strict=True):
        packed = packed * size + (column - first)
    return np.argsort(packed, kind="stable")


def _sums(values: Ints, starts: Ints) -> Ints:
    """Return the sums of the rows from each start to the next."""
    # A sum of 64 bits wraps silently, one of floats does not.
    if int(values.max(initial=0)) * len(values) >= _LIMIT:
        highest = np.add.reduceat(values.astype(np.float64), starts, axis=0).max(initial=0.0)
        if highest >= _LIMIT:
            raise FatalError("An hour of one group has a sum beyond 62 bits. Set limits.max_cost_usd lower.")
    sums: Ints = np.add.reduceat(values, starts, axis=0)
    return sums

"""Sums: the spans of a batch, summed into integer rows, one for each key that the batch touches.

Exact: sums are int64 throughout. `np.bincount` adds in float64, so it is used where a bound on the sum shows that no
bit can be lost, and on two halves of the value where none does.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.measures import DISTRIBUTIONS, SUMMED_FIELDS, Histogram, Layout
from tokentrace.model.spans import SpanBatch
from tokentrace.pricing import SOURCES, Priced

_EXACT: Final = 1 << 53
_HALF_BITS: Final = 26
#: Columns that count spans by the source of their cost, in the order of its codes.
_SOURCE_COLUMNS: Final = [Layout.column(name) for name in ("priced_reported", "priced_computed", "unpriced")]


class Aggregate(NamedTuple):
    """keys: int64[t], distinct, ascending. values: int64[t, layout.width]."""

    keys: NDArray[np.int64]
    values: NDArray[np.int64]


def aggregate(spans: SpanBatch, key: NDArray[np.int64], priced: Priced, layout: Layout) -> Aggregate:
    """Sum m validated, priced spans by key: int64[m], nonnegative."""
    keys, local = _densify(key)
    t = len(keys)
    values = np.zeros((t, layout.width), np.int64)
    column = layout.column
    values[:, column("spans")] = np.bincount(local, minlength=t)
    values[:, column("cost_nano_usd")] = _sums(local, priced.cost_nano_usd, t)
    values[:, _SOURCE_COLUMNS] = _counts(local, priced.source, t, len(SOURCES))
    for name in SUMMED_FIELDS:
        values[:, column(name)] = _sums(local, spans.numbers(name).values, t)
    for measure in DISTRIBUTIONS:
        numbers = spans.numbers(measure.name)
        observed = numbers.values > 0.0 if measure.observed == "positive" else numbers.present
        _observe(values, local, numbers.values, observed, layout.histograms[measure.name], own_sum=bool(measure.sum))
    return Aggregate(keys, values)


def _densify(key: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct keys, ascending, and each span's index among them."""
    top = int(key.max()) + 1 if len(key) else 0
    if top > 8 * len(key) + 1024:
        keys, local = np.unique(key, return_inverse=True)
        return keys, local
    occurs = np.zeros(top, np.bool_)
    occurs[key] = True
    keys = np.flatnonzero(occurs)
    index = np.empty(top, np.int64)
    index[keys] = np.arange(len(keys))
    return keys, index[key]


def _observe(
    values: NDArray[np.int64],
    local: NDArray[np.int64],
    observed: NDArray[np.float64] | NDArray[np.int64],
    present: NDArray[np.bool_],
    histogram: Histogram,
    *,
    own_sum: bool,
) -> None:
    """Add the observations to their buckets, by their own value, and to the sum, in its unit."""
    if not present.all():
        rows = np.flatnonzero(present)
        if not len(rows):
            return
        local, observed = local[rows], observed[rows]
    bucket = np.zeros(len(observed), np.uint8)
    for bound in histogram.bounds:
        bucket += observed > bound
    values[:, histogram.buckets] = _counts(local, bucket, len(values), len(histogram.bounds) + 1)
    if own_sum:
        units = np.rint(observed * histogram.scale).astype(np.int64)
        values[:, histogram.sum] = _sums(local, units, len(values))


def _counts(local: NDArray[np.int64], code: NDArray[np.uint8], t: int, width: int) -> NDArray[np.int64]:
    """Return int64[t, width], the number of occurrences of each code by key."""
    return np.bincount(local * width + code, minlength=t * width).reshape(t, width)


def _sums(local: NDArray[np.int64], amounts: NDArray[np.int64], t: int) -> NDArray[np.int64]:
    """Return int64[t], exact sums of nonnegative amounts by key."""
    if not len(amounts):
        return np.zeros(t, np.int64)
    if int(amounts.max()) * len(amounts) < _EXACT:
        return np.bincount(local, amounts, t).astype(np.int64)
    low = np.bincount(local, amounts & ((1 << _HALF_BITS) - 1), t).astype(np.int64)
    return (_sums(local, amounts >> _HALF_BITS, t) << _HALF_BITS) + low

"""Sums: the spans of a batch, summed into integer rows, one for each key that the batch touches.

Exact: sums are int64 throughout. `np.bincount` adds in float64, so it is used where a bound on the sum shows that no
bit can be lost, and on two halves of the value where none does. Spans whose sum might exceed int64 are summed in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.measures import (
    DISTRIBUTIONS,
    RARE_SUMS,
    SUMMED_FIELDS,
    USAGE_SUMS,
    Histogram,
    Layout,
)
from tokentrace.model.reasons import MAX_LATENCY_MS
from tokentrace.model.spans import CLAMPED, REPAIRS, SpanBatch
from tokentrace.model.wide import LIMIT
from tokentrace.pricing import SOURCE_SUMS, SOURCES, Priced

_EXACT: Final = 1 << 53
_HALF_BITS: Final = 26
#: The largest amount that one span adds to a column other than its cost.
_LARGEST_AMOUNT: Final = int(MAX_LATENCY_MS) * 1000
#: Columns that count spans by the source of their cost, in the order of its codes.
_SOURCE_COLUMNS: Final = [Layout.column(name) for name in SOURCE_SUMS]
#: Sums of optional columns, and those of them that need a row's full width.
_OPTIONAL_SUMS: Final = frozenset({*USAGE_SUMS, *REPAIRS, CLAMPED})
_RARE: Final = frozenset(RARE_SUMS)


class Aggregate(NamedTuple):
    """keys: int64[t], distinct, ascending. values: int64[t, layout.width or full]. largest: no sum exceeds it."""

    keys: NDArray[np.int64]
    values: NDArray[np.int64]
    largest: int


def aggregate_parts(spans: SpanBatch, key: NDArray[np.int64], priced: Priced, layout: Layout) -> Iterator[Aggregate]:
    """Sum m spans by key: int64[m], nonnegative. The spans are split where a sum could reach `wide.LIMIT`."""
    most = max(int(priced.cost_nano_usd.max(initial=0)), _LARGEST_AMOUNT)
    size = (LIMIT - 1) // most
    if len(spans) <= size:
        yield aggregate(spans, key, priced, layout)
        return
    for first in range(0, len(spans), size):
        rows = np.arange(first, min(first + size, len(spans)))
        part = Priced(priced.cost_nano_usd[rows], priced.source[rows])
        yield aggregate(spans.take(rows), key[rows], part, layout)


def aggregate(spans: SpanBatch, key: NDArray[np.int64], priced: Priced, layout: Layout) -> Aggregate:
    """Sum m validated, priced spans by key: int64[m], nonnegative. No sum may reach `wide.LIMIT`."""
    keys, local = _densify(key)
    t = len(keys)
    optional = [name for name in spans.optional if name in _OPTIONAL_SUMS]
    values = np.zeros((t, layout.full if _RARE.intersection(optional) else layout.width), np.int64)
    column = layout.column
    values[:, column("spans")] = np.bincount(local, minlength=t)
    values[:, column("cost_nano_usd")], largest = _sums(local, priced.cost_nano_usd, t)
    bounds = [len(spans), largest]
    values[:, _SOURCE_COLUMNS] = _counts(local, priced.source, t, len(SOURCES))
    for name in SUMMED_FIELDS:
        values[:, column(name)], largest = _sums(local, spans.numbers(name).values, t)
        bounds.append(largest)
    for name in optional:
        columns = layout.fields[name]
        values[:, columns.start], largest = _sums(local, spans.optional[name].values, t)
        bounds.append(largest)
    for measure in DISTRIBUTIONS:
        numbers = spans.numbers(measure.name)
        observed = numbers.values > 0.0 if measure.observed == "positive" else numbers.present
        histogram, own_sum = layout.histograms[measure.name], bool(measure.sum)
        bounds.append(_observe(values, local, numbers.values, observed, histogram, own_sum=own_sum))
    return Aggregate(keys, values, max(bounds))


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
) -> int:
    """Add the observations to their buckets, by their own value, and to the sum, in its unit.

    Return a number that no sum exceeds, 0 without a sum.
    """
    if not present.all():
        rows = np.flatnonzero(present)
        if not len(rows):
            return 0
        local, observed = local[rows], observed[rows]
    bucket = np.zeros(len(observed), np.uint8)
    for bound in histogram.bounds:
        bucket += observed > bound
    values[:, histogram.buckets] = _counts(local, bucket, len(values), len(histogram.bounds) + 1)
    if not own_sum:
        return 0
    units = np.rint(observed * histogram.scale).astype(np.int64)
    values[:, histogram.sum], largest = _sums(local, units, len(values))
    return largest


def _counts(local: NDArray[np.int64], code: NDArray[np.uint8], t: int, width: int) -> NDArray[np.int64]:
    """Return int64[t, width], the number of occurrences of each code by key."""
    return np.bincount(local * width + code, minlength=t * width).reshape(t, width)


def _sums(local: NDArray[np.int64], amounts: NDArray[np.int64], t: int) -> tuple[NDArray[np.int64], int]:
    """Return (int64[t], exact sums of nonnegative amounts by key; a number that none of them exceeds)."""
    largest = int(amounts.max(initial=0)) * len(amounts)
    if largest < _EXACT:
        return np.bincount(local, amounts, t).astype(np.int64), largest
    low = np.bincount(local, amounts & ((1 << _HALF_BITS) - 1), t).astype(np.int64)
    high, _ = _sums(local, amounts >> _HALF_BITS, t)
    return (high << _HALF_BITS) + low, largest

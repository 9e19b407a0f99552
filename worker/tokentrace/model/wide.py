"""Wide sums: exact integers beyond 64 bits, in rows of int64 and, for the few that need it, what these do not hold.

A column of a row holds less than LIMIT, so that two rows can be added without overflow. What exceeds LIMIT is carried:
the sum is the column plus LIMIT times the carried count. Ordinary sums carry nothing and cost one comparison.

Where sums are also subtracted, they are two words instead, low and high: each is added up by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import Ints

#: A sum of this size or more is carried.
LIMIT: Final = 1 << 62
#: Bits of a low word.
WORD_BITS: Final = 31
LOW_WORD: Final = (1 << WORD_BITS) - 1

#: Column -> multiples of LIMIT, of one row.
Carried = Mapping[int, int]
#: Row -> what it carries. Rows that carry nothing are left out.
CarriedRows = Mapping[int, Carried]

#: Of a row or of rows.
NOTHING_CARRIED: Final[Mapping[int, Any]] = MappingProxyType({})


def carry(values: Ints, rows: Ints, carried: dict[int, Carried]) -> None:
    """Move what exceeds LIMIT in these rows of values (int64[t, c], below 2 * LIMIT) to `carried`, both in place."""
    over = values[rows] >= LIMIT
    if over.any():
        for index, column in np.argwhere(over).tolist():
            row = int(rows[index])
            values[row, column] -= LIMIT
            carried[row] = plus_carried(carried.get(row, {}), {column: 1})


def plus_carried(first: Carried, second: Carried) -> Carried:
    """Add what two rows carry."""
    return {column: first.get(column, 0) + second.get(column, 0) for column in {**first, **second}}


def put_row(values: Ints, carried: dict[int, Carried], row: int, numbers: Sequence[int]) -> None:
    """Set a row of zeros in values (int64[t, c]) to exact numbers, at most c.

    `carry` has to follow, once all rows are set.
    """
    try:
        values[row, : len(numbers)] = numbers
    except OverflowError:
        carried[row] = {column: number // LIMIT for column, number in enumerate(numbers) if number >= LIMIT}
        values[row, : len(numbers)] = [number % LIMIT for number in numbers]


def sum_runs(values: Ints, starts: Ints) -> Ints | NDArray[np.object_]:
    """Sum runs of nonnegative values exactly: int64[n] -> [s]. starts: int64[s], ascending, the first one 0.

    The result is int64, or Python's integers where int64 does not hold one of them.
    """
    longest = int(np.diff(starts, append=len(values)).max())
    if int(values.max()) * longest < 2 * LIMIT:
        return _sum_runs(values, starts)
    low, high = words(values)
    return joined(_sum_runs(low, starts), _sum_runs(high, starts))


def words(numbers: Ints) -> tuple[Ints, Ints]:
    """Split numbers into their low and high words."""
    return numbers & LOW_WORD, numbers >> WORD_BITS


def joined(low: Ints, high: Ints) -> Ints | NDArray[np.object_]:
    """Join sums of low and of high words: int64[n], or Python's integers where int64 may not hold one of them."""
    high = high + (low >> WORD_BITS)
    low = low & LOW_WORD
    if not len(high) or -(1 << WORD_BITS) <= int(high.min()) <= int(high.max()) < 1 << WORD_BITS:
        return (high << WORD_BITS) + low
    pairs = zip(high.tolist(), low.tolist(), strict=True)
    return np.array([(upper << WORD_BITS) + lower for upper, lower in pairs], object)


def _sum_runs(values: Ints, starts: Ints) -> Ints:
    return np.asarray(np.add.reduceat(values, starts), np.int64)

"""Id table: a hash table of 64-bit keys with a time stamp each, filled a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.hashing import NO_KEY


class IdTable:
    """Open addressing with linear probing: key -> stamp. Entries are never removed."""

    def __init__(self, size: int) -> None:
        """size: a power of two."""
        self._keys: NDArray[np.uint64] = np.zeros(size, np.uint64)
        self._stamps: NDArray[np.uint32] = np.zeros(size, np.uint32)
        #: Row of the batch that was last assigned to a slot; among equal keys it finds the first row.
        self._row: NDArray[np.int32] = np.zeros(size, np.int32)
        self._used = 0

    def has_room(self, count: int) -> bool:
        """Return False when `count` more keys would fill more than half of the table."""
        return 2 * (self._used + count) <= len(self._keys)

    def add(
        self,
        keys: NDArray[np.uint64],
        stamps: NDArray[np.int64],
        horizons: NDArray[np.int64],
        lower: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
    ) -> NDArray[np.bool_]:
        """Add keys and return bool[m], those that are new or whose stamp is below their horizon; these are stamped.

        keys: uint64[m], not 0. stamps, horizons: int64[m], equal for equal keys, and a horizon not above its stamp.
        lower: rows -> horizons that may be lower, for the few rows whose stamp is below the horizon given first.
        Of equal keys only the first is new.
        """
        is_new = np.zeros(len(keys), np.bool_)
        mask = len(self._keys) - 1
        rows = np.arange(len(keys))
        slot = (keys & np.uint64(mask)).view(np.int64)
        while len(rows):
            wanted = keys[rows]
            free = np.flatnonzero(self._keys[slot] == NO_KEY)
            if len(free):
                self._keys[slot[free[::-1]]] = wanted[free[::-1]]
                won = free[self._first(slot[free], rows[free])]
                is_new[rows[won]] = True
                self._stamps[slot[won]] = stamps[rows[won]]
                self._used += len(won)
            same = self._keys[slot] == wanted
            old = np.flatnonzero(same & (self._stamps[slot] < horizons[rows]))
            if lower is not None and len(old):
                old = old[self._stamps[slot[old]] < lower(rows[old])]
            if len(old):
                won = old[self._first(slot[old], rows[old])]
                is_new[rows[won]] = True
                self._stamps[slot[won]] = stamps[rows[won]]
            open_ = np.flatnonzero(~same)
            rows, slot = rows[open_], (slot[open_] + 1) & mask
        return is_new

    def _first(self, slot: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[k], rows that are the first at their slots. rows: ascending. NumPy assigns the last of equals."""
        self._row[slot[::-1]] = rows[::-1]
        first: NDArray[np.bool_] = self._row[slot] == rows
        return first

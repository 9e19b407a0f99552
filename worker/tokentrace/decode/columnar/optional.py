"""Steps for optional columns, which few messages have: units, in fields of their own and in a map, and flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.cursors import Cursors
from tokentrace.model.units import UNITS

#: Most fields that one `Absent` looks at: the bytes of a word.
MOST_ABSENT: Final = 8
_LOW_BYTE: Final = np.uint64(0xFF)


def _words(name: bytes) -> tuple[np.uint64, ...]:
    """Return the name as words of eight bytes, filled up with zeros."""
    return tuple(np.uint64(int.from_bytes(name[at : at + 8], "little")) for at in range(0, len(name), 8))


#: Bytes of a name -> (unit, its words).
_UNITS_BY_LENGTH: Final[dict[int, list[tuple[str, tuple[np.uint64, ...]]]]] = {}
for _unit in UNITS:
    _UNITS_BY_LENGTH.setdefault(len(_unit.name), []).append((_unit.name, _words(_unit.name.encode())))


def store_optional(cursors: Cursors, column: str, values: NDArray[np.int64]) -> None:
    """Write values into a column of OPTIONAL_FIELDS."""
    rows = cursors.message_rows()
    numbers = cursors.chunk.columns.optional(column)
    numbers.values[rows], numbers.present[rows] = values, True


@dataclass(frozen=True, slots=True)
class Boolean:
    """Reads a boolean. A byte other than 0 and 1 drops its cursor."""

    column: str

    def run(self, cursors: Cursors) -> None:
        byte = cursors.words() & _LOW_BYTE
        cursors.advance(1)
        bad = byte > 1
        if bad.any():
            cursors.drop(bad)
        store_optional(cursors, self.column, byte.view(np.int64))


@dataclass(frozen=True, slots=True)
class UnitValues:
    """Reads the values of a map whose keys are units. kind: of the values; "other" leaves them to the fallback."""

    kind: Literal["int", "float", "double", "other"]

    def read(self, cursors: Cursors, length: NDArray[np.int64]) -> None:
        """Store the values of the keys, of `length` bytes, at which the cursors are. The cursors stay."""
        for size in np.unique(length).tolist():
            candidates = _UNITS_BY_LENGTH.get(int(size))
            if candidates is None:
                continue
            rows = np.flatnonzero(length == size)
            part = cursors.select(rows)
            found = [part.words(at) for at in range(0, size, 8)]
            if size % 8:
                found[-1] = found[-1] & np.uint64((1 << 8 * (size % 8)) - 1)
            for unit, words in candidates:
                hit = np.logical_and.reduce([have == want for have, want in zip(found, words, strict=True)])
                if hit.any():
                    which = np.flatnonzero(hit)
                    self._store(cursors, rows[which], part.select(which), unit, size)

    def _store(self, cursors: Cursors, rows: NDArray[np.int64], part: Cursors, unit: str, size: int) -> None:
        """rows: of these cursors in `cursors`. part: the cursors at their keys. size: bytes of a key."""
        if self.kind == "other":
            dropped = np.zeros(len(cursors), np.bool_)
            dropped[rows] = True
            cursors.drop(dropped)
            return
        part.advance(size)
        if self.kind == "int":
            values: NDArray[np.float64] = part.integer().astype(np.float64)
        elif self.kind == "double":
            values = part.words().view(np.float64)
        else:
            values = part.words().astype(np.uint32).view(np.float32).astype(np.float64)
        at = part.message_rows()
        numbers = cursors.chunk.columns.mapped(unit)
        numbers.values[at], numbers.present[at] = values, True

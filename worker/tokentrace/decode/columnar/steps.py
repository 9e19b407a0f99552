"""Decoding steps: the operations of a compiled schema on the cursors of a chunk.

A program is a tuple of steps. A step moves every cursor past its value; a step with a column also stores the value.
Where the datum decides what follows (a union's branch, a block's items), the cursors are split and each subset runs
its own program. Steps compare by value, so that branches with equal programs run together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.chosen import ChosenValues
from tokentrace.decode.columnar.cursors import Cursors
from tokentrace.decode.columnar.entry_marks import Marker
from tokentrace.decode.columnar.optional import UnitValues, store_optional
from tokentrace.decode.columnar.program import Program, run, run_some
from tokentrace.model.arrays import LOW_BYTES
from tokentrace.model.spans import MODIFIERS, OPTIONAL_FIELDS, STATUSES, UNKNOWN_STATUS, Numbers, Strings

SCORE: Final = b"eval.score"
_SCORE_HEAD: Final = np.uint64(int.from_bytes(SCORE[:8], "little"))
_SCORE_TAIL: Final = np.uint64(int.from_bytes(SCORE[-8:], "little"))
#: Columns whose varints are usually eight bytes long: microseconds since the epoch.
_TIMES: Final = frozenset({"started_at_us", "ended_at_us"})
_STATUS_WORDS: Final = tuple((len(word), np.uint64(int.from_bytes(word.encode(), "little"))) for word in STATUSES)


@dataclass(frozen=True, slots=True)
class FixedWidth:
    """Reads adjacent values of constant width.

    width: bytes. reads: (offset, size 4 or 8, column) of each stored float or double.
    """

    width: int
    reads: tuple[tuple[int, int, str], ...] = ()

    def run(self, cursors: Cursors) -> None:
        for offset, size, column in self.reads:
            word = cursors.words(offset)
            values = word.view(np.float64) if size == 8 else word.astype(np.uint32).view(np.float32)
            _store(cursors, column, values)
        cursors.advance(self.width)


@dataclass(frozen=True, slots=True)
class Integer:
    """Reads an int or long. multiply, divide: the scale of a timestamp, see `timestamp_scale`."""

    column: str = ""
    multiply: int = 1
    divide: int = 1

    def run(self, cursors: Cursors) -> None:
        if not self.column:
            cursors.skip_varint()
            return
        values = cursors.integer(wide=self.column in _TIMES)
        if self.divide > 1:
            values //= self.divide
        if self.multiply > 1:
            most = (2**63 - 1) // self.multiply
            # The fallback decoder clamps a product outside int64.
            overflow = (values > most) | (values < -most)
            if overflow.any():
                cursors.drop(overflow)
            values *= self.multiply
        _store(cursors, self.column, values)


@dataclass(frozen=True, slots=True)
class String:
    """Reads a string or bytes."""

    column: str = ""

    def run(self, cursors: Cursors) -> None:
        length = cursors.length()
        if self.column == "status":
            cursors.write(cursors.chunk.outputs["status"], _status_of(cursors.words(), length))
        elif self.column:
            _store_strings(cursors, self.column, cursors.pos, length)
        np.add(cursors.pos, length, out=cursors.pos)


@dataclass(frozen=True, slots=True)
class Enum:
    """Reads an enum. symbols: its symbols, ASCII."""

    symbols: tuple[str, ...]
    column: str = ""

    def run(self, cursors: Cursors) -> None:
        index = cursors.zigzag_index(len(self.symbols)) >> 1
        if self.column == "status":
            codes = [STATUSES.index(symbol) if symbol in STATUSES else UNKNOWN_STATUS for symbol in self.symbols]
            cursors.write(cursors.chunk.outputs["status"], np.array(codes, np.uint8).take(index.astype(np.intp)))
        elif self.column:
            self._store(cursors, index.astype(np.intp))

    def _store(self, cursors: Cursors, index: NDArray[np.intp]) -> None:
        symbols = Strings(np.zeros(len(self.symbols), np.int64), np.zeros(len(self.symbols), np.int64))
        for used in np.unique(index).tolist():
            cursors.chunk.columns.put_string(symbols, used, self.symbols[used].encode())
        _store_strings(cursors, self.column, symbols.offset.take(index), symbols.length.take(index))


@dataclass(frozen=True, slots=True)
class SetNull:
    """Marks the column as absent; reads nothing."""

    column: str

    def run(self, cursors: Cursors) -> None:
        column = cursors.chunk.outputs[self.column]
        if isinstance(column, Numbers):
            cursors.write(column.values, 0)
            cursors.write(column.present, False)
        elif isinstance(column, Strings):
            cursors.write(column.offset, 0)
            cursors.write(column.length, 0)
        else:
            cursors.write(column, 0)


@dataclass(frozen=True, slots=True)
class SetNaN:
    """Stores NaN, for a value that is present but not a number; reads nothing."""

    column: str

    def run(self, cursors: Cursors) -> None:
        _store(cursors, self.column, np.nan)


@dataclass(frozen=True, slots=True)
class Unsupported:
    """Drops the cursors: the column cannot hold the value, and the fallback decoder explains why."""

    def run(self, cursors: Cursors) -> None:
        cursors.drop(slice(None))


@dataclass(frozen=True, slots=True)
class Union:
    """Reads a union. branches: the program of each branch, in order."""

    branches: tuple[Program, ...]
    _widths: NDArray[np.int64] | None = field(init=False, repr=False, compare=False)
    _rests: tuple[tuple[tuple[int, ...], Program], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A table skips the constant width that a branch begins with, for all rows at once.
        widths, rests = [], dict[Program, tuple[int, ...]]()
        for branch, steps in enumerate(self.branches):
            head = steps[0] if steps else None
            constant = isinstance(head, FixedWidth) and not head.reads
            widths.append(head.width if isinstance(head, FixedWidth) and constant else 0)
            if rest := steps[constant:]:
                rests[rest] = (*rests.get(rest, ()), 2 * branch)
        # Indexed by the doubled branch index, which is the form in the datum.
        object.__setattr__(self, "_widths", np.repeat(np.array(widths, np.int64), 2) if any(widths) else None)
        object.__setattr__(self, "_rests", tuple((codes, steps) for steps, codes in rests.items()))

    def run(self, cursors: Cursors) -> None:
        code = cursors.zigzag_index(len(self.branches))
        most = int(code.max())
        if most == int(code.min()):
            run(self.branches[most >> 1], cursors)
            return
        if self._widths is not None:
            np.add(cursors.pos, self._widths.take(code.astype(np.intp, copy=False)), out=cursors.pos)
        for codes, steps in self._rests:
            hit = code == codes[0]
            for other in codes[1:]:
                hit |= code == other
            run_some(steps, cursors, hit)


@dataclass(frozen=True, slots=True)
class Absent:
    """Reads adjacent optional fields, each of which is one zero byte where it is absent: a null, or an empty map.

    count: fields, at most MOST_ABSENT. fields: their program, for messages in which any of them is there.
    """

    count: int
    fields: Program

    def run(self, cursors: Cursors) -> None:
        some = (cursors.words() & LOW_BYTES[self.count]) != 0
        if not some.any():
            cursors.advance(self.count)
            return
        rows = np.flatnonzero(some)
        if len(rows) == len(cursors):
            run(self.fields, cursors)
            return
        part = cursors.select(rows)
        run(self.fields, part)
        cursors.advance(self.count)
        cursors.pos[rows] = part.pos


@dataclass(frozen=True, slots=True)
class Blocks:
    """Reads the blocks of an array or map. items: the program of an item or value. keyed: True for a map.

    score: runs before `items` on the value whose key is SCORE; it need not move past the value.
    units: reads the values whose keys are units. chosen: reads the values that dimensions are made from.
    marker: marks the entries that may have these values.
    """

    items: Program
    keyed: bool = False
    score: Program = ()
    units: UnitValues | None = None
    chosen: ChosenValues | None = None
    marker: Marker | None = None

    def run(self, cursors: Cursors) -> None:
        # part: the cursors with blocks left. rows: their positions in `cursors`, None while part is `cursors`.
        part, rows = cursors, None
        while True:
            count, stop = part.block()
            if not count.any():
                break
            if not count.all():
                left = np.flatnonzero(count)
                if rows is not None:
                    cursors.pos[rows] = part.pos
                part, count = part.select(left), count.take(left)
                rows = left if rows is None else rows.take(left)
                stop = stop if stop is None else stop.take(left)
            if not part.spend_round():
                break
            self._block(part, count)
            if self.marker is not None:
                self.marker.end_block(part)
            if stop is not None:
                part.drop((stop >= 0) & (part.pos != stop))
        if rows is not None:
            cursors.pos[rows] = part.pos

    def _block(self, cursors: Cursors, count: NDArray[np.int64]) -> None:
        """Move past the items of one block. count: int64[k], items of each cursor, at least one."""
        least, most = int(count.min()), int(count.max())
        if not self._items(cursors, 0, least) or least == most:
            return
        # Sorted by descending count, the cursors with items left are always the first ones.
        rows = np.flatnonzero(count > least)
        rows = rows.take(np.argsort(most - count.take(rows), kind="stable"))
        part, count = cursors.select(rows), count.take(rows)
        left = part
        for done in range(least, most):
            if count[len(left) - 1] <= done:
                left = part.first(int(np.count_nonzero(count > done)))
            if not self._items(left, done, done + 1):
                break
        cursors.pos[rows] = part.pos

    def _items(self, cursors: Cursors, first: int, last: int) -> bool:
        """Move past these items of each cursor. Returns False when the sparse rounds are used up."""
        for done in range(first, last):
            # The first item's round is that of its block.
            if done and not cursors.spend_round():
                return False
            if self.keyed:
                self._entry(cursors, done)
            else:
                run(self.items, cursors)
        return True

    def _entry(self, cursors: Cursors, place: int) -> None:
        """Move past a key and its value. place: of the entry in its block."""
        length = cursors.length()
        if self.marker is not None:
            self.marker.entry(cursors, length, place)
        if self.units is not None:
            self.units.read(cursors, length)
        if self.score:
            rows = np.flatnonzero(length == len(SCORE))
            if len(rows):
                part = cursors.select(rows)
                hit = (part.words() == _SCORE_HEAD) & (part.words(len(SCORE) - 8) == _SCORE_TAIL)
                part.advance(len(SCORE))
                if hit.any():
                    run(self.score, part.select(np.flatnonzero(hit)))
        if self.chosen is not None:
            self.chosen.run(cursors, length, self.items)
            return
        np.add(cursors.pos, length, out=cursors.pos)
        run(self.items, cursors)


def _store(cursors: Cursors, column: str, values: object) -> None:
    if column in OPTIONAL_FIELDS:
        store_optional(cursors, column, np.asarray(values))
        return
    numbers: Numbers = cursors.chunk.outputs[column]
    cursors.write(numbers.values, values)
    cursors.write(numbers.present, True)


def _store_strings(cursors: Cursors, column: str, offset: NDArray[np.int64], length: NDArray[Any]) -> None:
    if column in MODIFIERS:
        strings, rows = cursors.chunk.columns.modifier(column), cursors.message_rows()
        strings.offset[rows], strings.length[rows] = offset, length
        return
    strings = cursors.chunk.outputs[column]
    cursors.write(strings.offset, offset)
    cursors.write(strings.length, length)


def _status_of(word: NDArray[np.uint64], length: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return uint8[k], the status codes of strings. word: uint64[k], their first eight bytes."""
    codes = np.full(len(word), UNKNOWN_STATUS, np.uint8)
    for code, (size, text) in enumerate(_STATUS_WORDS):
        codes[(length == size) & (word & np.uint64((1 << 8 * size) - 1) == text)] = code
    return codes

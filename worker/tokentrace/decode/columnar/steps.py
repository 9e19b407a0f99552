"""Steps: what a compiled schema does with the lanes of a chunk, one value or run of values after the other.

A plan is a tuple of steps. Each moves every lane over its value; a step that has a column also stores the value.
Where the datum decides what comes next (a union's branch, a block's items), the lanes are divided and each part takes
its own steps. Steps compare by value, so that branches that do the same are taken together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.cursors import Cursors
from tokentrace.model.spans import STATUSES, UNKNOWN_STATUS, Numbers, Strings

SCORE: Final = b"eval.score"
_SCORE_HEAD: Final = np.uint64(int.from_bytes(SCORE[:8], "little"))
_SCORE_TAIL: Final = np.uint64(int.from_bytes(SCORE[-8:], "little"))
#: Microseconds since the epoch have eight bytes.
_TIMES: Final = frozenset({"started_at_us", "ended_at_us"})
_STATUS_WORDS: Final = tuple((len(word), np.uint64(int.from_bytes(word.encode(), "little"))) for word in STATUSES)


class Step(Protocol):
    def run(self, lanes: Cursors) -> None:
        """Move the lanes over a value."""
        ...


Steps = tuple[Step, ...]


def run(steps: Steps, lanes: Cursors) -> None:
    for step in steps:
        step.run(lanes)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Values of constant width. reads: (offset, size 4 or 8, column) of the float and double among them."""

    width: int
    reads: tuple[tuple[int, int, str], ...] = ()

    def run(self, lanes: Cursors) -> None:
        for offset, size, column in self.reads:
            word = lanes.words(offset)
            values = word.view(np.float64) if size == 8 else word.astype(np.uint32).view(np.float32)
            _store(lanes, column, values)
        lanes.advance(self.width)


@dataclass(frozen=True, slots=True)
class Integer:
    """An int or long. multiply, divide: the scale of a timestamp, see `timestamp_scale`."""

    column: str = ""
    multiply: int = 1
    divide: int = 1

    def run(self, lanes: Cursors) -> None:
        if not self.column:
            lanes.skip_varint()
            return
        values = lanes.integer(wide=self.column in _TIMES)
        if self.divide > 1:
            values //= self.divide
        if self.multiply > 1:
            most = (2**63 - 1) // self.multiply
            # Beyond that the product is cut off, which is left to the reference.
            unusual = (values > most) | (values < -most)
            if unusual.any():
                lanes.drop(unusual)
            values *= self.multiply
        _store(lanes, self.column, values)


@dataclass(frozen=True, slots=True)
class Text:
    """A string or bytes."""

    column: str = ""

    def run(self, lanes: Cursors) -> None:
        length = lanes.length()
        if self.column == "status":
            lanes.write(lanes.chunk.sink["status"], _status_of(lanes.words(), length))
        elif self.column:
            strings: Strings = lanes.chunk.sink[self.column]
            lanes.write(strings.offset, lanes.pos)
            lanes.write(strings.length, length)
        np.add(lanes.pos, length, out=lanes.pos)


@dataclass(frozen=True, slots=True)
class Symbol:
    """An enum. symbols: its symbols, ASCII."""

    symbols: tuple[str, ...]
    column: str = ""

    def run(self, lanes: Cursors) -> None:
        index = lanes.choice(len(self.symbols)) >> 1
        if self.column == "status":
            codes = [STATUSES.index(each) if each in STATUSES else UNKNOWN_STATUS for each in self.symbols]
            lanes.write(lanes.chunk.sink["status"], np.array(codes, np.uint8).take(index.astype(np.intp)))
        elif self.column:
            self._store(lanes, index.astype(np.intp))

    def _store(self, lanes: Cursors, index: NDArray[np.intp]) -> None:
        strings: Strings = lanes.chunk.sink[self.column]
        put = Strings(np.zeros(len(self.symbols), np.int64), np.zeros(len(self.symbols), np.int64))
        for each in np.unique(index).tolist():
            lanes.chunk.columns.put_string(put, each, self.symbols[each].encode())
        lanes.write(strings.offset, put.offset.take(index))
        lanes.write(strings.length, put.length.take(index))


@dataclass(frozen=True, slots=True)
class Absent:
    """No bytes: the column has no value (yet)."""

    column: str

    def run(self, lanes: Cursors) -> None:
        column = lanes.chunk.sink[self.column]
        if isinstance(column, Numbers):
            lanes.write(column.values, 0)
            lanes.write(column.present, False)
        elif isinstance(column, Strings):
            lanes.write(column.offset, 0)
            lanes.write(column.length, 0)
        else:
            lanes.write(column, 0)


@dataclass(frozen=True, slots=True)
class NotANumber:
    """No bytes: the column's value is there but is no number."""

    column: str

    def run(self, lanes: Cursors) -> None:
        _store(lanes, self.column, np.nan)


@dataclass(frozen=True, slots=True)
class Refuse:
    """A value that its column cannot take: the reference says what is wrong."""

    def run(self, lanes: Cursors) -> None:
        lanes.drop(slice(None))


@dataclass(frozen=True, slots=True)
class Choice:
    """A union. branches: the steps of each, in order."""

    branches: tuple[Steps, ...]
    _widths: NDArray[np.int64] | None = field(init=False, repr=False, compare=False)
    _rests: tuple[tuple[tuple[int, ...], Steps], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # What has a constant width at the start of a branch is passed for all rows together, by a table.
        widths, rests = [], dict[Steps, tuple[int, ...]]()
        for branch, steps in enumerate(self.branches):
            head = steps[0] if steps else None
            constant = isinstance(head, Fixed) and not head.reads
            widths.append(head.width if isinstance(head, Fixed) and constant else 0)
            if rest := steps[constant:]:
                rests[rest] = (*rests.get(rest, ()), 2 * branch)
        # By the doubled index, as it is read.
        object.__setattr__(self, "_widths", np.repeat(np.array(widths, np.int64), 2) if any(widths) else None)
        object.__setattr__(self, "_rests", tuple((codes, steps) for steps, codes in rests.items()))

    def run(self, lanes: Cursors) -> None:
        code = lanes.choice(len(self.branches))
        most = int(code.max())
        if most == int(code.min()):
            run(self.branches[most >> 1], lanes)
            return
        if self._widths is not None:
            np.add(lanes.pos, self._widths.take(code.astype(np.intp, copy=False)), out=lanes.pos)
        for codes, steps in self._rests:
            hit = code == codes[0]
            for other in codes[1:]:
                hit |= code == other
            rows = np.flatnonzero(hit)
            if len(rows):
                part = lanes.select(rows)
                run(steps, part)
                lanes.pos[rows] = part.pos


@dataclass(frozen=True, slots=True)
class Repeat:
    """An array or map. items: the steps of an item or value. keyed: a map.

    score: what to do first with the value whose key is SCORE; it need not move over the value.
    """

    items: Steps
    keyed: bool = False
    score: Steps = ()

    def run(self, lanes: Cursors) -> None:
        # part: the lanes that have blocks left; rows: where these are in `lanes`, None for all as they stand.
        part, rows = lanes, None
        while True:
            count, stop = part.block()
            most = int(count.max())
            if not most:
                break
            if int(count.min()) != most:
                # Most items first: the lanes that have items left are always the first ones.
                order = np.argsort(most - count, kind="stable")[: np.count_nonzero(count)]
                if rows is not None:
                    lanes.pos[rows] = part.pos
                part, count = part.select(order), count.take(order)
                rows = order if rows is None else rows.take(order)
                stop = stop if stop is None else stop.take(order)
            if not part.worthwhile():
                break
            self._block(part, count)
            if stop is not None:
                part.drop((stop >= 0) & (part.pos != stop))
        if rows is not None:
            lanes.pos[rows] = part.pos

    def _block(self, lanes: Cursors, count: NDArray[np.int64]) -> None:
        """Move over the items of one block. count: the items of each lane, at least one, descending."""
        for done in range(int(count[0])):
            if count[-1] <= done:
                count = count[: np.count_nonzero(count > done)]
                lanes = lanes.first(len(count))
            if done and not lanes.worthwhile():
                return
            if self.keyed:
                self._key(lanes)
            run(self.items, lanes)

    def _key(self, lanes: Cursors) -> None:
        length = lanes.length()
        if self.score:
            rows = np.flatnonzero(length == len(SCORE))
            if len(rows):
                part = lanes.select(rows)
                hit = (part.words() == _SCORE_HEAD) & (part.words(len(SCORE) - 8) == _SCORE_TAIL)
                part.advance(len(SCORE))
                if hit.any():
                    run(self.score, part.select(np.flatnonzero(hit)))
        np.add(lanes.pos, length, out=lanes.pos)


def _store(lanes: Cursors, column: str, values: object) -> None:
    numbers: Numbers = lanes.chunk.sink[column]
    lanes.write(numbers.values, values)
    lanes.write(numbers.present, True)


def _status_of(word: NDArray[np.uint64], length: NDArray[np.int64]) -> NDArray[np.uint8]:
    """uint8[k], the codes of strings. word: their first eight bytes."""
    codes = np.full(len(word), UNKNOWN_STATUS, np.uint8)
    for code, (size, text) in enumerate(_STATUS_WORDS):
        codes[(length == size) & (word & np.uint64((1 << 8 * size) - 1) == text)] = code
    return codes

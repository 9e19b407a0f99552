"""Entry marks: where the entries of maps lie whose keys may be chosen ones.

While the cursors move over the entries, only the length of each key is looked at, and a byte of it where keys of this
length that are not chosen were seen. An entry without a mark has no chosen key; one with a mark may have one. Entries
with marks that follow each other are a *segment*, and the bytes of a map's segments say what its chosen values are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.chosen import Key
from tokentrace.decode.columnar.cursors import Cursors
from tokentrace.model.arrays import Ints

#: Longest key whose length is one byte.
LONGEST_KEY: Final = 63
#: Entries of a map that may have marks, a bit each; the next bits say that a map has others, and that its last entry
#: has a mark.
_MOST_ENTRIES: Final = 22
_IRREGULAR: Final = 1 << _MOST_ENTRIES
_AT_END: Final = _IRREGULAR << 1
#: Layouts that the maps of a chunk may have; other maps are left out.
_MOST_LAYOUTS: Final = 12


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of k maps, which have equally many.

    rows: int64[k], the maps' positions in the cursors, None for all of them. bounds: (start, end) of each, int64[k].
    """

    rows: Ints | None
    bounds: list[tuple[Ints, Ints]]


class KeyTells:
    """Tells chosen keys from others by their length, and by a byte where an entry's place has others of the length.

    learning: True to compare whole keys, and to learn where their lengths are not enough. Marks are correct without.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.learning = True
        self._keys: dict[int, list[Key]] = {}
        for key in keys:
            self._keys.setdefault(len(key), []).append(Key.of(key))
        #: (place of the entry, length) -> place of a byte that tells, and its values in chosen keys; None without any.
        self._learned: dict[tuple[int, int], tuple[int, tuple[int, ...]] | None] = {}

    def hits(self, cursors: Cursors, length: NDArray[Any], place: int) -> NDArray[np.bool_] | bool:
        """Return which cursors are at a key that may be chosen, of `length` bytes; a bool where all are alike."""
        least, most = int(length.min()), int(length.max())
        hit: NDArray[np.bool_] | None = None
        for size in self._keys:
            if not least <= size <= most:
                continue
            sized = None if least == most else length == size
            found = self._narrowed(cursors, sized, size, place)
            if found is None:
                return True
            hit = found if hit is None else np.logical_or(hit, found, out=hit)
        if hit is None:
            return False
        count = int(np.count_nonzero(hit))
        return hit if 0 < count < len(hit) else count > 0

    def _narrowed(
        self, cursors: Cursors, sized: NDArray[np.bool_] | None, size: int, place: int
    ) -> NDArray[np.bool_] | None:
        """Return which of the cursors at a key of `size` bytes (None: all) may be at a chosen one; None for all."""
        if self.learning:
            exact = self._exact(cursors, size)
            if sized is not None:
                exact &= sized
            others = ~exact if sized is None else sized & ~exact
            if others.any():
                self._learned[place, size] = self._tell(cursors, others, size)
            return exact
        if (place, size) not in self._learned:
            return sized
        tell = self._learned[place, size]
        if tell is None:
            may_be = self._exact(cursors, size)
        else:
            at, values = tell
            byte = cursors.chunk.buffer.take(cursors.pos + at if at else cursors.pos, mode="clip")
            may_be = byte == values[0]
            for value in values[1:]:
                may_be |= byte == value
        if sized is not None:
            may_be &= sized
        return may_be

    def _exact(self, cursors: Cursors, size: int) -> NDArray[np.bool_]:
        first = cursors.words()
        hit = self._keys[size][0].matches(cursors, first)
        for key in self._keys[size][1:]:
            hit |= key.matches(cursors, first)
        return hit

    def _tell(self, cursors: Cursors, others: NDArray[np.bool_], size: int) -> tuple[int, tuple[int, ...]] | None:
        """Return the place of a byte that tells the keys of the cursors `others` from chosen ones of this size."""
        pos = cursors.pos[others]
        for at in range(size):
            values = tuple({key.data[at] for key in self._keys[size]})
            if not np.isin(cursors.chunk.buffer.take(pos + at, mode="clip"), values).any():
                return at, values
        return None


class Marker:
    """Marks entries of the maps at some cursors while a step moves over them."""

    def __init__(self, cursors: Cursors, tells: KeyTells) -> None:
        self._index = cursors.index
        self._size = len(cursors.chunk.end)
        self._tells = tells
        #: Bits of entries in which all maps have a mark, and of those in which some have one: uint32[n].
        self._common = 0
        self._bits: NDArray[np.uint32] | None = None
        #: Place of an entry -> where it begins, int64[n], for places at which a segment begins or ends.
        self._edges: dict[int, Ints] = {}
        #: True if the entry before this one has a mark; None where the maps differ.
        self._before: bool | None = False
        #: True if the last entry of a map has a mark: bool[n], or one for all maps.
        self._last: NDArray[np.bool_] | bool = False
        #: Position behind the entries: int64[n].
        self._end: Ints | None = None

    def __len__(self) -> int:
        return self._size if self._index is None else len(self._index)

    def entry(self, cursors: Cursors, length: NDArray[Any], place: int) -> None:
        """Mark the entry at this place of its block. The cursors are at its key, of `length` bytes."""
        if self._end is not None:
            return
        if length.dtype != np.uint8:
            # A length may be written with more bytes than it needs.
            head = cursors.chunk.buffer.take(cursors.pos - 1, mode="clip")
            self._mark(cursors, (length <= LONGEST_KEY) & (head != length << 1), _IRREGULAR)
        hit = self._tells.hits(cursors, length, place)
        if hit is not False:
            self._mark(cursors, hit, 1 << place if place < _MOST_ENTRIES else _IRREGULAR)
        alike = hit if isinstance(hit, bool) else None
        if (alike is None or alike is not self._before) and place <= _MOST_ENTRIES:
            start = cursors.pos - 1
            if cursors.index is None:
                self._edges[place] = start
            else:
                self._edges.setdefault(place, np.zeros(self._size, np.int64))[cursors.index] = start
        self._before = alike
        if cursors.index is None:
            self._last = hit
        elif alike is None or alike is not self._last:
            if isinstance(self._last, bool):
                self._last = np.full(self._size, self._last)
            self._last[cursors.index] = hit

    def end_block(self, cursors: Cursors) -> None:
        """Take note of a block's end. Maps of several blocks are left out."""
        if self._end is not None:
            self._mark(cursors, True, _IRREGULAR)
        elif cursors.index is None:
            self._end = cursors.pos.copy()
        else:
            self._end = np.zeros(self._size, np.int64)
            self._end[cursors.index] = cursors.pos

    def _mark(self, cursors: Cursors, hit: NDArray[np.bool_] | bool, bits: int) -> None:
        if cursors.index is None and isinstance(hit, bool):
            self._common |= bits
            return
        if self._bits is None:
            self._bits = np.zeros(self._size, np.uint32)
        if cursors.index is None:
            self._bits |= np.multiply(np.asarray(hit).view(np.uint8), np.uint32(bits))
        else:
            self._bits[cursors.index if isinstance(hit, bool) else cursors.index[hit]] |= np.uint32(bits)

    def segments(self) -> Iterator[Segments]:
        """Give the segments of the maps, those with equally many at once."""
        layouts = self._layouts()
        if isinstance(layouts, int):
            if not layouts & _IRREGULAR:
                yield Segments(None, [self._bound(first, end) for first, end in _runs(layouts)])
            return
        by_count: dict[int, list[_Layout]] = {}
        for layout in _distinct(layouts):
            if not layout.marks & _IRREGULAR:
                by_count.setdefault(len(layout.runs), []).append(layout)
        for some in by_count.values():
            yield self._joined(some, layouts)

    def _layouts(self) -> NDArray[np.uint32] | int:
        """Return the layout of each map, uint32[k], or of all: a bit an entry with a mark, and those for the rest."""
        common = self._common | (_AT_END if self._last is True else 0)
        layouts = self._bits
        if not isinstance(self._last, bool):
            at_end = np.multiply(self._last.view(np.uint8), np.uint32(_AT_END))
            layouts = at_end if layouts is None else layouts | at_end
        if layouts is None:
            return common
        if common:
            layouts = layouts | np.uint32(common)
        return layouts if self._index is None else layouts[self._index]

    def _joined(self, some: list[_Layout], layouts: NDArray[np.uint32]) -> Segments:
        """Return the segments of the maps with these layouts, which have equally many."""
        some.sort(key=lambda layout: layout.maps, reverse=True)
        usual, others = some[0], some[1:]
        rows_of = [np.flatnonzero(layouts == other.marks) for other in others]
        within = rows_of if self._index is None else [self._index[rows] for rows in rows_of]
        rows = self._index
        if sum(layout.maps for layout in some) < len(layouts):
            chosen = np.concatenate([np.flatnonzero(layouts == usual.marks), *rows_of])
            rows = chosen if rows is None else rows[chosen]
        else:
            chosen = None
        bounds = []
        for number, run in enumerate(usual.runs):
            sides = list(self._bound(*run))
            for side, usual_values in enumerate(sides):
                for other, at in zip(others, within, strict=True):
                    values = self._bound(*other.runs[number])[side]
                    if values is not usual_values:
                        sides[side] = usual_values.copy() if sides[side] is usual_values else sides[side]
                        sides[side][at] = values[at]
            start, end = sides
            bounds.append((start, end) if rows is None else (start[rows], end[rows]))
        return Segments(chosen, bounds)

    def _bound(self, first: int, end: int | None) -> tuple[Ints, Ints]:
        """Return where a segment of these entries begins and ends, int64[n] each. end: None at the end of the map."""
        stop = self._end if end is None else self._edges[end]
        assert stop is not None
        return self._edges[first], stop


@dataclass(frozen=True, slots=True)
class _Layout:
    """marks: a bit an entry. maps: how many have it. runs: of entries with marks, (first, end) of each."""

    marks: int
    maps: int
    runs: list[tuple[int, int | None]]


def _distinct(layouts: NDArray[np.uint32]) -> Iterator[_Layout]:
    """Give the distinct layouts of maps, uint32[k]."""
    for _ in range(_MOST_LAYOUTS):
        marks = int(layouts[0])
        others = np.flatnonzero(layouts != marks)
        yield _Layout(marks, len(layouts) - len(others), _runs(marks))
        if not len(others):
            return
        layouts = layouts[others]


def _runs(marks: int) -> list[tuple[int, int | None]]:
    """Return the first entry and the end of each run of marks; None for the end of the map."""
    at_end, marks = bool(marks & _AT_END), marks & (_IRREGULAR - 1)
    runs: list[tuple[int, int | None]] = []
    place = 0
    while marks >> place:
        if marks >> place & 1:
            first = place
            while marks >> place & 1:
                place += 1
            runs.append((first, None if at_end and not marks >> place else place))
        place += 1
    return runs

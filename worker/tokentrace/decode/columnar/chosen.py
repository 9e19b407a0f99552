"""Steps for the texts of dimensions: chosen values of a map, and values whose text has to be made.

Writers usually put the same keys into a map in the same order, so one round over a map's items meets few keys. Their
values are read together, and then stored by key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.cursors import Cursors
from tokentrace.decode.columnar.program import Program, run, run_some
from tokentrace.decode.texts import text_of
from tokentrace.model.arrays import LOW_BYTES
from tokentrace.model.spans import Strings

_LOW_BYTE: Final = np.uint64(0xFF)


#: Column of a chunk that the text of an item is stored in, until it is known which keys the cursors are at.
ITEM_TEXT: Final = "text of an item"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a map. words: its words of eight bytes, the last one filled up with zeros."""

    data: bytes
    words: tuple[np.uint64, ...]

    @classmethod
    def of(cls, data: bytes) -> Key:
        return cls(data, tuple(np.uint64(int.from_bytes(data[at : at + 8], "little")) for at in range(0, len(data), 8)))

    @property
    def size(self) -> int:
        return len(self.data)

    def hits(self, cursors: Cursors, length: NDArray[np.integer], first: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which cursors are at this key, of `length` bytes: bool[k]. first: uint64[k], the next eight bytes."""
        hit: NDArray[np.bool_] = length == self.size
        return hit & self.matches(cursors, first) if hit.any() else hit

    def matches(self, cursors: Cursors, first: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which of these cursors are at the bytes of this key: bool[k]. first: as of `hits`."""
        hit: NDArray[np.bool_] = (first & LOW_BYTES[min(self.size, 8)]) == (self.words[0] if self.words else 0)
        for number, word in enumerate(self.words[1:], start=1):
            if not hit.any():
                break
            found = cursors.words(8 * number)
            if self.size < 8 * number + 8:
                found &= LOW_BYTES[self.size - 8 * number]
            hit &= found == word
        return hit


@dataclass(frozen=True, slots=True)
class ChosenValues:
    """Reads the values of some keys of a map.

    keys: (key, source that its value is stored for). text: stores a value in the column ITEM_TEXT, and moves past it.
    """

    keys: tuple[tuple[bytes, str], ...]
    text: Program
    _keys: tuple[tuple[Key, str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", tuple((Key.of(key), source) for key, source in self.keys))

    def run(self, cursors: Cursors, length: NDArray[np.integer], items: Program) -> None:
        """Move past the keys, of `length` bytes, and the values, and store the chosen ones. items: passes any other."""
        shortest, longest = int(length.min()), int(length.max())
        keys = [entry for entry in self._keys if shortest <= entry[0].size <= longest]
        hits = []
        if keys:
            first = cursors.words()
            hits = [(source, hit) for key, source in keys if (hit := key.hits(cursors, length, first)).any()]
        np.add(cursors.pos, length, out=cursors.pos)
        if not hits:
            run(items, cursors)
            return
        # The values of all keys are read together: writers that leave out a key shift those behind it.
        chosen = hits[0][1]
        for _, hit in hits[1:]:
            chosen = chosen | hit
        if chosen.all():
            run(self.text, cursors)
        else:
            run_some(self.text, cursors, chosen)
            run_some(items, cursors, ~chosen)
        for source, hit in hits:
            _copy_text(cursors, hit, source)


def _copy_text(cursors: Cursors, hit: NDArray[np.bool_], source: str) -> None:
    """Copy the texts of the items to the column of a source. hit: bool[k], the cursors that it is for."""
    texts: Strings = cursors.chunk.outputs[ITEM_TEXT]
    strings: Strings = cursors.chunk.outputs[source]
    if cursors.index is None:
        # Half the time of a copy with `where`.
        np.putmask(strings.offset, hit, texts.offset)
        np.putmask(strings.length, hit, texts.length)
        return
    rows = cursors.index if hit.all() else cursors.index[hit]
    strings.offset[rows] = texts.offset[rows]
    strings.length[rows] = texts.length[rows]


@dataclass(frozen=True, slots=True)
class Peek:
    """Runs a program ahead, without moving the cursors."""

    program: Program

    def run(self, cursors: Cursors) -> None:
        ahead = Cursors(cursors.chunk, cursors.pos.copy(), cursors.index)
        run(self.program, ahead)


@dataclass(frozen=True, slots=True)
class FixedText:
    """Reads a fixed of `size` bytes as a text."""

    source: str
    size: int

    def run(self, cursors: Cursors) -> None:
        strings: Strings = cursors.chunk.outputs[self.source]
        cursors.write(strings.offset, cursors.pos)
        cursors.write(strings.length, self.size)
        cursors.advance(self.size)


@dataclass(frozen=True, slots=True)
class NumberText:
    """Reads a number or a boolean and stores its text, which is made once for each distinct value of the chunk."""

    source: str
    kind: str

    def run(self, cursors: Cursors) -> None:
        if self.kind == "boolean":
            byte = cursors.words() & _LOW_BYTE
            cursors.advance(1)
            bad = byte > 1
            if bad.any():
                cursors.drop(bad)
            self._store(cursors, byte.view(np.int64), np.dtype(np.bool_))
        elif self.kind in ("int", "long"):
            self._store(cursors, cursors.integer(), np.dtype(np.int64))
        else:
            word = cursors.words()
            size = 8 if self.kind == "double" else 4
            cursors.advance(size)
            # Not numbers are told apart by their bits.
            bits = word.view(np.int64) if size == 8 else word.astype(np.uint32).view(np.int32)
            self._store(cursors, bits, np.dtype(np.float64 if size == 8 else np.float32))

    def _store(self, cursors: Cursors, values: NDArray[np.signedinteger], dtype: np.dtype[np.generic]) -> None:
        distinct, which = np.unique(values, return_inverse=True)
        numbers = distinct.astype(np.bool_) if dtype == np.bool_ else distinct.view(dtype)
        texts = Strings(np.zeros(len(distinct), np.int64), np.zeros(len(distinct), np.int64))
        for number, value in enumerate(numbers.tolist()):
            cursors.chunk.columns.put_string(texts, number, text_of(value))
        strings: Strings = cursors.chunk.outputs[self.source]
        cursors.write(strings.offset, texts.offset[which])
        cursors.write(strings.length, texts.length[which])

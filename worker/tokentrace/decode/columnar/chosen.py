"""Steps for the texts of dimensions: chosen values of a map, and values whose text has to be made.

Writers usually put the same keys into a map in the same order, so one round over a map's items mostly meets one key in
all messages, and stores its values as it passes them. Otherwise the messages are read apart, by their keys.
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


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of a map, as words of eight bytes, the last one filled up with zeros. program: stores its value."""

    size: int
    words: tuple[np.uint64, ...]
    program: Program

    def hits(self, cursors: Cursors, length: NDArray[np.integer], first: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which of these cursors are at this key: bool[k]. first: uint64[k], the eight bytes at each."""
        hit: NDArray[np.bool_] = length == self.size
        if not hit.any():
            return hit
        hit &= (first & LOW_BYTES[min(self.size, 8)]) == (self.words[0] if self.words else 0)
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
    """Reads the values of some keys of a map. keys: (key, program that stores the value and moves past it)."""

    keys: tuple[tuple[bytes, Program], ...]
    _keys: tuple[_Key, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def key_of(key: bytes, program: Program) -> _Key:
            words = tuple(np.uint64(int.from_bytes(key[at : at + 8], "little")) for at in range(0, len(key), 8))
            return _Key(len(key), words, program)

        object.__setattr__(self, "_keys", tuple(key_of(*entry) for entry in self.keys))

    def run(self, cursors: Cursors, length: NDArray[np.integer], items: Program) -> None:
        """Move past the keys, of `length` bytes, and the values, and store the chosen ones. items: passes any other."""
        shortest, longest = int(length.min()), int(length.max())
        keys = [key for key in self._keys if shortest <= key.size <= longest]
        hits = []
        if keys:
            first = cursors.words()
            hits = [(key.program, hit) for key in keys if (hit := key.hits(cursors, length, first)).any()]
        np.add(cursors.pos, length, out=cursors.pos)
        if not hits:
            run(items, cursors)
            return
        if len(hits) == 1 and hits[0][1].all():
            run(hits[0][0], cursors)
            return
        rest = np.ones(len(cursors), np.bool_)
        for program, hit in hits:
            rest ^= hit
            run_some(program, cursors, hit)
        run_some(items, cursors, rest)


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

"""Segment table: the bytes of segments to numbers, for many rows at once.

A row is the segments of one map, each filled up with zeros to whole words. They are complete entries with keys of one
byte or more, so no other entries have the same words. Rows are looked up in an open-addressed table by a hash, and
every hit is verified against the stored words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import LOW_BYTES, Ints, first_words, grown, widened

#: Most words of a row.
MOST_WORDS: Final = 32
#: Slots of the table for each row: with few, a row often has to look at a second one.
_SPARSENESS: Final = 32
_FIRST_SLOTS: Final = 1 << 12
#: A word's comparison with another, byte by byte of the result.
_ALL_EQUAL: Final[dict[int, np.unsignedinteger[Any]]] = {
    1: np.uint8(0x01),
    2: np.uint16(0x0101),
    4: np.uint32(0x01010101),
    8: np.uint64(0x0101010101010101),
}
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS: Final = np.array([pow(int(_ODD), 2 * word + 1, 1 << 64) for word in range(MOST_WORDS)], np.uint64)
#: Odd factors of the multipliers that a table may choose from.
_FACTORS: Final = tuple(np.uint64(pow(int(_ODD), 3 * number, 1 << 64)) for number in range(8))
#: Rows up to which a table looks for its best multipliers.
_FEW: Final = 2000
#: Words that may be hashed, from few to all.
_HASHED: Final = (slice(0, None, 2), slice(1, None, 2), slice(None))
#: Rows that one has to pass at most before words are mixed before they are hashed.
_FAR: Final = 16

Words = NDArray[np.uint64]


def _dot(words: Words, multipliers: Words) -> Words:
    """Return the sum of the products of each row: uint64[n, w], uint64[w] -> uint64[n]."""
    dot = getattr(np, "vecdot", np.matmul)
    product: Words = dot(words, multipliers)
    return product


def whole_words(size: int) -> int:
    """Return how many words a segment of so many bytes takes: a number that comparisons are quick with."""
    words = -(-size // 8)
    return next((few for few in (1, 2, 4) if words <= few), -(-words // 8) * 8)


def segment_words(buffer: NDArray[np.uint8], start: Ints, length: Ints, width: int, shortest: int) -> Words:
    """Load segments as words, filled up with zeros: uint64[n, width].

    start, length: int64[n], within the buffer. shortest: no length is less.
    """
    words = first_words(buffer, start, width)
    for number in range(shortest // 8, width):
        column = words[:, number]
        np.bitwise_and(column, LOW_BYTES.take(length - 8 * number, mode="clip"), out=column)
    return words


class SegmentTable:
    """Numbers rows of so many segments. hash_bits exists to make collisions in tests."""

    def __init__(self, segments: int, hash_bits: int = 64) -> None:
        #: Words of each segment, which grow as longer ones come.
        self.widths = [1] * segments
        self._hash_mask = None if hash_bits == 64 else np.uint64((1 << 64) - (1 << (64 - hash_bits)))
        #: Row 0 is that of free slots: no segment is all zeros.
        self._rows = [np.zeros((64, 1), np.uint64) for _ in range(segments)]
        self._numbers: Ints = np.zeros(64, np.int64)
        self._count = 1
        self._multipliers = _MULTIPLIERS
        #: Words of a segment that are hashed, of all rows: some suffice where values go together.
        self._hashed = slice(None)
        self._arranged = 1
        #: True to mix each word's high half into its low one: a product alone moves bits to higher places only.
        self._mixed = False
        self._clear_slots(_FIRST_SLOTS)

    def _clear_slots(self, slots: int) -> None:
        self._slots: Ints = np.zeros(slots, np.int64)
        self._shift = np.uint64(64 - (slots.bit_length() - 1))

    def widen(self, widths: Sequence[int]) -> None:
        """Make room for segments of so many words."""
        for segment, width in enumerate(widths):
            if width > self.widths[segment]:
                self.widths[segment] = width
                self._rows[segment] = widened(self._rows[segment], width)

    def find(self, segments: Sequence[Words]) -> Ints:
        """Return the number of each row, int64[n], 0 for an unknown one. segments: uint64[n, width] of each width."""
        slot = self._first_slots(segments)
        entry = self._slots.take(slot)
        same = self._equal(segments, entry)
        numbers = self._numbers.take(entry)
        if np.count_nonzero(same) == len(same):
            return numbers
        # Rows whose slot has another row. The number of a free slot is 0.
        rows = np.flatnonzero(~same)
        while True:
            numbers[rows] = 0
            rows = rows[entry[rows] > 0]
            if not len(rows):
                return numbers
            slot[rows] = (slot[rows] + 1) & (len(self._slots) - 1)
            following = entry[rows] = self._slots.take(slot[rows])
            same = self._equal([words[rows] for words in segments], following)
            numbers[rows] = self._numbers.take(following)
            rows = rows[~same]

    def add(self, segments: Sequence[Words], row: int, number: int) -> None:
        """Add a row that is not known, with its number."""
        entry = self._count
        for segment, words in enumerate(segments):
            self._rows[segment] = grown(self._rows[segment], entry + 1)
            self._rows[segment][entry] = words[row]
        self._numbers = grown(self._numbers, entry + 1)
        self._numbers[entry] = number
        self._count = entry + 1
        if _SPARSENESS * self._count > len(self._slots):
            self._place_all(4 * len(self._slots))
            return
        slot = int(self._first_slots([words[row : row + 1] for words in segments])[0])
        if self._place(entry, slot) > _FAR and not self._mixed:
            self._mixed, self._hashed = True, slice(None)
            self._place_all(len(self._slots))

    def arrange(self) -> None:
        """Choose the hash of fewest words by which few rows share a slot, where many were added since the last time."""
        if 8 * self._count <= 9 * self._arranged:
            return
        self._arranged = self._count
        for self._hashed in _HASHED:
            if self._shared() <= 2 + self._count // _SPARSENESS:
                break
        if self._count <= _FEW:
            self._multipliers = min((_MULTIPLIERS * factor for factor in _FACTORS), key=self._shared)
        self._place_all(len(self._slots))

    def _shared(self, multipliers: Words | None = None) -> int:
        """Return how many rows share the slot of another, by these multipliers or the table's."""
        before = self._multipliers
        if multipliers is not None:
            self._multipliers = multipliers
        slots = self._first_slots([rows[1 : self._count] for rows in self._rows])
        self._multipliers = before
        return self._count - 1 - len(np.unique(slots))

    def _place_all(self, slots: int) -> None:
        self._clear_slots(slots)
        for entry, slot in enumerate(self._first_slots([rows[: self._count] for rows in self._rows]).tolist()):
            if entry:
                self._place(entry, slot)

    def _place(self, entry: int, slot: int) -> int:
        """Put a row into the first free slot, from this one on. Return how many it passes."""
        passed = 0
        while self._slots[slot]:
            slot = (slot + 1) & (len(self._slots) - 1)
            passed += 1
        self._slots[slot] = entry
        return passed

    def hash(self, segments: Sequence[Words]) -> Words:
        """Hash rows. The highest bits are mixed best."""
        if self._mixed:
            segments = [words ^ (words >> np.uint64(32)) for words in segments]
        hashes = self._product(segments[0])
        for words in segments[1:]:
            hashes *= _ODD
            hashes += self._product(words)
        return hashes

    def _product(self, words: Words) -> Words:
        chosen = words[:, self._hashed]
        return _dot(chosen, self._multipliers[: chosen.shape[1]])

    def _first_slots(self, segments: Sequence[Words]) -> Ints:
        hashes = self.hash(segments)
        if self._hash_mask is not None:
            hashes &= self._hash_mask
        hashes >>= self._shift
        return hashes.view(np.int64)

    def _equal(self, segments: Sequence[Words], entry: Ints) -> NDArray[np.bool_]:
        """Return bool[n], true where the row is the one of the table."""
        equal: NDArray[np.bool_] | None = None
        for words, rows in zip(segments, self._rows, strict=True):
            width = min(words.shape[1], 8)
            same = (words == rows.take(entry, axis=0)).view(_ALL_EQUAL[width].dtype) == _ALL_EQUAL[width]
            for column in range(same.shape[1]):
                equal = same[:, column] if equal is None else equal & same[:, column]
        assert equal is not None
        return equal

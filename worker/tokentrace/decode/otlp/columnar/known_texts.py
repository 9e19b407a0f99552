"""Known texts: which of a set of short texts each of many strings is, exactly, without a Python object for any."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import LOW_BYTES

#: Longest text of a set, bytes.
LONGEST: Final = 127
_UNKNOWN: Final = -1


class KnownTexts:
    """A set of texts. A string is looked up by its length, first and last eight bytes, and then compared whole."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        """texts: distinct, each of 1 to LONGEST bytes; the number of a text is its place."""
        size = len(texts)
        self._lengths = np.array([len(text) for text in texts], np.int64)
        words = -(-max(map(len, texts)) // 8)
        padded = b"".join(text.ljust(8 * words, b"\0") for text in texts)
        self._words = np.frombuffer(padded, "<u8").reshape(size, words)
        last = [int.from_bytes(text[-8:], "little") if len(text) > 8 else 0 for text in texts]
        keys = self._keys(self._words[:, 0], np.array(last, np.uint64), self._lengths)
        # A multiplier and a table in which no two texts of the set meet.
        for bits, seed in itertools.product(range(10, 20), range(64)):
            self._multiplier = np.uint64((0x9E3779B97F4A7C15 + 0x3779B97F4A7C1500 * seed) & (2**64 - 1) | 1)
            self._shift = np.uint64(64 - bits)
            slots = self._slots(keys)
            if len(np.unique(slots)) == len(np.unique(keys)):
                break
        self._table = np.full(1 << bits, _UNKNOWN, np.int64)
        self._table[slots] = np.arange(size)
        #: Texts with the same length, beginning and end as another; these are looked for one by one.
        self._twins = [number for number in range(size) if self._table[slots[number]] != number]

    def find(
        self, words: NDArray[np.uint64], offset: NDArray[np.int64], length: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return int64[k], the number of the text that each string is, -1 for none.

        words: uint64[...], the eight bytes from each position on. offset, length: int64[k], of the strings.
        """
        first = words[offset] & LOW_BYTES.take(length, mode="clip")
        last = np.where(length > 8, words[np.maximum(offset + length - 8, 0)], np.uint64(0))
        keys = self._keys(first, last, length)
        number = self._table[self._slots(keys)]
        number = self._confirmed(number, words, offset, length)
        for twin in self._twins:
            rows = np.flatnonzero((number == _UNKNOWN) & (length == self._lengths[twin]))
            found = self._confirmed(np.full(len(rows), twin), words, offset[rows], length[rows])
            number[rows] = found
        return number

    def _confirmed(
        self,
        number: NDArray[np.int64],
        words: NDArray[np.uint64],
        offset: NDArray[np.int64],
        length: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the numbers whose texts the strings are in full, -1 for the others."""
        rows = np.flatnonzero((number >= 0) & (self._lengths[number] == length))
        for word in range(self._words.shape[1]):
            if not len(rows):
                break
            rest = length[rows] - 8 * word
            here = np.flatnonzero(rest > 0)
            if not len(here):
                break
            at = rows[here]
            given = words[offset[at] + 8 * word] & LOW_BYTES.take(rest[here], mode="clip")
            same = given == self._words[number[at], word]
            if not same.all():
                rows = np.delete(rows, here[~same])
        found = np.full(len(number), _UNKNOWN, np.int64)
        found[rows] = number[rows]
        return found

    def _slots(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys * self._multiplier >> self._shift).view(np.int64)

    @staticmethod
    def _keys(first: NDArray[np.uint64], last: NDArray[np.uint64], length: NDArray[np.int64]) -> NDArray[np.uint64]:
        mixed = last * np.uint64(0xC2B2AE3D27D4EB4F)
        sizes = length.view(np.uint64) * np.uint64(0x165667B19E3779F9)
        keys: NDArray[np.uint64] = first ^ mixed ^ (mixed >> np.uint64(29)) ^ sizes
        return keys

"""Word table: distinct rows of strings to dense numbers, for a whole batch, with no Python object a row.

Rows are hashed eight bytes at a time and looked up in an open-addressed table. Every hit is verified against the stored
words, so a collision of hashes cannot merge two rows. Python runs once per new row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.hashing import GOLDEN_RATIO, finish
from tokentrace.aggregate.labels import LabelWords, among
from tokentrace.model.arrays import grown

_EMPTY: Final = -1
#: Most parts of a row.
_PARTS: Final = 8
#: One odd multiplier for each word of each part; longer parts use them again.
_MULTIPLIERS: Final = np.array(
    [[pow(int(GOLDEN_RATIO), 1 + part + _PARTS * step, 1 << 64) for step in range(64)] for part in range(_PARTS)],
    np.uint64,
)


class WordTable:
    """Numbers the rows that are added, from 0 on. hash_bits exists to make collisions in tests."""

    def __init__(self, parts: int, hash_bits: int = 64) -> None:
        """parts: of a row, at most _PARTS; the header tells two rows apart whose words are the same."""
        self._parts = parts
        self._hash_mask = np.uint64((1 << hash_bits) - 1)
        self._count = 0
        self._slots: NDArray[np.int64] = np.full(1024, _EMPTY, np.int64)
        self._hashes: NDArray[np.uint64] = np.zeros(64, np.uint64)
        self._headers: NDArray[np.uint64] = np.zeros(64, np.uint64)
        #: Position of the first word of each part, a row a part.
        self._first_word: list[NDArray[np.int64]] = [np.zeros(64, np.int64) for _ in range(parts)]
        self._words: NDArray[np.uint64] = np.zeros(256, np.uint64)
        self._word_count = 0

    def __len__(self) -> int:
        return self._count

    def hash(self, words: LabelWords) -> NDArray[np.uint64]:
        """Sum over the words, so that absent words cost nothing."""
        hashes = words.header * GOLDEN_RATIO
        for part, number, rows, word in words.steps:
            product = word * _MULTIPLIERS[part, number % _MULTIPLIERS.shape[1]]
            if rows is None:
                hashes += product
            else:
                hashes[rows] += product
        hashes ^= hashes >> np.uint64(32)
        finish(hashes)
        return hashes & self._hash_mask

    def find(
        self, hashes: NDArray[np.uint64], words: LabelWords, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Return int64[len(rows)], the numbers of the rows at `rows` (None: all), -1 for an unknown one."""
        wanted = hashes if rows is None else hashes[rows]
        slot = (wanted & np.uint64(len(self._slots) - 1)).view(np.int64)
        found = candidate = self._seek(slot, wanted)
        # Rows whose candidate is to be verified, None for all of them.
        open_: NDArray[np.int64] | None = None
        while len(candidate):
            filled = candidate >= 0
            if not filled.all():
                open_ = np.flatnonzero(filled) if open_ is None else open_[filled]
                slot, candidate = slot[filled], candidate[filled]
            spans = rows if open_ is None else open_ if rows is None else rows[open_]
            other = ~self._verify(candidate, words, spans)
            if not other.any():
                break
            # A row with the same hash.
            open_ = np.flatnonzero(other) if open_ is None else open_[other]
            slot = (slot[other] + 1) & (len(self._slots) - 1)
            candidate = found[open_] = self._seek(slot, wanted[open_])
        return found

    def _seek(self, slot: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the number in the first slot, from these on, that has the hash, or -1 of a free one before it.

        slot: int64[k], moved there in place.
        """
        candidate = self._slots.take(slot)
        others = np.flatnonzero(self._is_other(candidate, hashes))
        while len(others):
            at = slot[others] = (slot[others] + 1) & (len(self._slots) - 1)
            following = candidate[others] = self._slots.take(at)
            others = others[self._is_other(following, hashes[others])]
        return candidate

    def _is_other(self, candidate: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return bool[k], true where the candidate is a row with another hash."""
        other: NDArray[np.bool_] = self._hashes.take(candidate, mode="clip") != hashes
        other &= candidate >= 0
        return other

    def _verify(
        self, candidate: NDArray[np.int64], words: LabelWords, spans: NDArray[np.int64] | None
    ) -> NDArray[np.bool_]:
        """Return bool[len(candidate)], true where these rows (None: all) equal the candidate's."""
        same: NDArray[np.bool_] = self._headers.take(candidate) == (
            words.header if spans is None else words.header.take(spans)
        )
        part, first = -1, candidate
        for step in words.steps:
            if step.part != part:
                part, first = step.part, self._first_word[step.part].take(candidate)
            # Where the lengths differ (`same` is false), a candidate's word may be another row's, or beyond the end.
            if spans is None and step.rows is None:
                same &= self._words.take(first + step.number, mode="clip") == step.words
            elif spans is None:
                same[step.rows] &= self._words.take(first[step.rows] + step.number, mode="clip") == step.words
            else:
                here, expected = among(step, spans, len(words.header))
                same[here] &= self._words.take(first[here] + step.number, mode="clip") == expected
        return same

    def add(self, header: int, words: Sequence[Sequence[int]], hash_: int) -> int:
        """Add a row that is not known, and return its number. words: of each part."""
        number = self._count
        flat = [word for part in words for word in part]
        self._hashes = grown(self._hashes, number + 1)
        self._headers = grown(self._headers, number + 1)
        self._words = grown(self._words, self._word_count + len(flat))
        self._hashes[number], self._headers[number] = hash_, header
        self._words[self._word_count : self._word_count + len(flat)] = flat
        for part in range(self._parts):
            self._first_word[part] = grown(self._first_word[part], number + 1)
            self._first_word[part][number] = self._word_count
            self._word_count += len(words[part])
        self._count = number + 1
        if 4 * number > len(self._slots):
            self._slots = np.full(4 * len(self._slots), _EMPTY, np.int64)
            for known in range(number):
                self._place(known, int(self._hashes[known]))
        self._place(number, hash_)
        return number

    def _place(self, number: int, hash_: int) -> None:
        mask = len(self._slots) - 1
        slot = hash_ & mask
        while self._slots[slot] != _EMPTY:
            slot = (slot + 1) & mask
        self._slots[slot] = number

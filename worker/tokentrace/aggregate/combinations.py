"""Combinations: the texts of all dimensions of a span, looked up together.

Most spans repeat a combination of texts, whose codes are known then from one look-up instead of one a dimension. The
table is a cache: what it does not have is encoded dimension by dimension, and it may be emptied at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.labels import LabelWords, Step
from tokentrace.aggregate.word_table import WordTable
from tokentrace.model.arrays import grown
from tokentrace.model.spans import Strings, string_words

#: Longest text of a combination in the table, bytes: its length has eight bits of the header.
LONGEST: Final = 255
#: Most combinations that the table has, and that one batch adds: Python runs once for each.
_MOST: Final = 50_000
_MOST_NEW: Final = 500


class Texts(NamedTuple):
    """The texts of one dimension, one a span, in a buffer with PADDING bytes behind them."""

    buffer: NDArray[np.uint8]
    strings: Strings

    def take(self, rows: NDArray[np.int64]) -> Texts:
        return Texts(self.buffer, self.strings.take(rows))

    def text(self, row: int) -> bytes:
        start = int(self.strings.offset[row])
        return self.buffer[start : start + int(self.strings.length[row])].tobytes()


class Combinations:
    """Maps combinations of texts to packed codes, uint64 each. hash_bits exists to make collisions in tests."""

    def __init__(self, dimensions: int, words: int, hash_bits: int = 64) -> None:
        """words: packed words of a combination."""
        self._dimensions, self._words, self._hash_bits = dimensions, words, hash_bits
        self.clear()

    def clear(self) -> None:
        """Forget all combinations."""
        self._table = WordTable(self._dimensions, self._hash_bits)
        self._packed: list[NDArray[np.uint64]] = [np.zeros(64, np.uint64) for _ in range(self._words)]

    def find(self, texts: Sequence[Texts]) -> tuple[list[NDArray[np.uint64]], NDArray[np.int64], NDArray[np.uint64]]:
        """Return (packed codes, uint64[m] each; spans that are not known, int64[k]; the hash of each, uint64[k])."""
        words, long = _words(texts)
        hashes = self._table.hash(words)
        entry = self._table.find(hashes, words)
        if long is not None:
            entry[long] = -1
        missing = np.flatnonzero(entry < 0)
        # Python's -1 is the last entry, whose codes are replaced.
        return [packed.take(entry, mode="wrap") for packed in self._packed], missing, hashes[missing]

    def add(
        self,
        texts: Sequence[Texts],
        hashes: NDArray[np.uint64],
        packed: Sequence[NDArray[np.uint64]],
        keep: NDArray[np.bool_],
    ) -> None:
        """Add combinations that were not found, of the spans where `keep` (bool[k]) is true. texts: of k spans."""
        rows = np.flatnonzero(keep)
        _, first = np.unique(hashes[rows], return_index=True)
        if len(self._table) + min(len(first), _MOST_NEW) > _MOST:
            self.clear()
        for row in rows[np.sort(first)[:_MOST_NEW]].tolist():
            parts = [column.text(row) for column in texts]
            if max(map(len, parts)) > LONGEST:
                continue
            header = int.from_bytes(bytes(map(len, parts)), "little")
            split = [[int.from_bytes(text[at : at + 8], "little") for at in range(0, len(text), 8)] for text in parts]
            number = self._table.add(header, split, int(hashes[row]))
            for word, column in enumerate(packed):
                self._packed[word] = grown(self._packed[word], number + 1)
                self._packed[word][number] = column[row]


def _words(texts: Sequence[Texts]) -> tuple[LabelWords, NDArray[np.int64] | None]:
    """Return (the texts as words, a part a dimension; the spans with a text that is too long, None without any)."""
    header = np.zeros(len(texts[0].strings.length), np.uint64)
    steps: list[Step] = []
    long: NDArray[np.bool_] | None = None
    for part, (buffer, strings) in enumerate(texts):
        if len(header) and int(strings.length.max()) > LONGEST:
            over = strings.length > LONGEST
            long = over if long is None else long | over
            strings = Strings(strings.offset, np.where(over, 0, strings.length))
        header |= strings.length.view(np.uint64) << np.uint64(8 * part)
        steps += [Step(part, number, rows, words) for number, (rows, words) in enumerate(string_words(buffer, strings))]
    return LabelWords(header, steps), None if long is None else np.flatnonzero(long)

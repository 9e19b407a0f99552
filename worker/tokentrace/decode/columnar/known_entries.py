"""Known entries: the chosen values of maps, recognised by the bytes of the entries that have them.

A map is passed once, without a look at its values. The bytes of its entries that may be chosen are then looked up as a
whole: keys, types and values together, each byte compared. Where they were seen before, the numbers of the texts that
they have are known. Other maps are read entry by entry, and remembered. Where most are new, reading alone is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.cursors import DROPPED, Cursors
from tokentrace.decode.columnar.entry_marks import LONGEST_KEY, KeyTells, Marker
from tokentrace.decode.columnar.segment_table import MOST_WORDS, SegmentTable, Words, segment_words, whole_words
from tokentrace.decode.columnar.steps import Blocks
from tokentrace.model.arrays import PADDING, Ints, widened
from tokentrace.model.text_combinations import IN_COLUMNS, TextCombinations

#: Column of a chunk for the numbers of combinations.
KNOWN: Final = "number of a combination of texts"
#: Share of unknown maps above which it is faster to read them all.
_MOST_UNKNOWN: Final = 1 / 4
#: Chunks after which keys are learned again where more than this share of the maps stays unknown.
_LEARNED_FOR: Final = 16
_FEW_UNKNOWN: Final = 1 / 64
#: Chunks that are read at most until the next attempt.
_LONGEST_PAUSE: Final = 64
#: Maps that are looked up together: their words stay in the processor's cache.
BLOCK: Final = 4096
#: Maps of a chunk that are remembered at most: Python runs once for each.
_MOST_NEW: Final = 500


class _Memory:
    """Memory of a step, for as long as the combinations are numbered. tables: segments of a map -> their table."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.tells = KeyTells(keys)
        self.tables: dict[int, SegmentTable] = {}
        self._pause, self._wait, self._since_learning = 1, 0, 0

    def may_help(self) -> bool:
        """Return whether to try this chunk."""
        if self._wait:
            self._wait -= 1
            return False
        return True

    def tried(self, maps: int, unknown: int) -> None:
        """Take note of how many of the maps were unknown."""
        if unknown <= _MOST_UNKNOWN * maps:
            self._pause = 1
            self._since_learning = 0 if self.tells.learning else self._since_learning + 1
            self.tells.learning = self._since_learning >= _LEARNED_FOR and unknown > _FEW_UNKNOWN * maps
            return
        self.tells.learning = True
        self._wait, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)


class _Unknown(NamedTuple):
    """Maps that a table does not have. rows: int64[u], their positions in the cursors. segments: their words."""

    rows: Ints
    segments: list[Words]
    table: SegmentTable


@dataclass(frozen=True, slots=True)
class KnownEntries:
    """Reads a map. blocks: with `chosen`, the values to read."""

    blocks: Blocks
    _key: object = field(default_factory=object, repr=False, compare=False)

    def run(self, cursors: Cursors) -> None:
        known, chosen = cursors.chunk.columns.known, self.blocks.chosen
        assert chosen is not None
        keys = [key for key, _ in chosen.keys]
        if known is None or not all(0 < len(key) <= LONGEST_KEY for key in keys):
            self.blocks.run(cursors)
            return
        combinations = known.combinations
        memory: _Memory | None = combinations.remembered.get(self._key)
        if memory is None:
            memory = combinations.remembered[self._key] = _Memory(keys)
        if not memory.may_help():
            self.blocks.run(cursors)
            return
        begin = cursors.pos.copy()
        marker = Marker(cursors, memory.tells)
        replace(self.blocks, chosen=None, marker=marker).run(cursors)
        numbers, new = self._look_up(cursors, marker, memory, combinations)
        cursors.write(cursors.chunk.outputs[KNOWN], numbers)
        unknown = np.flatnonzero(numbers == IN_COLUMNS)
        memory.tried(len(cursors), len(unknown))
        if len(unknown):
            self._read(cursors, begin, unknown)
            for some in new:
                _remember(cursors, combinations, some)
            for table in memory.tables.values():
                table.arrange()

    def _look_up(
        self, cursors: Cursors, marker: Marker, memory: _Memory, combinations: TextCombinations
    ) -> tuple[Ints, list[_Unknown]]:
        """Return the numbers of the maps' combinations, int64[k], and those that were looked up in vain."""
        numbers = np.zeros(len(cursors), np.int64)
        unknown: list[_Unknown] = []
        for some in marker.segments():
            if not some.bounds:
                absent = (b"",) * len(combinations.sources)
                numbers[slice(None) if some.rows is None else some.rows] = combinations.number(absent)
                continue
            table = memory.tables.get(len(some.bounds))
            if table is None:
                table = memory.tables[len(some.bounds)] = SegmentTable(len(some.bounds), combinations.hash_bits)
            for first in range(0, len(some.bounds[0][0]), BLOCK):
                block = slice(first, first + BLOCK)
                segments = _load(
                    cursors.chunk.buffer, [(start[block], end[block]) for start, end in some.bounds], table
                )
                found = table.find(segments)
                rows = block if some.rows is None else some.rows[block]
                numbers[rows] = found
                if not found.all():
                    at = np.flatnonzero((found == IN_COLUMNS) & (segments[0][:, 0] != 0))
                    which = at + first if some.rows is None else some.rows[block][at]
                    unknown.append(_Unknown(which, [words[at] for words in segments], table))
        return numbers, unknown

    def _read(self, cursors: Cursors, begin: Ints, rows: Ints) -> None:
        """Read the maps at these rows of the cursors, which are behind them, entry by entry."""
        index = rows if cursors.index is None else cursors.index[rows]
        part = Cursors(cursors.chunk, begin[rows], index)
        replace(self.blocks, score=()).run(part)
        # Those that were given up have no texts.
        cursors.drop(rows[part.pos != cursors.pos[rows]])


def _load(buffer: NDArray[np.uint8], bounds: Sequence[tuple[Ints, Ints]], table: SegmentTable) -> list[Words]:
    """Load the segments of maps, as words. Those that are no segments of this buffer, or too long, are all zeros.

    bounds: (start, end) of each segment, int64[n].
    """
    most = MOST_WORDS // len(bounds)
    most = 8 * (most // 8 * 8 or most)
    starts, lengths = [start for start, _ in bounds], [end - start for start, end in bounds]
    shortest, longest = [int(length.min()) for length in lengths], [int(length.max()) for length in lengths]
    # No position moves back, so this is that of the last bytes.
    last = int(bounds[-1][1].max())
    if max(longest) > most or last > len(buffer) - PADDING:
        good = bounds[-1][1] <= len(buffer) - PADDING
        for length in lengths:
            good &= length <= most
        starts, lengths = [start * good for start in starts], [length * good for length in lengths]
        shortest, longest = [0] * len(bounds), [int(length.max()) for length in lengths]
    table.widen([whole_words(size) for size in longest])
    return [segment_words(buffer, *segment) for segment in zip(starts, lengths, table.widths, shortest, strict=True)]


def _remember(cursors: Cursors, combinations: TextCombinations, unknown: _Unknown) -> None:
    """Remember maps that were not known: their texts are in the columns now."""
    columns, outputs = cursors.chunk.columns, cursors.chunk.outputs
    strings = [outputs[source] for source in combinations.sources]
    # The segments of a later block may be longer.
    segments = [widened(words, width) for words, width in zip(unknown.segments, unknown.table.widths, strict=True)]
    # The same map may be unknown in several blocks.
    alive = np.flatnonzero((cursors.pos[unknown.rows] < DROPPED) & (unknown.table.find(segments) == IN_COLUMNS))
    rows, segments = unknown.rows[alive], [words[alive] for words in segments]
    if not len(rows):
        return
    _, first = np.unique(unknown.table.hash(segments), return_index=True)
    for at in np.sort(first)[:_MOST_NEW].tolist():
        if combinations.full:
            return
        row = int(rows[at] if cursors.index is None else cursors.index[rows[at]])
        texts = tuple(columns.bytes_of(column, row) for column in strings)
        unknown.table.add(segments, at, combinations.number(texts))
        combinations.forms += 1

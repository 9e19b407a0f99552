"""The columnar decoder: the messages of one writer schema, all at once, into the columns of a batch.

The schema's plan runs over the messages in lockstep, some thousands at a time. A message that does not end exactly
where its datum ends was read wrongly or met something unusual: the reference decoder alone decodes it, and alone
says why it cannot be read. So every result is the reference's, and one bad message costs one slow decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.compile import plan
from tokentrace.decode.columnar.cursors import Chunk, Cursors
from tokentrace.decode.columnar.steps import Steps, run
from tokentrace.decode.columnar.utf8 import NotAscii, invalid_utf8
from tokentrace.decode.fastavro_decoder import LABEL_FIELDS, FastavroDecoder
from tokentrace.decode.resolve import Resolution
from tokentrace.model.arrays import unaligned_words
from tokentrace.model.messages import Reject
from tokentrace.model.spans import Numbers, SpanColumns, Strings

#: Messages decoded together: each temporary array stays below the 128 KiB from which malloc asks the kernel for pages.
CHUNK_ROWS: Final = 12_000
#: Below this many messages the array operations cost more than fastavro does.
MIN_ROWS: Final = 8
#: A round over the items of fewer messages than this costs more than fastavro does.
THIN_ROWS: Final = 32
#: Such rounds in one chunk before the messages that still have items are left to the reference.
PATIENCE: Final = 256


@dataclass(frozen=True, slots=True)
class ColumnarDecoder:
    """Decodes the messages of one writer schema.

    reference: for the messages that leave the fast path. steps: the schema's plan. fed: the columns that it fills.
    chunk_rows: messages decoded together.
    min_rows, thin_rows, patience: when to leave messages to the reference for speed's sake; results do not change.
    """

    reference: FastavroDecoder
    steps: Steps
    fed: tuple[str, ...]
    min_rows: int = MIN_ROWS
    chunk_rows: int = CHUNK_ROWS
    thin_rows: int = THIN_ROWS
    patience: int = PATIENCE

    @classmethod
    def compile(
        cls, schema: Any, resolution: Resolution, reference: FastavroDecoder | None = None, **options: Any
    ) -> ColumnarDecoder | None:
        """The decoder of a schema (parsed JSON), or None where the schema has no column form.

        options: min_rows, chunk_rows, thin_rows, patience.
        """
        steps = plan(resolution)
        if steps is None:
            return None
        fed = {"eval_score" if column == "attributes" else column for column in resolution.feeds.values()}
        return cls(reference or FastavroDecoder(schema, resolution), steps, tuple(sorted(fed)), **options)

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Decode messages into `columns` at `rows`, over whatever is there; as the reference, see there."""
        count = len(rows)
        left = np.ones(count, np.bool_)
        if count >= max(self.min_rows, 1):
            words = unaligned_words(columns.buffer)
            # Parts of equal size, none of them small.
            bounds = np.linspace(0, count, -(-count // self.chunk_rows) + 1).astype(np.int64).tolist()
            for first, last in pairwise(bounds):
                part = slice(first, last)
                left[part] = self._decode_chunk(columns, words, rows[part], start[part], end[part])
        if not left.any():
            return []
        return self.reference.decode_into(columns, rows[left], start[left], end[left])

    def _decode_chunk(
        self,
        columns: SpanColumns,
        words: NDArray[np.uint64],
        rows: NDArray[np.int64],
        start: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Decode k messages; bool[k], the ones that are left to the reference."""
        first, count = int(rows[0]), len(rows)
        adjacent = int(rows[-1]) - first + 1 == count and bool((np.diff(rows) == 1).all())
        if adjacent:
            sink = {name: _part(getattr(columns, name), slice(first, first + count)) for name in self.fed}
        else:
            sink = {name: _part(getattr(columns, name), rows) for name in self.fed}
        chunk = Chunk(columns.buffer, words, end, sink, columns, self.thin_rows, self.patience)
        lanes = Cursors(chunk, start.copy())
        # A signalling NaN becomes a quiet one, as everywhere.
        with np.errstate(invalid="ignore"):
            run(self.steps, lanes)
        left: NDArray[np.bool_] = lanes.pos != end
        self._judge_labels(chunk, start, left)
        if not adjacent:
            for name, part in sink.items():
                _put(getattr(columns, name), rows, part)
        return left

    def _judge_labels(self, chunk: Chunk, start: NDArray[np.int64], left: NDArray[np.bool_]) -> None:
        """Leave messages whose labels are no UTF-8 to the reference, which says so."""
        names = [name for name in LABEL_FIELDS if name in chunk.sink]
        if not names:
            return
        not_ascii = NotAscii(chunk.buffer, int(start.min()), int(chunk.end.max()))
        for name in names:
            strings: Strings = chunk.sink[name]
            # Strings of wrong messages may lie anywhere; those beside the buffer are symbols, known to be ASCII.
            look = ~left & (strings.offset < len(chunk.words)) & (strings.length > 0)
            rows = np.flatnonzero(look)
            if len(rows) < len(look):
                strings = strings.take(rows)
            found = not_ascii.rows(strings)
            if len(found):
                bad = invalid_utf8(chunk.buffer, strings.take(found))
                left[rows[found[bad]]] = True


def _part(column: Any, rows: slice | NDArray[np.int64]) -> Any:
    """A column's entries at rows: a view for a slice, a copy for an array."""
    if isinstance(column, Strings):
        return Strings(column.offset[rows], column.length[rows])
    if isinstance(column, Numbers):
        return Numbers(column.values[rows], column.present[rows])
    return column[rows]


def _put(column: Any, rows: NDArray[np.int64], part: Any) -> None:
    """Put entries made by `_part` back."""
    if isinstance(column, Strings):
        column.offset[rows], column.length[rows] = part.offset, part.length
    elif isinstance(column, Numbers):
        column.values[rows], column.present[rows] = part.values, part.present
    else:
        column[rows] = part

"""Columnar decoder: decodes the messages of one writer schema together, into the columns of a batch.

The schema's program runs over some thousands of messages at once. A message whose cursor does not end exactly at the
end of its datum was misread or is unusual. The fallback decoder (fastavro) then decodes that message, and it alone
explains why a message is invalid. Every result is therefore fastavro's, and one bad message costs one slow decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.chosen import ITEM_TEXT
from tokentrace.decode.columnar.compile import compile_program, readable_texts
from tokentrace.decode.columnar.cursors import Cursors, MessageChunk
from tokentrace.decode.columnar.known_entries import KNOWN
from tokentrace.decode.columnar.program import Program, run
from tokentrace.decode.columnar.utf8 import NonAscii, invalid_utf8
from tokentrace.decode.fastavro_decoder import LABEL_FIELDS, FastavroDecoder
from tokentrace.decode.resolve import USAGE, Resolution
from tokentrace.model.arrays import unaligned_words
from tokentrace.model.messages import Reject
from tokentrace.model.spans import MODIFIERS, OPTIONAL_FIELDS, Numbers, SpanColumns, Strings

#: Messages decoded together: each temporary array stays below 128 KiB, from which on malloc maps new pages.
CHUNK_ROWS: Final = 12_000
#: With fewer messages than this, array operations cost more than fastavro.
MIN_ROWS: Final = 8
#: A round of items in fewer messages than this is sparse: it costs more than fastavro.
SPARSE_ROWS: Final = 32
#: Sparse rounds in one chunk, after which messages with items left go to the fallback decoder.
MAX_SPARSE_ROUNDS: Final = 256


@dataclass(frozen=True, slots=True)
class ColumnarDecoder:
    """Decodes the messages of one writer schema.

    fallback: decodes the messages that leave the fast path. program: compiled from the schema.
    output_columns: names of the columns that the program fills. chunk_rows: messages decoded together.
    min_rows, sparse_rows, max_sparse_rounds: when the fallback is faster; they do not change results.
    """

    fallback: FastavroDecoder
    program: Program
    output_columns: tuple[str, ...]
    min_rows: int = MIN_ROWS
    chunk_rows: int = CHUNK_ROWS
    sparse_rows: int = SPARSE_ROWS
    max_sparse_rounds: int = MAX_SPARSE_ROUNDS

    @classmethod
    def compile(
        cls, schema: Any, resolution: Resolution, fallback: FastavroDecoder | None = None, **options: Any
    ) -> ColumnarDecoder | None:
        """Compile the decoder of a schema (parsed JSON); None if the schema has no columnar form.

        options: min_rows, chunk_rows, sparse_rows, max_sparse_rounds.
        """
        program = compile_program(resolution)
        if program is None:
            return None
        # Optional columns are made when a message first has one.
        output_columns = {
            "eval_score" if column == "attributes" else column
            for column in resolution.field_columns.values()
            if column != USAGE and column not in OPTIONAL_FIELDS and column not in MODIFIERS
        }
        output_columns |= readable_texts(resolution)
        fallback = fallback or FastavroDecoder(schema, resolution)
        return cls(fallback, program, tuple(sorted(output_columns)), **options)

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Decode messages into `columns` at `rows`, with the results of `FastavroDecoder.decode_into`."""
        count = len(rows)
        failed = np.ones(count, np.bool_)
        if count >= max(self.min_rows, 1):
            words = unaligned_words(columns.buffer)
            # Chunks of equal size, so that none is small.
            bounds = np.linspace(0, count, -(-count // self.chunk_rows) + 1).astype(np.int64).tolist()
            for first, last in pairwise(bounds):
                part = slice(first, last)
                failed[part] = self._decode_chunk(columns, words, rows[part], start[part], end[part])
        if not failed.any():
            return []
        return self.fallback.decode_into(columns, rows[failed], start[failed], end[failed])

    def _decode_chunk(
        self,
        columns: SpanColumns,
        words: NDArray[np.uint64],
        rows: NDArray[np.int64],
        start: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Decode k messages. Returns bool[k]: the messages for the fallback decoder."""
        first, count = int(rows[0]), len(rows)
        adjacent = int(rows[-1]) - first + 1 == count and bool((np.diff(rows) == 1).all())
        if adjacent:
            outputs = {name: _part(columns.column(name), slice(first, first + count)) for name in self.output_columns}
        else:
            outputs = {name: _part(columns.column(name), rows) for name in self.output_columns}
        if columns.known is not None:
            # Numbers of texts that are in their columns, until a step finds others.
            outputs[KNOWN] = columns.known.number[first : first + count] if adjacent else np.zeros(count, np.int64)
        if columns.texts:
            outputs[ITEM_TEXT] = Strings(np.empty(count, np.int64), np.empty(count, np.int64))
        chunk = MessageChunk(
            columns.buffer, words, end, rows, outputs, columns, self.sparse_rows, self.max_sparse_rounds
        )
        cursors = Cursors(chunk, start.copy())
        # Converting a signalling NaN to a quiet one must not warn.
        with np.errstate(invalid="ignore"):
            run(self.program, cursors)
        failed: NDArray[np.bool_] = cursors.pos != end
        self._mark_invalid_labels(chunk, start, failed)
        if not adjacent:
            for name in self.output_columns:
                _put(columns.column(name), rows, outputs[name])
            if columns.known is not None:
                columns.known.number[rows] = outputs[KNOWN]
        return failed

    def _mark_invalid_labels(self, chunk: MessageChunk, start: NDArray[np.int64], failed: NDArray[np.bool_]) -> None:
        """Set `failed` (bool[k]) for messages with a label that is not valid UTF-8; the fallback rejects them."""
        names = [name for name in LABEL_FIELDS if name in chunk.outputs]
        if not names:
            return
        non_ascii = NonAscii(chunk.buffer, int(start.min()), int(chunk.end.max()))
        for name in names:
            strings: Strings = chunk.outputs[name]
            # Strings of failed messages may lie anywhere. Strings outside the buffer are enum symbols, always ASCII.
            candidates = ~failed & (strings.offset < len(chunk.words)) & (strings.length > 0)
            rows = np.flatnonzero(candidates)
            if len(rows) < len(candidates):
                strings = strings.take(rows)
            found = non_ascii.rows(strings)
            if len(found):
                bad = invalid_utf8(chunk.buffer, strings.take(found))
                failed[rows[found[bad]]] = True


def _part(column: Any, rows: slice | NDArray[np.int64]) -> Any:
    """Return a column's entries at rows: a view for a slice, a copy for an array."""
    if isinstance(column, Strings):
        return Strings(column.offset[rows], column.length[rows])
    if isinstance(column, Numbers):
        return Numbers(column.values[rows], column.present[rows])
    return column[rows]


def _put(column: Any, rows: NDArray[np.int64], part: Any) -> None:
    """Write entries made by `_part` back into their column."""
    if isinstance(column, Strings):
        column.offset[rows], column.length[rows] = part.offset, part.length
    elif isinstance(column, Numbers):
        column.values[rows], column.present[rows] = part.values, part.present
    else:
        column[rows] = part

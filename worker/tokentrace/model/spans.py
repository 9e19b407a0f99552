"""SpanBatch: the spans of one batch as a struct of arrays, one NumPy array a field.

Decoders fill a `SpanColumns` (one row a message, in the batch's order); `select` freezes the rows that decoded
into a `SpanBatch`. Strings are (offset, length) into one byte buffer, so that no Python object exists per span.
Values are as the writer gave them; `aggregate.validate` checks them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import LOW_BYTES, PADDING, unaligned_words
from tokentrace.model.measures import SUMMED_FIELDS

#: The token counts that are summed are declared in the table of measures.
INT_FIELDS: Final = (*SUMMED_FIELDS, "total_tokens", "started_at_us", "ended_at_us")
FLOAT_FIELDS: Final = ("cost_usd", "latency_ms", "ttft_ms", "eval_score")
STRING_FIELDS: Final = ("model", "provider", "caller", "trace_id", "span_id")
#: Fields that identify a span; decoded only for deduplication.
IDENTITY_FIELDS: Final = ("trace_id", "span_id")

_COLUMNS: Final = (*STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS)

#: Codes of `status`, in the order of the schema's enum; UNKNOWN_STATUS for a writer's symbol outside it.
STATUSES: Final = ("ok", "error", "timeout")
UNKNOWN_STATUS: Final = 255


@dataclass(slots=True)
class Strings:
    """n strings inside a buffer. offset: int64[n]; length: int64[n], bytes (0 for absent or empty)."""

    offset: NDArray[np.int64]
    length: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Strings:
        return Strings(self.offset[rows], self.length[rows])


@dataclass(slots=True)
class Numbers:
    """n numbers that may be absent. values: int64[n] or float64[n], 0 where absent; present: bool[n]."""

    values: NDArray[Any]
    present: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> Numbers:
        return Numbers(self.values[rows], self.present[rows])


def string_words(
    buffer: NDArray[np.uint8], strings: Strings
) -> Iterator[tuple[NDArray[np.int64] | None, NDArray[np.uint64]]]:
    """The strings as 64-bit words, zero-padded: for each word in turn (the rows that have it, None for all; the words).

    buffer: with PADDING at its end. rows: int64[s]. words: uint64[s].
    """
    if not len(strings.length):
        return
    loads = unaligned_words(buffer)
    longest, shortest = int(strings.length.max()), int(strings.length.min())
    for start in range(0, longest, 8):
        rows, offset, length = None, strings.offset, strings.length
        if shortest <= start:
            rows = np.flatnonzero(length > start)
            offset, length = offset.take(rows), length.take(rows)
        words = loads[offset + start]
        if shortest < start + 8:
            words &= LOW_BYTES.take(length - start, mode="clip")
        yield rows, words


class SpanBatch:
    """m decoded spans; every array has m entries. Neither the batch nor its arrays change once it is made.

    A token count that only the table of measures names has a column too; `numbers` gives it by name.

    buffer: uint8[...], the bytes that the strings point into, with PADDING zero bytes at its end.
    row: int64[m], index of the span's message in its `RawBatch`, ascending.
    status: uint8[m], index into STATUSES or UNKNOWN_STATUS.
    started_at_us, ended_at_us: microseconds since the epoch (a writer's other timestamp units are converted).
    latency_ms, ttft_ms: milliseconds. cost_usd: US dollars.
    eval_score: attributes["eval.score"]; present and NaN where the attribute is not a number.
        A null attribute is absent. Where a map repeats the key, its last entry holds.
    """

    __slots__ = ("buffer", "row", "status", *STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS)

    buffer: NDArray[np.uint8]
    row: NDArray[np.int64]
    model: Strings
    provider: Strings
    caller: Strings
    trace_id: Strings
    span_id: Strings
    status: NDArray[np.uint8]
    prompt_tokens: Numbers
    completion_tokens: Numbers
    total_tokens: Numbers
    cached_prompt_tokens: Numbers
    reasoning_tokens: Numbers
    started_at_us: Numbers
    ended_at_us: Numbers
    cost_usd: Numbers
    latency_ms: Numbers
    ttft_ms: Numbers
    eval_score: Numbers

    def __init__(
        self,
        *,
        buffer: NDArray[np.uint8],
        row: NDArray[np.int64],
        status: NDArray[np.uint8],
        columns: Mapping[str, Strings | Numbers],
    ) -> None:
        """columns: one of every name in STRING_FIELDS, INT_FIELDS and FLOAT_FIELDS."""
        self.buffer, self.row, self.status = buffer, row, status
        for name in _COLUMNS:
            setattr(self, name, columns[name])

    def __len__(self) -> int:
        return len(self.row)

    def numbers(self, name: str) -> Numbers:
        """The column of one of INT_FIELDS or FLOAT_FIELDS."""
        column: Numbers = getattr(self, name)
        return column

    def take(self, index: NDArray[np.int64]) -> SpanBatch:
        """The spans at `index` (int64[k], positions in this batch), in that order."""
        columns = {name: getattr(self, name).take(index) for name in _COLUMNS}
        return SpanBatch(buffer=self.buffer, row=self.row[index], status=self.status[index], columns=columns)

    def replace(
        self, changes: Mapping[str, Strings] | Mapping[str, Numbers], buffer: NDArray[np.uint8] | None = None
    ) -> SpanBatch:
        """The same spans with some columns replaced, by name.

        buffer: one that begins with the bytes of this batch's and ends with PADDING; None for the same.
        """
        columns = {name: changes.get(name, getattr(self, name)) for name in _COLUMNS}
        buffer = self.buffer if buffer is None else buffer
        return SpanBatch(buffer=buffer, row=self.row, status=self.status, columns=columns)


class SpanColumns:
    """The columns of n messages while decoders fill them; every field starts absent, every status `ok`.

    A decoder writes `columns.model.offset[rows] = ...`, `columns.cost_usd.values[rows] = ...` and so on for the rows
    that it decoded. A string that is not in the buffer (from the slow path) goes in by `put_string`.
    """

    __slots__ = ("_arena", "buffer", "n", "status", *STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS)

    model: Strings
    provider: Strings
    caller: Strings
    trace_id: Strings
    span_id: Strings
    prompt_tokens: Numbers
    completion_tokens: Numbers
    total_tokens: Numbers
    cached_prompt_tokens: Numbers
    reasoning_tokens: Numbers
    started_at_us: Numbers
    ended_at_us: Numbers
    cost_usd: Numbers
    latency_ms: Numbers
    ttft_ms: Numbers
    eval_score: Numbers

    def __init__(self, n: int, buffer: NDArray[np.uint8]) -> None:
        self.n = n
        self.buffer = buffer
        self._arena = bytearray()
        self.status: NDArray[np.uint8] = np.zeros(n, np.uint8)
        for name in STRING_FIELDS:
            setattr(self, name, Strings(np.zeros(n, np.int64), np.zeros(n, np.int64)))
        for name in INT_FIELDS:
            setattr(self, name, Numbers(np.zeros(n, np.int64), np.zeros(n, np.bool_)))
        for name in FLOAT_FIELDS:
            setattr(self, name, Numbers(np.zeros(n, np.float64), np.zeros(n, np.bool_)))

    def put_string(self, column: Strings, row: int, data: bytes) -> None:
        """Store `data` beside the buffer and point `column` at it for one row."""
        column.offset[row] = len(self.buffer) + len(self._arena)
        column.length[row] = len(data)
        self._arena += data

    def select(self, keep: NDArray[np.bool_]) -> SpanBatch:
        """The rows where `keep` (bool[n]) is true, as a SpanBatch. The columns must not be filled further."""
        buffer = self.buffer
        if self._arena:
            arena = np.frombuffer(bytes(self._arena) + bytes(PADDING), np.uint8)
            buffer = np.concatenate([buffer, arena])
        columns = {name: getattr(self, name) for name in _COLUMNS}
        whole = SpanBatch(buffer=buffer, row=np.arange(self.n, dtype=np.int64), status=self.status, columns=columns)
        return whole if keep.all() else whole.take(np.flatnonzero(keep))

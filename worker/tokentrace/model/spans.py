"""SpanBatch: the spans of one batch as a struct of arrays, one NumPy array a field.

Decoders fill a `SpanColumns` (one row a message, in the batch's order); `select` freezes the rows that decoded
into a `SpanBatch`. Strings are (offset, length) into one byte buffer, so that no Python object exists per span.
Values are as the writer gave them; `aggregate.validate` checks them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import LOW_BYTES, PADDING, first_words, unaligned_words
from tokentrace.model.measures import SUMMED_FIELDS, USAGE_SUMS
from tokentrace.model.messages import WHOLE_MESSAGE
from tokentrace.model.units import BY_NAME

if TYPE_CHECKING:
    from tokentrace.model.text_combinations import KnownTexts

#: The token counts that are summed are declared in the table of measures.
INT_FIELDS: Final = (*SUMMED_FIELDS, "total_tokens", "started_at_us", "ended_at_us")
FLOAT_FIELDS: Final = ("cost_usd", "latency_ms", "ttft_ms", "eval_score")
STRING_FIELDS: Final = ("model", "provider", "caller", "trace_id", "span_id")
#: Fields that identify a span; decoded only for deduplication.
IDENTITY_FIELDS: Final = ("trace_id", "span_id")

#: Flag: prompt_tokens includes what was read from and written to a cache. 1 or 0, absent where nothing says so.
INCLUDES_CACHE: Final = "prompt_tokens_include_cache"
#: Columns that a batch has only where any of its spans does: units, and the flag.
OPTIONAL_FIELDS: Final = (*USAGE_SUMS, INCLUDES_CACHE)
#: Strings on which the price of a call depends besides its usage: columns that a batch has only where any span does.
MODIFIERS: Final = ("service_tier", "inference_region", "speed")
#: Values of each, in small letters with `_` for `-`, that change nothing; so does an absent one.
ORDINARY_MODIFIERS: Final = {
    "service_tier": frozenset({"", "default", "standard", "standard_only", "on_demand", "none", "null"}),
    "inference_region": frozenset({"", "default", "global", "not_available", "none", "null"}),
    "speed": frozenset({"", "default", "normal", "standard", "none", "null"}),
}
#: Optional columns that repairs add, 1 for a span that was repaired so: see `aggregate.repair`.
ESTIMATED: Final = "estimated"
EXCLUDES_CACHE: Final = "repaired_prompt_excludes_cache"
BELOW_PARTS: Final = "repaired_whole_below_parts"
REPAIRS: Final = (EXCLUDES_CACHE, BELOW_PARTS)
#: Optional columns that the event times add: microseconds of Unix time, of every span; 1 for a span whose time was
#: replaced, present also where it had none.
EVENT_TIME: Final = "event_time_us"
CLAMPED: Final = "clamped_times"
#: 2020-01-01. An earlier time is in another unit, or of a clock that was never set.
EARLIEST_US: Final = 1_577_836_800_000_000

COLUMNS: Final = (*STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS)
#: The texts of a batch without dimensions.
NO_TEXTS: Final[Mapping[str, Strings]] = MappingProxyType({})

#: Longest strings whose words are all loaded at once, bytes.
_LONGEST_AT_ONCE: Final = 32
#: Larger than the limit of any quantity.
_HUGE: Final = 1e15

#: Codes of `status`, in the order of the schema's enum; UNKNOWN_STATUS for a writer's symbol outside it.
STATUSES: Final = ("ok", "error", "timeout")
OK: Final = STATUSES.index("ok")
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
    wide = first_words(buffer, strings.offset, -(-longest // 8)) if 8 < longest <= _LONGEST_AT_ONCE else None
    for start in range(0, longest, 8):
        rows, offset, length = None, strings.offset, strings.length
        if shortest <= start:
            rows = np.flatnonzero(length > start)
            offset, length = offset.take(rows), length.take(rows)
        if wide is None:
            words = loads[offset + start]
        else:
            words = wide[:, start // 8] if rows is None else wide[:, start // 8].take(rows)
        if shortest < start + 8:
            words = words & LOW_BYTES.take(length - start, mode="clip")
        yield rows, words


class SpanBatch:
    """m decoded spans; every array has m entries. Neither the batch nor its arrays change once it is made.

    A token count that only the table of measures names has a column too; `numbers` gives it by name.

    buffer: uint8[...], the bytes that the strings point into, with PADDING zero bytes at its end.
    row: int64[m], index of the span's message in its `RawBatch`, ascending.
    part: int64[m], which of the message's spans it is; None where every message is one span.
    status: uint8[m], index into STATUSES or UNKNOWN_STATUS.
    started_at_us, ended_at_us: microseconds since the epoch (a writer's other timestamp units are converted).
    latency_ms, ttft_ms: milliseconds. cost_usd: US dollars.
    eval_score: attributes["eval.score"]; present and NaN where the attribute is not a number.
        A null attribute is absent. Where a map repeats the key, its last entry holds.
    optional: columns of OPTIONAL_FIELDS, and of repairs; one that is absent in every span is left out. Quantities are
        in the unit of the columns of sums, see `model.units`; one that is not a quantity is negative.
    modifiers: columns of MODIFIERS; one that is empty in every span is left out. They need not be UTF-8.
    texts: source of dimensions -> its bytes, not necessarily UTF-8, see `model.dimensions`.
    known: the combinations of the texts of attributes, None where none is known. The columns of a span's have nothing
        where its combination is known.
    """

    __slots__ = (
        "buffer", "known", "modifiers", "optional", "part", "row", "status", "texts",
        *STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS,
    )  # fmt: skip

    buffer: NDArray[np.uint8]
    row: NDArray[np.int64]
    part: NDArray[np.int64] | None
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
        optional: Mapping[str, Numbers],
        modifiers: Mapping[str, Strings] = NO_TEXTS,
        texts: Mapping[str, Strings] = NO_TEXTS,
        part: NDArray[np.int64] | None = None,
        known: KnownTexts | None = None,
    ) -> None:
        """columns: one of every name in STRING_FIELDS, INT_FIELDS and FLOAT_FIELDS."""
        self.buffer, self.row, self.status, self.optional = buffer, row, status, optional
        self.modifiers, self.texts, self.part, self.known = modifiers, texts, part, known
        for name in COLUMNS:
            setattr(self, name, columns[name])

    def __len__(self) -> int:
        return len(self.row)

    def numbers(self, name: str) -> Numbers:
        """The column of one of INT_FIELDS or FLOAT_FIELDS, or an optional one that the batch has."""
        column: Numbers = self.optional.get(name) or getattr(self, name)
        return column

    def take(self, index: NDArray[np.int64]) -> SpanBatch:
        """The spans at `index` (int64[k], positions in this batch), in that order."""
        columns = {name: getattr(self, name).take(index) for name in COLUMNS}
        optional = {name: column.take(index) for name, column in self.optional.items()}
        modifiers = {name: column.take(index) for name, column in self.modifiers.items()}
        row, status = self.row[index], self.status[index]
        return SpanBatch(
            buffer=self.buffer,
            row=row,
            status=status,
            columns=columns,
            optional=optional,
            modifiers=modifiers,
            texts={source: strings.take(index) for source, strings in self.texts.items()} if self.texts else self.texts,
            part=None if self.part is None else self.part[index],
            known=None if self.known is None else self.known.take(index),
        )

    def part_of(self, index: int) -> int:
        """Place of a span in its message; WHOLE_MESSAGE where the message is one span."""
        return WHOLE_MESSAGE if self.part is None else int(self.part[index])

    def placed(self, row: NDArray[np.int64], part: NDArray[np.int64]) -> SpanBatch:
        """The same spans as those of other messages. row: int64[m], ascending. part: int64[m], as of the batch."""
        return SpanBatch(
            buffer=self.buffer,
            row=row,
            status=self.status,
            columns={name: getattr(self, name) for name in COLUMNS},
            optional=self.optional,
            modifiers=self.modifiers,
            texts=self.texts,
            part=part,
            known=self.known,
        )

    def replace(
        self, changes: Mapping[str, Strings] | Mapping[str, Numbers], buffer: NDArray[np.uint8] | None = None
    ) -> SpanBatch:
        """The same spans with some columns replaced, by name.

        buffer: one that begins with the bytes of this batch's and ends with PADDING; None for the same.
        """
        columns = {name: changes.get(name, getattr(self, name)) for name in COLUMNS}
        optional: dict[str, Any] = dict(self.optional)
        optional.update((name, column) for name, column in changes.items() if name not in COLUMNS)
        buffer = self.buffer if buffer is None else buffer
        return SpanBatch(
            buffer=buffer,
            row=self.row,
            status=self.status,
            columns=columns,
            optional=optional,
            modifiers=self.modifiers,
            texts=self.texts,
            part=self.part,
            known=self.known,
        )


class SpanColumns:
    """The columns of n messages while decoders fill them; every field starts absent, every status `ok`.

    A decoder writes `columns.model.offset[rows] = ...`, `columns.cost_usd.values[rows] = ...` and so on for the rows
    that it decoded. A string that is not in the buffer (from the slow path) goes in by `put_string`. Columns of
    OPTIONAL_FIELDS are made by `optional`, those of MODIFIERS by `modifier`, and those of a map of units by `mapped`,
    when a message first has one.
    """

    __slots__ = (
        "_arena", "_mapped", "_modifiers", "_optional", "buffer", "known", "n", "status", "texts",
        *STRING_FIELDS, *INT_FIELDS, *FLOAT_FIELDS,
    )  # fmt: skip

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

    def __init__(
        self, n: int, buffer: NDArray[np.uint8], texts: Collection[str] = (), known: KnownTexts | None = None
    ) -> None:
        """texts: sources of dimensions to make columns for. known: of n spans, to be filled; None for texts alone."""
        self.known = known
        self.texts = {source: Strings(np.zeros(n, np.int64), np.zeros(n, np.int64)) for source in texts}
        self.n = n
        self.buffer = buffer
        self._arena = bytearray()
        self._optional: dict[str, Numbers] = {}
        self._mapped: dict[str, Numbers] = {}
        self._modifiers: dict[str, Strings] = {}
        self.status: NDArray[np.uint8] = np.zeros(n, np.uint8)
        for name in STRING_FIELDS:
            setattr(self, name, Strings(np.zeros(n, np.int64), np.zeros(n, np.int64)))
        for name in INT_FIELDS:
            setattr(self, name, Numbers(np.zeros(n, np.int64), np.zeros(n, np.bool_)))
        for name in FLOAT_FIELDS:
            setattr(self, name, Numbers(np.zeros(n, np.float64), np.zeros(n, np.bool_)))

    def optional(self, name: str) -> Numbers:
        """The column of one of OPTIONAL_FIELDS: int64[n]."""
        return self._lazy(self._optional, name, np.int64)

    def modifier(self, name: str) -> Strings:
        """The column of one of MODIFIERS."""
        column = self._modifiers.get(name)
        if column is None:
            column = self._modifiers[name] = Strings(np.zeros(self.n, np.int64), np.zeros(self.n, np.int64))
        return column

    def mapped(self, unit: str) -> Numbers:
        """The quantities of a unit in the spans' maps: float64[n], as they are written."""
        return self._lazy(self._mapped, unit, np.float64)

    def _lazy(self, columns: dict[str, Numbers], name: str, dtype: type[np.generic]) -> Numbers:
        column = columns.get(name)
        if column is None:
            column = columns[name] = Numbers(np.zeros(self.n, dtype), np.zeros(self.n, np.bool_))
        return column

    def clear_optional(self, row: int) -> None:
        """Make all optional columns, and all texts, of a row absent."""
        for strings in self.texts.values():
            strings.offset[row] = strings.length[row] = 0
        if self.known is not None:
            self.known.number[row] = 0
        for column in (*self._optional.values(), *self._mapped.values()):
            column.values[row], column.present[row] = 0, False
        for strings in self._modifiers.values():
            strings.offset[row] = strings.length[row] = 0

    def column(self, name: str) -> Any:
        """The column of any name, `status` included, or the text of any source."""
        if name in self.texts:
            return self.texts[name]
        return self.optional(name) if name in OPTIONAL_FIELDS else getattr(self, name)

    def put_string(self, column: Strings, row: int, data: bytes) -> None:
        """Store `data` beside the buffer and point `column` at it for one row."""
        column.offset[row] = len(self.buffer) + len(self._arena)
        column.length[row] = len(data)
        self._arena += data

    def bytes_of(self, strings: Strings, row: int) -> bytes:
        """The bytes of one string."""
        start, stop = int(strings.offset[row]), int(strings.offset[row]) + int(strings.length[row])
        if start >= len(self.buffer):
            return bytes(self._arena[start - len(self.buffer) : stop - len(self.buffer)])
        return self.buffer[start:stop].tobytes()

    def select(self, keep: NDArray[np.bool_]) -> SpanBatch:
        """The rows where `keep` (bool[n]) is true, as a SpanBatch. The columns must not be filled further."""
        buffer = self.buffer
        if self._arena:
            arena = np.frombuffer(bytes(self._arena) + bytes(PADDING), np.uint8)
            buffer = np.concatenate([buffer, arena])
        columns = {name: getattr(self, name) for name in COLUMNS}
        for unit, column in self._mapped.items():
            self._take_mapped(columns, unit, column)
        # Rows that are left out may hold anything.
        optional = {name: column for name, column in self._optional.items() if (column.present & keep).any()}
        modifiers = {name: column for name, column in self._modifiers.items() if ((column.length > 0) & keep).any()}
        row = np.arange(self.n, dtype=np.int64)
        whole = SpanBatch(
            buffer=buffer,
            row=row,
            status=self.status,
            columns=columns,
            optional=optional,
            modifiers=modifiers,
            texts=self.texts,
            known=self.known,
        )
        return whole if keep.all() else whole.take(np.flatnonzero(keep))

    def _take_mapped(self, columns: dict[str, Any], unit: str, mapped: Numbers) -> None:
        """Move a unit's quantities from the maps to its column, where the span's own field does not have it."""
        name, scale = BY_NAME[unit].column, BY_NAME[unit].scale
        usual = name in columns
        field = columns[name] if usual else self.optional(name)
        # Beyond every limit, and an integer; what is not a number is negative.
        scaled = np.nan_to_num(mapped.values * scale, nan=-1.0, posinf=_HUGE, neginf=-1.0)
        quantity = np.rint(np.clip(scaled, -1.0, _HUGE)).astype(np.int64)
        quantity[(scaled < 0.0) & (quantity == 0)] = -1
        fill = mapped.present & ~field.present
        filled = Numbers(np.where(fill, quantity, field.values), field.present | fill)
        if usual:
            columns[name] = filled
        else:
            self._optional[name] = filled

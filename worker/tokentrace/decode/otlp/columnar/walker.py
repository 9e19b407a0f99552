"""The walker: the calls of models in a batch of messages of OTLP in protobuf, all of them at once.

Resources, scopes and spans are found level by level. Only spans with a mark of a call are read further: their fields,
then their attributes, then the values of those that mean something. What is irregular is left to the plain reader: a
message whose spans could not be found, or one span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.columnar.utf8 import invalid_utf8
from tokentrace.decode.otlp.columnar.attributes import (
    ABSENT,
    DOUBLE,
    INT,
    TEXT,
    KnownAttributes,
    doubles,
    integers,
    read_attributes,
)
from tokentrace.decode.otlp.columnar.headers import Joined
from tokentrace.decode.otlp.columnar.known_texts import LONGEST, KnownTexts
from tokentrace.decode.otlp.columnar.span_fields import SpanFields, read_fields
from tokentrace.decode.otlp.columnar.spans import FoundSpans, find_spans, with_marks
from tokentrace.decode.otlp.options import OtlpOptions
from tokentrace.decode.texts import field_of, key_of
from tokentrace.model.conventions import MEANINGS, OPERATION_KEYS, USAGE_FIELDS
from tokentrace.model.spans import Numbers, Strings

#: Operations that are remembered as calls or not; a broken publisher may name any number.
_MOST_OPERATIONS: Final = 1000
_INT64_MAX: Final = np.uint64(2**63 - 1)
_LABELS: Final = ("model", "provider")
#: With fewer marked spans, arrays cost more than the plain reader.
MIN_SPANS: Final = 32
#: Marked spans that are read together: they bound the memory of temporary arrays.
CHUNK_SPANS: Final = 4000


@dataclass(slots=True)
class Walked:
    """Content that the walker has read of n messages: c calls, and what it leaves.

    span: int64[c], each call's span of `found`. numbers, strings: column -> its c entries. texts: source -> the same.
    has_own: "caller" or source -> bool[c], calls that have it themselves; the others have it from their resource.
    irregular: int64[j], spans for the plain reader. found.irregular: messages for it.
    resources: int64[r], the distinct ResourceSpans of spans with marks. caller: attribute that is the caller.
    """

    joined: Joined
    found: FoundSpans
    span: NDArray[np.int64]
    irregular: NDArray[np.int64]
    resources: NDArray[np.int64]
    caller: str
    numbers: dict[str, Numbers] = field(default_factory=dict)
    strings: dict[str, Strings] = field(default_factory=dict)
    texts: dict[str, Strings] = field(default_factory=dict)
    has_own: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


class _Part(NamedTuple):
    """Part of what `Walked` has: of some of the marked spans."""

    span: NDArray[np.int64]
    irregular: NDArray[np.int64]
    numbers: dict[str, Numbers]
    strings: dict[str, Strings]
    texts: dict[str, Strings]
    has_own: dict[str, NDArray[np.bool_]]


class Walker:
    """Reads batches of messages."""

    def __init__(self, options: OtlpOptions, texts: Sequence[str] = (), min_spans: int = MIN_SPANS) -> None:
        """texts: sources of dimensions to read. min_spans: see MIN_SPANS."""
        self._min_spans = min_spans
        self._calls = options.calls
        self._operations: dict[bytes, bool] = {}
        self._caller = options.caller
        self._texts = {source: key for source in texts if (key := key_of(source)) is not None}
        self._names = [source for source in texts if field_of(source) == "name"]
        keys = [key for meaning in MEANINGS for key in meaning.keys]
        keys += [*OPERATION_KEYS, options.caller, *self._texts.values()]
        numbered = [key.encode("utf-8", "surrogateescape") for key in dict.fromkeys(keys)]
        #: False where a key is longer than any that is looked up at once: then the plain reader reads everything.
        self.possible = all(0 < len(key) <= LONGEST for key in numbered)
        self._keys = KnownTexts([key for key in numbered if 0 < len(key) <= LONGEST])
        self._number = {key: number for number, key in enumerate(dict.fromkeys(keys))}

    def walk(self, values: Sequence[bytes]) -> Walked:
        """Read n messages, each with content."""
        joined = Joined.of(list(values))
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        end = np.cumsum(lengths)
        found = find_spans(joined, end - lengths, end)
        marked = with_marks(joined, found)
        marked = marked[~found.irregular[found.message[marked]]]
        resources = np.flatnonzero(np.bincount(found.resource(marked)))
        if len(marked) < self._min_spans:
            return Walked(joined, found, marked[:0], marked, resources, self._caller)
        bounds = np.linspace(0, len(marked), -(-len(marked) // CHUNK_SPANS) + 1).astype(np.int64).tolist()
        parts = [self._read(joined, found, marked[first:last]) for first, last in pairwise(bounds)]
        return Walked(
            joined,
            found,
            np.concatenate([part.span for part in parts]),
            np.concatenate([part.irregular for part in parts]),
            resources,
            self._caller,
            {name: _all_numbers(name, parts) for name in dict.fromkeys(chain(*(part.numbers for part in parts)))},
            {
                name: _all_strings([part.strings.get(name, _no_strings(len(part.span))) for part in parts])
                for name in dict.fromkeys(chain(*(part.strings for part in parts)))
            },
            {source: _all_strings([part.texts[source] for part in parts]) for source in parts[0].texts},
            {name: np.concatenate([part.has_own[name] for part in parts]) for name in parts[0].has_own},
        )

    def _read(self, joined: Joined, found: FoundSpans, marked: NDArray[np.int64]) -> _Part:
        """Read some of the marked spans."""
        fields = read_fields(joined, found.start[marked], found.end[marked])
        attributes = read_attributes(joined, self._keys, len(marked), fields.owner, fields.first, fields.last)
        irregular = fields.irregular | attributes.irregular | _repeats(attributes, len(marked))
        state = _Calls(self, joined, fields, attributes, irregular)
        calls = state.read()
        return _Part(
            marked[calls],
            marked[np.flatnonzero(irregular)],
            {name: column.take(calls) for name, column in state.numbers.items()},
            {name: column.take(calls) for name, column in state.strings.items()},
            {name: column.take(calls) for name, column in state.texts.items()},
            {name: present[calls] for name, present in state.has_own.items()},
        )

    def is_call(self, operation: bytes) -> bool:
        """Return whether an operation, as it is written, is a call."""
        known = self._operations.get(operation)
        if known is None:
            if len(self._operations) >= _MOST_OPERATIONS:
                self._operations.clear()
            known = operation.decode("utf-8", "surrogateescape").lower() in self._calls
            self._operations[operation] = known
        return known


class _Calls:
    """The marked spans of a batch while their attributes are read. Columns have an entry for each of c spans."""

    def __init__(
        self,
        walker: Walker,
        joined: Joined,
        fields: SpanFields,
        attributes: KnownAttributes,
        irregular: NDArray[np.bool_],
    ) -> None:
        self._walker, self._joined, self._fields, self._irregular = walker, joined, fields, irregular
        self._count = len(irregular)
        order = np.argsort(attributes.key, kind="stable")
        self._attributes = attributes.take(order)
        self._bounds = np.searchsorted(self._attributes.key, np.arange(len(walker._number) + 1))
        self.numbers: dict[str, Numbers] = {}
        self.strings: dict[str, Strings] = {}
        self.texts: dict[str, Strings] = {}
        self.has_own: dict[str, NDArray[np.bool_]] = {}

    def read(self) -> NDArray[np.int64]:
        """Fill the columns. Return int64[k], the spans that are calls and regular."""
        is_call, is_other = self._operations()
        for meaning in MEANINGS:
            if meaning.field == "error":
                self._errors(meaning.keys, is_other)
            elif meaning.kind == "text":
                self._read_texts(meaning.field, meaning.keys, is_other)
            else:
                self._read_numbers(meaning.field, meaning.kind, meaning.keys, is_other)
        bare = ~is_call & ~is_other
        if bare.any():
            used = np.zeros(self._count, np.bool_)
            for name in USAGE_FIELDS:
                if name in self.numbers:
                    used |= self.numbers[name].present
            for name in ("model", "provider"):
                used &= self.strings[name].length > 0 if name in self.strings else False
            # Whether it is a call depends on what is irregular, too; the plain reader decides that.
            is_call |= bare & used
        # The plain reader looks for their model elsewhere.
        self._irregular |= is_call & (self.strings["model"].length == 0 if "model" in self.strings else True)
        self._times()
        self._sources(is_other)
        for name in _LABELS:
            if name in self.strings:
                self._require_utf8(self.strings[name], is_call)
        return np.flatnonzero(is_call & ~self._irregular)

    def _of(self, key: str) -> KnownAttributes:
        number = self._walker._number[key]
        return self._attributes.take(np.arange(self._bounds[number], self._bounds[number + 1]))

    def _operations(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return bool[c] each: spans whose operation is a call, and spans whose operation is not."""
        is_call, decided = np.zeros(self._count, np.bool_), np.zeros(self._count, np.bool_)
        data, known = self._joined.data, self._walker.is_call
        for key in OPERATION_KEYS:
            rows = self._of(key)
            rows = rows.take((rows.type == TEXT) & (rows.length > 0) & ~decided[rows.owner])
            decided[rows.owner] = True
            bounds = zip(rows.offset.tolist(), (rows.offset + rows.length).tolist(), strict=True)
            is_call[rows.owner] = [known(data[first:last]) for first, last in bounds]
        return is_call, decided & ~is_call

    def _given(self, key: str, done: NDArray[np.bool_], is_other: NDArray[np.bool_]) -> KnownAttributes:
        """Return the attributes of a key that count: there is a value, and no preferred key has one."""
        rows = self._of(key)
        given = (rows.type != ABSENT) & ~((rows.type == TEXT) & (rows.length == 0))
        return rows.take(given & ~done[rows.owner] & ~is_other[rows.owner])

    def _preferred(self, keys: Sequence[str], is_other: NDArray[np.bool_]) -> Iterator[KnownAttributes]:
        """Yield the attributes of each key that count, at most one of a span."""
        done = np.zeros(self._count, np.bool_)
        for key in keys:
            rows = self._given(key, done, is_other)
            if len(rows.owner):
                done[rows.owner] = True
                yield rows

    def _read_texts(self, name: str, keys: Sequence[str], is_other: NDArray[np.bool_]) -> None:
        for rows in self._preferred(keys, is_other):
            self._irregular[rows.owner[rows.type != TEXT]] = True
            column = self.strings.setdefault(name, _no_strings(self._count))
            column.offset[rows.owner], column.length[rows.owner] = rows.offset, rows.length

    def _read_numbers(self, name: str, kind: str, keys: Sequence[str], is_other: NDArray[np.bool_]) -> None:
        for rows in self._preferred(keys, is_other):
            self._irregular[rows.owner[rows.type != (INT if kind == "count" else DOUBLE)]] = True
            if kind == "count":
                values: NDArray[np.int64] | NDArray[np.float64] = integers(self._joined, rows.offset)
            else:
                values = doubles(self._joined, rows.offset)
            if kind == "seconds":
                values = values * 1000
            column = self.numbers.get(_COLUMN.get(name, name))
            if column is None:
                column = Numbers(np.zeros(self._count, values.dtype), np.zeros(self._count, np.bool_))
                self.numbers[_COLUMN.get(name, name)] = column
            column.values[rows.owner], column.present[rows.owner] = values, True

    def _errors(self, keys: Sequence[str], is_other: NDArray[np.bool_]) -> None:
        """Leave failed spans to the plain reader; they are few."""
        for key in keys:
            self._irregular[self._given(key, is_other, is_other).owner] = True

    def _times(self) -> None:
        start, end = self._fields.start_ns, self._fields.end_ns
        self._irregular |= np.maximum(start, end) > _INT64_MAX
        started, ended = start.view(np.int64), end.view(np.int64)
        self.numbers["started_at_us"] = Numbers(started // 1000, started != 0)
        self.numbers["ended_at_us"] = Numbers(ended // 1000, ended != 0)
        both = (started != 0) & (ended != 0)
        self.numbers["latency_ms"] = Numbers(np.where(both, np.maximum(ended - started, 0), 0) / 1e6, both)
        self.strings["trace_id"], self.strings["span_id"] = self._fields.trace_id, self._fields.span_id

    def _sources(self, is_other: NDArray[np.bool_]) -> None:
        """Read the caller, and the texts of dimensions, where spans have them themselves."""
        self.strings["caller"], self.has_own["caller"] = self._own_text(self._walker._caller, is_other)
        self._require_utf8(self.strings["caller"], self.has_own["caller"])
        for source, key in self._walker._texts.items():
            self.texts[source], self.has_own[source] = self._own_text(key, is_other)
        for source in self._walker._names:
            self.texts[source], self.has_own[source] = self._fields.name, np.ones(self._count, np.bool_)

    def _own_text(self, key: str, is_other: NDArray[np.bool_]) -> tuple[Strings, NDArray[np.bool_]]:
        rows = self._of(key)
        rows = rows.take((rows.type != ABSENT) & ~is_other[rows.owner])
        self._irregular[rows.owner[rows.type != TEXT]] = True
        column, found = _no_strings(self._count), np.zeros(self._count, np.bool_)
        column.offset[rows.owner], column.length[rows.owner] = rows.offset, rows.length
        found[rows.owner] = True
        return column, found

    def _require_utf8(self, strings: Strings, chosen: NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(chosen & ~self._irregular & (strings.length > 0))
        if len(rows):
            self._irregular[rows[invalid_utf8(self._joined.buffer, strings.take(rows))]] = True


#: Field of the table -> column, where the two have other names or units.
_COLUMN: Final = {"ttft": "ttft_ms"}


def _repeats(attributes: KnownAttributes, spans: int) -> NDArray[np.bool_]:
    """Return bool[c], spans that have a known key more than once."""
    keys = int(attributes.key.max(initial=0)) + 1
    pairs = np.sort(attributes.owner * keys + attributes.key)
    found = np.zeros(spans, np.bool_)
    found[pairs[1:][pairs[1:] == pairs[:-1]] // keys] = True
    return found


def _all_numbers(name: str, parts: Sequence[_Part]) -> Numbers:
    """Return a column over all parts, absent in those that have none."""
    dtype = next(part.numbers[name].values.dtype for part in parts if name in part.numbers)
    columns = [
        part.numbers.get(name) or Numbers(np.zeros(len(part.span), dtype), np.zeros(len(part.span), np.bool_))
        for part in parts
    ]
    return Numbers(
        np.concatenate([column.values for column in columns]), np.concatenate([column.present for column in columns])
    )


def _all_strings(columns: Sequence[Strings]) -> Strings:
    return Strings(
        np.concatenate([column.offset for column in columns]), np.concatenate([column.length for column in columns])
    )


def _no_strings(n: int) -> Strings:
    return Strings(np.zeros(n, np.int64), np.zeros(n, np.int64))

"""Decoder of OTLP: messages that hold any number of spans, into a SpanBatch of the calls of models among them.

A row of the batch is a call, and says of which message it is and which of its spans. What else is in the messages is
counted: spans that are no calls, and rejects of a whole message or of one span of it. The walker reads messages in
protobuf, all of them at once, and the plain reader reads what it leaves, and JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.otlp.columnar.walker import MIN_SPANS, Walker
from tokentrace.decode.otlp.options import DEFAULT_OPTIONS, OtlpOptions
from tokentrace.decode.otlp.reader import Call, Refused, read_call, read_message, read_place, store
from tokentrace.decode.otlp.recognize import is_json
from tokentrace.decode.otlp.walked import WalkedCalls
from tokentrace.decode.otlp.wire import Malformed
from tokentrace.model import reasons
from tokentrace.model.arrays import PADDING
from tokentrace.model.messages import OTHER_GROUP_VALUE, Reject
from tokentrace.model.spans import SpanBatch, SpanColumns

_ENCODINGS: Final = {False: "in protobuf", True: "in JSON"}


class SpanCounts(NamedTuple):
    """The spans of n messages. found: int64[n], spans in each; 1 for one that is rejected whole.

    ignored: int64[n], spans in each that are no calls of a model. Rows that were not asked for have 0.
    """

    found: NDArray[np.int64]
    ignored: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OtlpBatch:
    """The calls of n messages. spans: each with the row of its message and which span of it it is."""

    spans: SpanBatch
    rejects: list[Reject]
    counts: SpanCounts


class OtlpDecoder:
    """Decodes messages of OTLP."""

    def __init__(
        self,
        options: OtlpOptions = DEFAULT_OPTIONS,
        texts: Sequence[str] = (),
        *,
        columnar: bool = True,
        min_spans: int = MIN_SPANS,
    ) -> None:
        """texts: sources of dimensions to read. columnar: False reads all with the plain reader, for comparison.

        min_spans: fewer marked spans are left to the plain reader; it does not change results.
        """
        self._options = options
        self._texts = texts
        walker = Walker(options, texts, min_spans)
        self._walker = walker if columnar and walker.possible else None
        self._resources: dict[bytes, dict[str, Any]] = {}

    def decode(
        self, values: Sequence[bytes | None], rows: Sequence[int] | None = None, as_json: bool | None = None
    ) -> OtlpBatch:
        """Decode n message values.

        rows: the only ones to decode; None for all. as_json: whether they are in JSON; None: what each looks like.
        """
        reading = _Reading(values, self._options)
        walked_rows: list[int] = []
        for row in range(len(values)) if rows is None else rows:
            value = values[row]
            if (reject := without_content(value, row)) is not None:
                reading.reject(reject)
            elif is_json(value or b"") if as_json is None else as_json:
                reading.read(row, as_json=True)
            elif self._walker is None:
                reading.read(row)
            else:
                walked_rows.append(row)
        walked = self._walk(reading, walked_rows)
        return self._batch(reading, walked)

    def _walk(self, reading: _Reading, rows: list[int]) -> WalkedCalls | None:
        """Read messages with the walker, and what it leaves with the plain reader."""
        if self._walker is None or not rows:
            return None
        values = [reading.values[row] or b"" for row in rows]
        calls = WalkedCalls(self._walker.walk(values), rows, values, self._resources)
        for row in calls.irregular_rows:
            reading.read(row)
        for row, count in calls.counts():
            reading.found[row] = count
            reading.ignored[row] = count
        for row, why in calls.malformed.items():
            reading.malformed(row, why)
        for row, ordinal, place in calls.irregular_spans():
            if row not in reading.whole:
                reading.read_span(row, ordinal, place, calls.known(row))
        calls.drop(reading.whole)
        for row in calls.rows.tolist():
            reading.ignored[row] -= 1
        return calls

    def _batch(self, reading: _Reading, walked: WalkedCalls | None) -> OtlpBatch:
        plain = [call for call in reading.calls if call[0] not in reading.whole]
        rejects = [reject for reject in reading.rejects if reject.part < 0 or reject.row not in reading.whole]
        rejects.sort(key=lambda reject: (reject.row, reject.part))
        count = 0 if walked is None else len(walked.rows)
        buffer = np.zeros(PADDING, np.uint8) if walked is None else walked.buffer
        columns = SpanColumns(count + len(plain), buffer, self._texts)
        if walked is not None:
            walked.store(columns)
        for index, (_, _, call) in enumerate(plain, start=count):
            store(columns, index, call)
        row = np.array([row for row, _, _ in plain], np.int64)
        part = np.array([ordinal for _, ordinal, _ in plain], np.int64)
        if walked is not None:
            row, part = np.concatenate([walked.rows, row]), np.concatenate([walked.ordinals, part])
        spans = columns.select(np.ones(len(row), np.bool_)).placed(row, part)
        if plain:
            spans = spans.take(np.lexsort((part, row)))
        return OtlpBatch(spans, rejects, SpanCounts(reading.found, reading.ignored))


@dataclass(slots=True)
class _Reading:
    """Content of n messages that are read one by one. calls: (row, ordinal, call). whole: rows rejected whole."""

    values: Sequence[bytes | None]
    options: OtlpOptions
    calls: list[tuple[int, int, Call]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    whole: set[int] = field(default_factory=set)
    found: NDArray[np.int64] = field(init=False)
    ignored: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.found, self.ignored = np.zeros(len(self.values), np.int64), np.zeros(len(self.values), np.int64)

    def read(self, row: int, *, as_json: bool = False) -> None:
        """Read a message."""
        try:
            items = list(read_message(self.values[row] or b"", self.options, as_json))
        except Malformed as error:
            self.malformed(row, str(error), as_json=as_json)
            return
        self.found[row] = self.ignored[row] = len(items)
        for ordinal, item in enumerate(items):
            self._add(row, ordinal, item)

    def read_span(self, row: int, ordinal: int, place: Any, known: dict[tuple[int, int], dict[str, Any]]) -> None:
        """Read one span of a message, whose spans are counted as ignored."""
        try:
            item = read_call(read_place(self.values[row] or b"", place, known), self.options)
        except Malformed as error:
            self.malformed(row, str(error))
        else:
            self._add(row, ordinal, item)

    def _add(self, row: int, ordinal: int, item: Call | Refused | None) -> None:
        if item is None:
            return
        self.ignored[row] -= 1
        if isinstance(item, Refused):
            reason, why = item.args
            self.rejects.append(Reject(row, reason, why, ordinal))
        else:
            self.calls.append((row, ordinal, item))

    def reject(self, reject: Reject) -> None:
        """Reject a message whole; it counts as one span."""
        self.whole.add(reject.row)
        self.rejects.append(reject)
        self.found[reject.row], self.ignored[reject.row] = 1, 0

    def malformed(self, row: int, why: str, *, as_json: bool = False) -> None:
        """Reject a message that is none."""
        error = f"The value is not a message of OTLP {_ENCODINGS[as_json]}: {why}."
        self.reject(Reject(row, "malformed", error))


def without_content(value: bytes | None, row: int) -> Reject | None:
    """Return the reject of a value in which there is nothing to read, None for any other."""
    if value is None:
        return Reject(row, reasons.TOMBSTONE, reasons.WHOLE[reasons.TOMBSTONE])
    if value is OTHER_GROUP_VALUE:
        return Reject(row, reasons.OTHER_GROUP, reasons.WHOLE[reasons.OTHER_GROUP])
    return None if value else Reject(row, "empty", reasons.WHOLE["empty"])

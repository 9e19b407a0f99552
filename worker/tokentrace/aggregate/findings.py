"""Findings: what a batch has that publishers should change, one of each kind with an example.

A kind is a reason for which messages are rejected or counted in part, a repair, or a time that cannot be true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tokentrace.model.advice import (
    ADVICE,
    BELOW_PARTS_KIND,
    CLAMPED_TIME,
    ESTIMATED_SPLIT,
    EXCLUDES_CACHE_KIND,
)
from tokentrace.model.messages import RawBatch, Reject
from tokentrace.model.reasons import PART
from tokentrace.model.spans import BELOW_PARTS, CLAMPED, EARLIEST_US, ESTIMATED, EXCLUDES_CACHE, SpanBatch, Strings
from tokentrace.model.text import utc_text

#: Kind -> what it is. Rejects have a sentence of their own.
_WHY: Final = {
    **PART,
    EXCLUDES_CACHE_KIND: "There are more cached than prompt tokens: these are taken to exclude the cached ones.",
    BELOW_PARTS_KIND: "A count is below the sum of its parts: it is raised to that.",
    ESTIMATED_SPLIT: "Only total_tokens is known: all of it is priced as prompt tokens.",
}
#: Kind -> column of the spans that have it.
_COLUMNS: Final = {EXCLUDES_CACHE_KIND: EXCLUDES_CACHE, BELOW_PARTS_KIND: BELOW_PARTS, ESTIMATED_SPLIT: ESTIMATED}
#: Unit of a time -> (multiply, divide) that make microseconds of it.
_UNITS: Final = {"seconds": (10**6, 1), "milliseconds": (10**3, 1), "nanoseconds": (1, 10**3)}
_DAY_US: Final = 86_400_000_000
#: Latest time that Python's dates have.
_LATEST_S: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class Finding:
    """Messages of one kind. count: how many. topic to caller: of one of them; its labels are empty if unknown."""

    kind: str
    rejected: bool
    count: int
    topic: str
    partition: int
    offset: int
    model: str
    provider: str
    caller: str
    why: str

    @property
    def advice(self) -> str:
        """Sentence on what to change."""
        return ADVICE[self.kind]


def of_rejects(batch: RawBatch, rejects: Sequence[Reject], decoded: SpanBatch) -> Iterator[Finding]:
    """Give a finding for each reason. decoded: the spans that could be decoded, rejected later or not."""
    counts = Counter(reject.reason for reject in rejects)
    # The last of each, so that the examples of a long run differ.
    for reject in {reject.reason: reject for reject in rejects}.values():
        rows = np.flatnonzero(decoded.row == reject.row)
        index = next((row for row in rows.tolist() if decoded.part_of(row) == reject.part), -1)
        yield _finding(batch, reject.reason, counts[reject.reason], reject.row, decoded, index, reject.error)


def of_spans(batch: RawBatch, before: SpanBatch, after: SpanBatch, parts: Mapping[str, int]) -> Iterator[Finding]:
    """Give a finding for each repair, part and clamped time. before, after: the spans, before and after repairs."""
    for kind, count in parts.items():
        name = kind.removesuffix("_invalid")
        gone = before.numbers(name).present & ~after.numbers(name).present
        index = int(np.flatnonzero(gone)[-1])
        yield _finding(batch, kind, count, int(after.row[index]), after, index, _WHY[kind])
    for kind, column in _COLUMNS.items():
        if (numbers := after.optional.get(column)) is not None and numbers.present.any():
            rows = np.flatnonzero(numbers.present)
            yield _finding(batch, kind, len(rows), int(after.row[rows[-1]]), after, int(rows[-1]), _WHY[kind])
    clamped = after.optional.get(CLAMPED)
    if clamped is not None and clamped.values.any():
        rows = np.flatnonzero(clamped.values)
        index, row = int(rows[-1]), int(after.row[rows[-1]])
        published_us = int(batch.timestamps_ms(np.array([row]))[0]) * 1000
        yield _finding(batch, CLAMPED_TIME, len(rows), row, after, index, _time_in_words(after, index, published_us))


def _finding(batch: RawBatch, kind: str, count: int, row: int, spans: SpanBatch, index: int, why: str) -> Finding:
    """index: of the example in the spans, -1 if it is none of them."""
    envelope = batch.envelope(row)
    model, provider, caller = (
        _text(spans, strings, index) if index >= 0 else "" for strings in (spans.model, spans.provider, spans.caller)
    )
    rejected = kind not in _WHY and kind != CLAMPED_TIME
    place = envelope.topic, envelope.partition, envelope.offset
    return Finding(kind, rejected, count, *place, model, provider, caller, why)


def _text(spans: SpanBatch, strings: Strings, index: int) -> str:
    first = int(strings.offset[index])
    return spans.buffer[first : first + int(strings.length[index])].tobytes()[:100].decode("utf-8", "replace")


def _time_in_words(spans: SpanBatch, index: int, published_us: int) -> str:
    ended, started = int(spans.ended_at_us.values[index]), int(spans.started_at_us.values[index])
    name, value = ("ended_at", ended) if ended > 0 else ("started_at", started)
    return time_in_words(name, value, published_us)


def time_in_words(name: str, value_us: int, published_us: int) -> str:
    """Return why a time cannot be true, and which unit it seems to have. published_us: of the message."""
    found = f"{name} is {value_us}, which is {_date(value_us)} in microseconds"
    for unit, (multiply, divide) in _UNITS.items():
        meant_us = value_us * multiply // divide
        if EARLIEST_US <= meant_us <= published_us + _DAY_US:
            return f"{found}; in {unit} it is {_date(meant_us)}. The span counts when it was published."
    return f"{found}, and the message was published at {_date(published_us)}; the span counts then."


def _date(time_us: int) -> str:
    """Return a time as text, in years beyond those of Python's dates."""
    seconds = time_us // 10**6
    if -62_135_596_800 <= seconds <= _LATEST_S:
        return utc_text(seconds)
    return f"the year {1970 + seconds // 31_556_952}"

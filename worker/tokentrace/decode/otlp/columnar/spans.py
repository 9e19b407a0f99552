"""Spans of a batch of messages: where each is, of which message, resource and scope, and which may be calls."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.otlp.columnar.headers import Joined
from tokentrace.decode.otlp.columnar.levels import children
from tokentrace.decode.otlp.message import Place
from tokentrace.decode.otlp.wire import BYTES
from tokentrace.model.conventions import MARKS

_FIRST: Final = 1 << 3 | BYTES
_SECOND: Final = 2 << 3 | BYTES
_MARKS: Final = tuple(mark.encode() for mark in MARKS)


@dataclass(frozen=True, slots=True)
class FoundSpans:
    """The spans of n messages. start, end: int64[s], bounds of each. message: int64[s], ascending.

    ordinal: int64[s], place of the span in its message. scope: int64[s], its ScopeSpans; scope_start, scope_end:
    bounds of these; scope_resource: the ResourceSpans of each; resource_start, resource_end: bounds of these.
    details_start, details_end: by ResourceSpans, bounds of its resource, equal where it has none.
    irregular: bool[n], messages of which some spans may not have been found.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    message: NDArray[np.int64]
    ordinal: NDArray[np.int64]
    scope: NDArray[np.int64]
    scope_start: NDArray[np.int64]
    scope_end: NDArray[np.int64]
    scope_resource: NDArray[np.int64]
    resource_start: NDArray[np.int64]
    resource_end: NDArray[np.int64]
    details_start: NDArray[np.int64]
    details_end: NDArray[np.int64]
    irregular: NDArray[np.bool_]

    def resource(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[k], the ResourceSpans of spans."""
        return self.scope_resource[self.scope[rows]]

    def place(self, row: int, base: int) -> Place:
        """Return where a span is in its message, which begins at `base` of the buffer."""
        scope = int(self.scope[row])
        resource = int(self.scope_resource[scope])
        return Place(
            int(self.start[row]) - base,
            int(self.end[row]) - base,
            (int(self.resource_start[resource]) - base, int(self.resource_end[resource]) - base),
            (int(self.scope_start[scope]) - base, int(self.scope_end[scope]) - base),
        )


def find_spans(joined: Joined, start: NDArray[np.int64], end: NDArray[np.int64]) -> FoundSpans:
    """Find the spans of n messages. start, end: int64[n], bounds of each."""
    n = len(start)
    irregular = np.zeros(n, np.bool_)
    top = children(joined, start, end)
    irregular |= top.irregular
    resources = np.flatnonzero(top.tag == _FIRST)
    message_of, r_start, r_end = top.parent[resources], top.start[resources], top.end[resources]
    middle = children(joined, r_start, r_end)
    irregular[message_of[middle.irregular]] = True
    details = np.flatnonzero(middle.tag == _FIRST)
    of = middle.parent[details]
    # Several resources of one ResourceSpans are to be merged, which the plain reader does.
    irregular[message_of[np.flatnonzero(np.bincount(of, minlength=len(resources)) > 1)]] = True
    d_start, d_end = np.zeros(len(resources), np.int64), np.zeros(len(resources), np.int64)
    d_start[of], d_end[of] = middle.start[details], middle.end[details]
    scopes = np.flatnonzero(middle.tag == _SECOND)
    s_resource, s_start, s_end = middle.parent[scopes], middle.start[scopes], middle.end[scopes]
    low = children(joined, s_start, s_end)
    irregular[message_of[s_resource[low.irregular]]] = True
    spans = np.flatnonzero(low.tag == _SECOND)
    scope = low.parent[spans]
    message = message_of[s_resource[scope]]
    counts = np.bincount(message, minlength=n)
    ordinal = np.arange(len(spans)) - np.repeat(np.cumsum(counts) - counts, counts)
    return FoundSpans(
        low.start[spans], low.end[spans], message, ordinal, scope, s_start, s_end, s_resource, r_start, r_end,
        d_start, d_end, irregular,
    )  # fmt: skip


def with_marks(joined: Joined, found: FoundSpans) -> NDArray[np.int64]:
    """Return int64[c], ascending: the spans with a mark of a call. Any other is none."""
    if not len(found.start):
        return np.zeros(0, np.int64)
    starts, ends = found.start.tolist(), found.end.tolist()
    rows: set[int] = set()
    for mark in _MARKS:
        rows.update(_rows_with(joined.data, mark, starts, ends))
    return np.array(sorted(rows), np.int64)


def _rows_with(data: bytes, mark: bytes, starts: list[int], ends: list[int]) -> Iterator[int]:
    at, last, size = starts[0], ends[-1], len(mark)
    while (at := data.find(mark, at, last)) >= 0:
        row = bisect_right(starts, at) - 1
        if at + size <= ends[row]:
            yield row
            at = ends[row]
        else:
            # In a resource or a scope, or over the end of a span.
            at += 1

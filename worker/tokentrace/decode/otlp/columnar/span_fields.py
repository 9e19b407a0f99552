"""Fields of spans, of many spans at once: ids, times, and where their attributes are.

A span that has failed, that has an event with something to read, or that has far more fields than the others is
irregular: the plain reader reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.otlp.columnar.headers import Joined, read_headers
from tokentrace.decode.otlp.message import may_be_read
from tokentrace.decode.otlp.wire import BYTES, FIXED32, FIXED64
from tokentrace.model.spans import Strings

#: With fewer spans, a round costs more than the plain reader.
SPARSE: Final = 24

_TRACE_ID: Final = 1 << 3 | BYTES
_SPAN_ID: Final = 2 << 3 | BYTES
_NAME: Final = 5 << 3 | BYTES
_START: Final = 7 << 3 | FIXED64
_END: Final = 8 << 3 | FIXED64
_ATTRIBUTE: Final = 9 << 3 | BYTES
_EVENT: Final = 11 << 3 | BYTES
_STATUS: Final = 15 << 3 | BYTES
#: The two bytes of the tag of `flags`, field 16, which is the only one whose tag is so long; it is read by itself.
_FLAGS: Final = (16 << 3 | FIXED32) & 0x7F | 0x80 | 1 << 8
_FLAGS_BYTES: Final = 6
#: Status whose only field is the code 1, which is ok.
_OK: Final = 0x0118


@dataclass(frozen=True, slots=True)
class SpanFields:
    """Fields of c spans. start_ns, end_ns: uint64[c].

    owner: int64[a], the span of each attribute, ascending. first, last: int64[a], bounds of each attribute.
    irregular: bool[c]; what the other arrays say of such spans may be anything.
    """

    trace_id: Strings
    span_id: Strings
    name: Strings
    start_ns: NDArray[np.uint64]
    end_ns: NDArray[np.uint64]
    owner: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    irregular: NDArray[np.bool_]


def read_fields(joined: Joined, start: NDArray[np.int64], end: NDArray[np.int64], sparse: int = SPARSE) -> SpanFields:
    """Read the fields of c spans. start, end: int64[c], bounds of each. sparse: see SPARSE."""
    count, words = len(start), joined.words
    texts = {tag: Strings(np.zeros(count, np.int64), np.zeros(count, np.int64)) for tag in (_TRACE_ID, _SPAN_ID, _NAME)}
    times = {tag: np.zeros(count, np.uint64) for tag in (_START, _END)}
    irregular = np.zeros(count, np.bool_)
    owners, firsts, lasts = [], [], []
    live = np.flatnonzero(start < end)
    pos, stop = start[live], end[live]
    while len(live) >= max(sparse, 1):
        headers = read_headers(words, pos, stop)
        tag, after, regular = headers.tag, headers.after, headers.regular
        if not regular.all():
            is_flags = ((words[pos] & np.uint64(0xFFFF)).view(np.int64) == _FLAGS) & (pos + _FLAGS_BYTES <= stop)
            after = np.where(is_flags, pos + _FLAGS_BYTES, after)
            irregular[live[~regular & ~is_flags]] = True
        # Most rounds read the same field of nearly all spans.
        for kind in np.flatnonzero(np.bincount(np.where(regular, tag, 0))).tolist():
            at = np.flatnonzero(tag == kind)
            spans, first, last = live[at], headers.first[at], after[at]
            if kind == _ATTRIBUTE:
                owners.append(spans)
                firsts.append(first)
                lasts.append(last)
            elif kind in texts:
                texts[kind].offset[spans], texts[kind].length[spans] = first, last - first
            elif kind in times:
                times[kind][spans] = words[first]
            elif kind == _STATUS:
                size = last - first
                code = (words[first] & np.uint64(0xFFFF)).view(np.int64)
                irregular[spans[(size > 0) & ~((size == 2) & (code == _OK))]] = True
            elif kind == _EVENT:
                for span, begin, finish in zip(spans.tolist(), first.tolist(), last.tolist(), strict=True):
                    irregular[span] |= may_be_read(joined.data, begin, finish)
        more = (after < stop) & ~irregular[live]
        live, pos, stop = live[more], after[more], stop[more]
    irregular[live] = True
    none = np.zeros(0, np.int64)
    owner, first, last = (np.concatenate([none, *columns]) for columns in (owners, firsts, lasts))
    order = np.flatnonzero(~irregular[owner])
    order = order[np.argsort(owner[order], kind="stable")]
    return SpanFields(
        texts[_TRACE_ID], texts[_SPAN_ID], texts[_NAME], times[_START], times[_END],
        owner[order], first[order], last[order], irregular,
    )  # fmt: skip

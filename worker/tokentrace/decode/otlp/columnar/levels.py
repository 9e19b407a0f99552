"""Levels: the fields of bytes inside many messages, which are the messages of the next level.

Resources, scopes and spans have few kinds of fields, so a level is walked in rounds: each reads one field of every
message that has any left. A round over few messages costs more than a loop over the fields of one, so what is left of a
few long messages is walked so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.otlp.columnar.headers import Joined, read_headers
from tokentrace.decode.otlp.wire import BYTES

#: With fewer messages, a round costs more than the loop.
SPARSE: Final = 64


class Children(NamedTuple):
    """The fields of bytes in p messages, in the order of their positions.

    parent: int64[k], the message that each is in. tag: int64[k]. start, end: int64[k], bounds of its payload.
    irregular: bool[p], messages of which some fields could not be read.
    """

    parent: NDArray[np.int64]
    tag: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    irregular: NDArray[np.bool_]


def children(joined: Joined, start: NDArray[np.int64], end: NDArray[np.int64], sparse: int = SPARSE) -> Children:
    """Find the fields of p messages. start, end: int64[p], bounds of each. sparse: see SPARSE."""
    irregular = np.zeros(len(start), np.bool_)
    found: list[tuple[NDArray[np.int64], ...]] = []
    live = np.flatnonzero(start < end)
    pos, stop = start[live], end[live]
    while len(live) >= max(sparse, 1):
        headers = read_headers(joined.words, pos, stop)
        good = headers.regular & (headers.tag & 7 == BYTES)
        if not good.all():
            irregular[live[~good]] = True
            headers = headers.take(good)
            live, stop = live[good], stop[good]
        found.append((live, headers.tag, headers.first, headers.after))
        pos = headers.after
        more = pos < stop
        if not more.all():
            live, pos, stop = live[more], pos[more], stop[more]
    loop = _Loop(joined.data)
    for parent, first, last in zip(live.tolist(), pos.tolist(), stop.tolist(), strict=True):
        irregular[parent] |= not loop.walk(parent, first, last)
    found.append(loop.found())
    parents, tag, first_, last_ = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.argsort(first_, kind="stable")
    return Children(parents[order], tag[order], first_[order], last_[order], irregular)


class _Loop:
    """Walks messages one by one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parents: list[int] = []
        self._tags: list[int] = []
        self._starts: list[int] = []
        self._ends: list[int] = []

    def walk(self, parent: int, at: int, end: int) -> bool:
        """Add the fields at at:end. Return False where one of them could not be read."""
        data, tags, starts, ends = self._data, self._tags, self._starts, self._ends
        known = len(tags)
        regular = True
        while at < end:
            tag, size = data[at], data[at + 1]
            at += 2
            if size > 0x7F:
                byte = data[at]
                at += 1
                size = size & 0x7F | (byte & 0x7F) << 7
                if byte > 0x7F:
                    byte = data[at]
                    at += 1
                    size |= (byte & 0x7F) << 14
                    if byte > 0x7F:
                        byte = data[at]
                        at += 1
                        size |= (byte & 0x7F) << 21
                        regular = byte < 0x80
            if tag & 7 != BYTES or not 8 <= tag < 0x80 or size > end - at or not regular:
                regular = False
                break
            tags.append(tag)
            starts.append(at)
            at += size
            ends.append(at)
        self._parents += [parent] * (len(tags) - known)
        return regular

    def found(self) -> tuple[NDArray[np.int64], ...]:
        """Return parent, tag, start and end of the fields."""
        return tuple(np.array(column, np.int64) for column in (self._parents, self._tags, self._starts, self._ends))

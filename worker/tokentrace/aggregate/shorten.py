"""Shorten: long label values become a prefix and a hash, so that no name inflates every series and every scrape.

The result depends on nothing but the value and the limit: it is the same on every replica and after every restart, so
sums over a fleet agree. Python runs once per distinct long value of a batch, never per span.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import PADDING
from tokentrace.model.spans import SpanBatch, Strings, string_words

#: Hexadecimal digits of the hash: 128 bits, so that nobody finds two names that become one.
HASH_DIGITS: Final = 32
SEPARATOR: Final = "~"
#: Spans whose long values are compared at once, which bounds the memory of the comparison.
_BLOCK: Final = 8192


def shortened(value: str, limit: int) -> str:
    """Return the value, or its first characters, `~` and its hash where it has more than `limit` bytes of UTF-8.

    limit: larger than HASH_DIGITS + 1; the result has at most that many bytes.
    """
    data = value.encode()
    return value if len(data) <= limit else _short(data, limit).decode()


def shorten(spans: SpanBatch, limit: int) -> tuple[SpanBatch, NDArray[np.bool_] | None]:
    """Return (the spans with no label longer than `limit` bytes, which of them have another model or provider).

    The second is bool[m], or None where no label was longer. spans: valid; never written to.
    """
    changes: dict[str, Strings] = {}
    renamed = np.zeros(len(spans), np.bool_)
    arena = bytearray()
    for name in ("model", "provider", "caller"):
        strings: Strings = getattr(spans, name)
        rows = np.flatnonzero(strings.length > limit)
        if not len(rows):
            continue
        if name != "caller":
            renamed[rows] = True
        changes[name] = Strings(strings.offset.copy(), strings.length.copy())
        for start in range(0, len(rows), _BLOCK):
            _replace(spans, strings, rows[start : start + _BLOCK], limit, changes[name], arena)
    if not changes:
        return spans, None
    buffer = np.concatenate([spans.buffer, np.frombuffer(bytes(arena) + bytes(PADDING), np.uint8)])
    return spans.replace(changes, buffer), renamed


def _replace(
    spans: SpanBatch, strings: Strings, rows: NDArray[np.int64], limit: int, into: Strings, arena: bytearray
) -> None:
    """Point the strings `into` of these rows at short values, which are appended to the arena."""
    first, which = distinct(spans.buffer, strings.take(rows))
    offsets, lengths = np.zeros(len(first), np.int64), np.zeros(len(first), np.int64)
    for number, row in enumerate(rows[first].tolist()):
        start = int(strings.offset[row])
        short = _short(spans.buffer[start : start + int(strings.length[row])].tobytes(), limit)
        offsets[number], lengths[number] = len(spans.buffer) + len(arena), len(short)
        arena += short
    into.offset[rows], into.length[rows] = offsets[which], lengths[which]


def distinct(buffer: NDArray[np.uint8], strings: Strings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (the first position of each distinct string, int64[d]; each string's entry in them, int64[n])."""
    count = len(strings.length)
    columns = 1 + -(-int(strings.length.max()) // 8)
    table = np.zeros((count, columns), np.uint64)
    table[:, 0] = strings.length.view(np.uint64)
    for column, (rows, words) in enumerate(string_words(buffer, strings), start=1):
        table[slice(None) if rows is None else rows, column] = words
    whole_rows = table.view(np.dtype((np.void, columns * 8))).ravel()
    _, first, which = np.unique(whole_rows, return_index=True, return_inverse=True)
    return first, which.ravel()


def _short(data: bytes, limit: int) -> bytes:
    prefix = data[: limit - HASH_DIGITS - len(SEPARATOR)].decode("utf-8", "ignore")
    return f"{prefix}{SEPARATOR}{hashlib.sha256(data).hexdigest()[:HASH_DIGITS]}".encode()

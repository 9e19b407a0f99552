"""Span keys: the 64 bits that identify a span for deduplication, for a whole batch at once."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.hashing import GOLDEN_RATIO, NO_KEY, SPLITMIX, finish
from tokentrace.model.spans import SpanBatch, Strings, string_words

#: A longer id is hashed by itself: a step over the words of one message costs as much as one over thousands.
LONGEST_ID_BYTES: Final = 128


def span_keys(spans: SpanBatch, partitions: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Return uint64[m], never 0: a hash of each span's input partition, trace id and span id."""
    ids = (spans.trace_id, spans.span_id)
    lengths = spans.trace_id.length << 32 | spans.span_id.length
    keys = partitions.astype(np.uint64) * SPLITMIX ^ lengths.view(np.uint64)
    _mix(keys)
    long = np.flatnonzero(np.maximum(spans.trace_id.length, spans.span_id.length) > LONGEST_ID_BYTES)
    for strings in ids:
        if len(long):
            strings = Strings(strings.offset, np.minimum(strings.length, LONGEST_ID_BYTES))
        for rows, words in string_words(spans.buffer, strings):
            if rows is None:
                keys ^= words
                _mix(keys)
            else:
                some = keys[rows] ^ words
                _mix(some)
                keys[rows] = some
    for row in long.tolist():
        keys[row] ^= _digest([_bytes(spans, strings, row) for strings in ids])
    finish(keys)
    keys[keys == NO_KEY] = 1
    return keys


def _mix(keys: NDArray[np.uint64]) -> None:
    """Spread every bit over the others, in place. It is invertible, so no bit is lost before the next word."""
    keys *= GOLDEN_RATIO
    keys ^= keys >> np.uint64(32)


def _digest(parts: list[bytes]) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little"))


def _bytes(spans: SpanBatch, strings: Strings, row: int) -> bytes:
    start = int(strings.offset[row])
    return spans.buffer[start : start + int(strings.length[row])].tobytes()

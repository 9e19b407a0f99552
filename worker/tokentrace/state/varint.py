"""Longs: rows of integers as Avro's numbers (zigzag, then seven bits a byte), all rows at once.

A commit writes every cell that changed. One by one, as records, ten thousand groups took most of a second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def long(value: int) -> bytes:
    """One number."""
    rest = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def encode_rows(values: NDArray[np.int64], keep: NDArray[np.bool_]) -> list[bytes]:
    """The numbers of each row that are to be kept, one after the other. values: int64[t, c]. keep: bool[t, c]."""
    rest = ((values << 1) ^ (values >> 63)).view(np.uint64)[keep]
    size = np.ones(len(rest), np.int64)
    longer = np.flatnonzero(rest > 0x7F)
    while len(longer):
        size[longer] += 1
        longer = longer[rest[longer] >> (np.uint64(7) * size[longer].view(np.uint64) - np.uint64(7)) > 0x7F]
    end = np.cumsum(size)
    at = end - size
    encoded = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    while len(rest):
        more = rest > 0x7F
        encoded[at] = (rest & np.uint64(0x7F)).astype(np.uint8) | more.view(np.uint8) << np.uint8(7)
        on = np.flatnonzero(more)
        rest, at = rest[on] >> np.uint64(7), at[on] + 1
    stops = np.concatenate(([0], end))[np.cumsum(np.count_nonzero(keep, axis=1))].tolist()
    data = encoded.tobytes()
    return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

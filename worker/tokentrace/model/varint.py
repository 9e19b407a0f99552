"""Avro's int and long, zigzag varints: one by one, and for arrays of them at once.

The reader of messages in lock step has its own, which does not know where a number ends: `decode.columnar.cursors`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import Ints
from tokentrace.model.unsigned_varint import encode_unsigned

LONGEST_BYTES: Final = 10
_LOW_SEVEN: Final = 0x7F


def encode_long(value: int) -> bytes:
    """One number of 64 bits."""
    return encode_unsigned((value << 1) ^ (value >> 63))


def decode_long(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it. Raises ValueError, which says what is wrong with it."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("the datum ends in the middle of a value")
        byte = data[position]
        position += 1
        value |= (byte & _LOW_SEVEN) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError(f"a number has more than {LONGEST_BYTES} bytes")
    if value >> 64:
        raise ValueError("a number does not fit in 64 bits")
    return (value >> 1) ^ -(value & 1), position


def encode_rows(values: Ints, keep: NDArray[np.bool_]) -> list[bytes]:
    """The numbers of each row that are to be kept, one after the other. values: int64[t, c]. keep: bool[t, c].

    All rows at once: a commit writes every cell that changed, and ten thousand records one by one took most of a
    second.
    """
    rest = ((values << 1) ^ (values >> 63)).view(np.uint64)[keep]
    size = np.ones(len(rest), np.int64)
    longer = np.flatnonzero(rest > _LOW_SEVEN)
    while len(longer):
        size[longer] += 1
        longer = longer[rest[longer] >> (np.uint64(7) * size[longer].view(np.uint64) - np.uint64(7)) > _LOW_SEVEN]
    end = np.cumsum(size)
    at = end - size
    encoded = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    while len(rest):
        more = rest > _LOW_SEVEN
        encoded[at] = (rest & np.uint64(_LOW_SEVEN)).astype(np.uint8) | more.view(np.uint8) << np.uint8(7)
        on = np.flatnonzero(more)
        rest, at = rest[on] >> np.uint64(7), at[on] + 1
    stops = np.concatenate(([0], end))[np.cumsum(np.count_nonzero(keep, axis=1))].tolist()
    data = encoded.tobytes()
    return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def decode_at(data: NDArray[np.uint8], begins: Ints, ends: Ints) -> Ints:
    """int64[n], the numbers whose first and last bytes are at these places in data: uint8[...].

    A place outside of data is taken as its nearest end, and of a longer number than there are the rest is left out: a
    caller that guesses places gets some number for a wrong guess.
    """
    lengths = ends - begins
    raw = (data.take(begins, mode="clip") & np.uint8(_LOW_SEVEN)).astype(np.uint64)
    longer = np.flatnonzero(lengths > 0)
    for place in range(1, LONGEST_BYTES):
        if not len(longer):
            break
        more = data.take(begins[longer] + place, mode="clip") & np.uint8(_LOW_SEVEN)
        raw[longer] |= more.astype(np.uint64) << np.uint64(7 * place)
        longer = longer[lengths[longer] > place]
    return (raw >> np.uint64(1)).astype(np.int64) ^ -(raw & np.uint64(1)).astype(np.int64)

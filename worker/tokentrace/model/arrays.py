"""Array helpers: growing arrays without copying each time, and reading bytes as 64-bit words."""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

#: int64[n].
Ints = NDArray[np.int64]

#: Zero bytes after the last datum, so that an unaligned load of up to as many bytes never leaves the buffer.
PADDING: Final = 256

#: uint64[9]: entry k is the mask that keeps the k low bytes of a word.
LOW_BYTES: Final = np.array([(1 << (8 * count)) - 1 for count in range(8)] + [(1 << 64) - 1], np.uint64)

ScalarT = TypeVar("ScalarT", bound=np.generic)


def resized(array: NDArray[ScalarT], size: int) -> NDArray[ScalarT]:
    """A copy with `size` rows: cut, or filled up with zeros."""
    copy = np.zeros((size, *array.shape[1:]), array.dtype)
    kept = min(size, len(array))
    copy[:kept] = array[:kept]
    return copy


def widened(array: NDArray[ScalarT], width: int) -> NDArray[ScalarT]:
    """The array itself when its rows have `width` columns or more, else a copy with columns of zeros behind its own."""
    if array.shape[-1] >= width:
        return array
    copy = np.zeros((*array.shape[:-1], width), array.dtype)
    copy[..., : array.shape[-1]] = array
    return copy


def grown(array: NDArray[ScalarT], size: int) -> NDArray[ScalarT]:
    """The array itself when it has `size` rows, else a larger one; doubling keeps the cost linear in total."""
    return array if len(array) >= size else resized(array, max(size, 2 * len(array), 64))


def first_rows(values: NDArray[np.integer], size: int, rows: Ints | None = None) -> Ints:
    """int64[size]: the first row of each value 0 to size - 1, len(values) if it has none; negative values are ignored.

    rows: the only rows (int64[k]) to look at; None for all.
    """
    first = np.full(size, len(values), np.int64)
    rows = np.flatnonzero(values >= 0) if rows is None else rows
    np.minimum.at(first, values[rows], rows)
    return first


def unaligned_words(buffer: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint64[len(buffer) - 7]: the eight bytes from each position on, little-endian; a view."""
    return np.ndarray(shape=(len(buffer) - 7,), dtype="<u8", buffer=buffer, strides=(1,))


def first_words(buffer: NDArray[np.uint8], offset: Ints, count: int) -> NDArray[np.uint64]:
    """uint64[n, count]: `count` words from each offset (int64[n]) on, at most PADDING bytes in all.

    An unaligned load takes the same time for any number of bytes.
    """
    size = 8 * count
    loads = np.ndarray(shape=(len(buffer) - size + 1,), dtype=f"V{size}", buffer=buffer, strides=(1,))
    return loads[offset].view("<u8").reshape(-1, count)

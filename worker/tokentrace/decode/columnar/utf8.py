"""UTF-8 check: finds the strings of a column that are not valid UTF-8.

Most names are ASCII, which a bitmap with one bit per byte of the messages shows. The other strings are joined and
decoded as one text. Only if that fails is every string decoded on its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import unaligned_words
from tokentrace.model.spans import Strings

#: Bytes examined at a time, a multiple of 8; temporary arrays of this size stay in the CPU cache.
_BLOCK: Final = 1 << 18
#: Most bytes of joined strings; the indexes that gather them take eight times as much memory.
_MAX_JOINED: Final = 1 << 20
#: Longest string whose bits are all in one 64-bit load, whichever bit of a byte they begin at.
_WINDOW: Final = 57
_LOWEST_BITS: Final = np.array([(1 << length) - 1 for length in range(_WINDOW + 1)], np.uint64)


class NonAscii:
    """Bitmap of the non-ASCII bytes (80 hex and above) in buffer[first:last]."""

    def __init__(self, buffer: NDArray[np.uint8], first: int, last: int) -> None:
        self._first = first
        bits = np.zeros((last - first) // 8 + 8, np.uint8)
        for at in range(0, last - first, _BLOCK):
            packed = np.packbits(buffer[first + at : min(first + at + _BLOCK, last)] > 0x7F, bitorder="little")
            bits[at // 8 : at // 8 + len(packed)] = packed
        self._words = unaligned_words(bits)

    def rows(self, strings: Strings) -> NDArray[np.int64]:
        """Return int64[j], ascending: strings with a non-ASCII byte, or longer than the bitmap lookup covers.

        All strings must lie in buffer[first:last].
        """
        at = strings.offset - self._first
        bits = self._words[at >> 3] >> (at & 7).view(np.uint64)
        bits &= _LOWEST_BITS.take(strings.length, mode="clip")
        found = bits != 0
        if len(found) and int(strings.length.max()) > _WINDOW:
            found |= strings.length > _WINDOW
        return np.flatnonzero(found)


def invalid_utf8(buffer: NDArray[np.uint8], strings: Strings) -> list[int]:
    """Return the indices of strings that are not valid UTF-8, ascending. All strings must lie in the buffer."""
    offset, length = strings.offset, strings.length
    stop = np.cumsum(length + 1)
    if len(length) and int(stop[-1]) <= _MAX_JOINED:
        # A zero byte ends each string, so that the next string cannot complete a truncated character.
        first = stop - length - 1
        text = buffer.take(np.arange(stop[-1]) + np.repeat(offset - first, length + 1), mode="clip")
        text[stop - 1] = 0
        if _is_utf8(text):
            return []
    bounds = zip(offset.tolist(), (offset + length).tolist(), strict=True)
    return [row for row, (start, end) in enumerate(bounds) if not _is_utf8(buffer[start:end])]


def _is_utf8(data: NDArray[np.uint8]) -> bool:
    try:
        data.tobytes().decode()
    except UnicodeDecodeError:
        return False
    return True

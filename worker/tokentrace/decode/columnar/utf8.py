"""Labels: which strings of a column are not valid UTF-8.

Most names are ASCII, which one bit for each byte of the messages shows. The others are decoded, all at once as one
text; only where that fails is each of them looked at.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import unaligned_words
from tokentrace.model.spans import Strings

#: Bytes looked at at a time, a multiple of 8, so that what is in between stays in the cache.
_BLOCK: Final = 1 << 18
#: Bytes of strings that are decoded at once; indexes to gather them take eight times as much.
_TOGETHER: Final = 1 << 20
#: Strings of so many bytes have all their bits in one 64-bit load, whichever bit of a byte they begin at.
_WINDOW: Final = 57
_LOWEST_BITS: Final = np.array([(1 << length) - 1 for length in range(_WINDOW + 1)], np.uint64)


class NotAscii:
    """Which bytes of a stretch of the buffer are 80 or higher."""

    def __init__(self, buffer: NDArray[np.uint8], first: int, last: int) -> None:
        self._first = first
        bits = np.zeros((last - first) // 8 + 8, np.uint8)
        for at in range(0, last - first, _BLOCK):
            packed = np.packbits(buffer[first + at : min(first + at + _BLOCK, last)] > 0x7F, bitorder="little")
            bits[at // 8 : at // 8 + len(packed)] = packed
        self._words = unaligned_words(bits)

    def rows(self, strings: Strings) -> NDArray[np.int64]:
        """int64[j], ascending: the strings that hold such a byte, or that are too long to tell. All in the stretch."""
        at = strings.offset - self._first
        bits = self._words[at >> 3] >> (at & 7).view(np.uint64)
        bits &= _LOWEST_BITS.take(strings.length, mode="clip")
        found = bits != 0
        if len(found) and int(strings.length.max()) > _WINDOW:
            found |= strings.length > _WINDOW
        return np.flatnonzero(found)


def invalid_utf8(buffer: NDArray[np.uint8], strings: Strings) -> list[int]:
    """The strings, all in the buffer, that are not valid UTF-8; ascending."""
    offset, length = strings.offset, strings.length
    stop = np.cumsum(length + 1)
    if len(length) and int(stop[-1]) <= _TOGETHER:
        # A zero byte after each string: what is cut off at a string's end is not mended by the next one.
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

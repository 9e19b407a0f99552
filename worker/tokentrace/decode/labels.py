"""Labels: which strings of a column are not valid UTF-8.

Most names are ASCII, which one bit for each byte of the messages shows. The others are decoded once for each distinct
name, and the names that were found valid are remembered from batch to batch.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..spans import Strings, unaligned_words

#: Names remembered, and the longest of them in bytes.
MAX_KNOWN: Final = 10_000
MAX_KNOWN_BYTES: Final = 256

#: Strings of so many bytes have all their bits in one 64-bit load, whichever bit of a byte they begin at.
_WINDOW: Final = 57
_LOWEST_BITS: Final = np.array([(1 << length) - 1 for length in range(_WINDOW + 1)], np.uint64)


class NotAscii:
    """Which bytes of a stretch of the buffer are 80 or higher."""

    def __init__(self, buffer: NDArray[np.uint8], first: int, last: int) -> None:
        self._first = first
        packed = np.packbits(buffer[first:last] > 0x7F, bitorder="little")
        bits = np.zeros(len(packed) + 8, np.uint8)
        bits[: len(packed)] = packed
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


class Utf8:
    """Knows valid names."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def invalid(self, buffer: NDArray[np.uint8], strings: Strings) -> list[int]:
        """The strings that are not valid UTF-8."""
        if not len(strings.offset):
            return []
        first = int(strings.offset.min())
        end = strings.offset + strings.length
        # One copy of the stretch, since slices of bytes cost a fraction of slices of an array.
        data = buffer[first : int(end.max())].tobytes()
        bounds = zip((strings.offset - first).tolist(), (end - first).tolist(), strict=True)
        names = [data[start:stop] for start, stop in bounds]
        wrong = {name for name in set(names) - self._known if not self._learn(name)}
        return [row for row, name in enumerate(names) if name in wrong] if wrong else []

    def _learn(self, name: bytes) -> bool:
        """Whether a name is valid; remembered if it is."""
        try:
            name.decode()
        except UnicodeDecodeError:
            return False
        if len(name) <= MAX_KNOWN_BYTES:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known.add(name)
        return True

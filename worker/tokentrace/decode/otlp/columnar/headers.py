"""Headers of fields in protobuf's wire format, of many messages at once: tag, length, and where the next field begins.

A header is read from one unaligned 64-bit load, so tags have one byte and lengths up to four. What has more, or is not
of the wire format, is irregular: it is left to the plain reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.otlp.wire import BYTES, FIXED32, FIXED64, VARINT
from tokentrace.model.arrays import PADDING, unaligned_words

_BYTE: Final = np.uint64(8)
_ONE: Final = np.uint64(1)
_HIGH_BITS: Final = np.uint64(0x80808080)
_LOW_BITS: Final = np.uint64(0x7F7F7F7F)
#: Bits of the second, third and fourth 7 bits of a length, and by how far they move down.
_GROUPS: Final = (
    (np.uint64(0x7F00), np.uint64(1)),
    (np.uint64(0x7F0000), np.uint64(2)),
    (np.uint64(0x7F000000), np.uint64(3)),
)
#: Wire type -> bytes of a field behind its tag, without what its number or length adds.
_FIXED: Final = np.zeros(8, np.int64)
_FIXED[FIXED64], _FIXED[FIXED32] = 8, 4
_KNOWN: Final = np.zeros(8, np.bool_)
_KNOWN[[VARINT, FIXED64, BYTES, FIXED32]] = True


@dataclass(frozen=True, slots=True)
class Joined:
    """Messages joined in one buffer. data: all of them, then PADDING zero bytes. buffer: the same as uint8.

    words: uint64[len(buffer) - 7], the eight bytes from each position on.
    """

    data: bytes
    buffer: NDArray[np.uint8]
    words: NDArray[np.uint64]

    @classmethod
    def of(cls, values: list[bytes]) -> Joined:
        """Join messages."""
        data = b"".join([*values, bytes(PADDING)])
        buffer = np.frombuffer(data, np.uint8)
        return cls(data, buffer, unaligned_words(buffer))


class Headers(NamedTuple):
    """Headers of k fields. tag: int64[k]. value: int64[k], a length or a small number. first: int64[k], of the payload.

    after: int64[k], where the next field begins. regular: bool[k].
    """

    tag: NDArray[np.int64]
    value: NDArray[np.int64]
    first: NDArray[np.int64]
    after: NDArray[np.int64]
    regular: NDArray[np.bool_]

    def take(self, rows: NDArray[np.bool_]) -> Headers:
        """Return some of the headers."""
        return Headers(self.tag[rows], self.value[rows], self.first[rows], self.after[rows], self.regular[rows])


def read_headers(words: NDArray[np.uint64], pos: NDArray[np.int64], end: NDArray[np.int64]) -> Headers:
    """Read the headers at positions. pos, end: int64[k], pos below the end of its message."""
    word = words[pos]
    tag = (word & np.uint64(0xFF)).view(np.int64)
    value, size, ends = read_numbers(word >> _BYTE)
    wire = tag & 7
    has_number = (wire == BYTES) | (wire == VARINT)
    first = pos + 1
    first += np.where(has_number, size, 0)
    after = first + _FIXED[wire]
    after += np.where(wire == BYTES, value, 0)
    regular = _KNOWN[wire] & (tag >= 8) & (tag < 0x80) & (ends | ~has_number) & (after <= end)
    return Headers(tag, value, first, after, regular)


def read_numbers(word: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Read a number of up to four bytes from the low end of each word.

    Return (int64[k] numbers, int64[k] their bytes, bool[k] whether they end within four).
    """
    stop = ~word & _HIGH_BITS
    mask = stop ^ (stop - _ONE)
    low = word & mask & _LOW_BITS
    value = low & np.uint64(0x7F)
    top = int(low.max(initial=0))
    size = np.ones(len(word), np.int64)
    for bits, shift in _GROUPS:
        # A padded number has zeros above its value, and more bytes.
        if top <= 0x7F and int(mask.max(initial=0)) <= 0xFF:
            break
        value |= (low & bits) >> shift
    if int(mask.max(initial=0)) > 0xFF:
        for limit in (np.uint64(0xFF), np.uint64(0xFFFF), np.uint64(0xFFFFFF)):
            size += mask > limit
    return value.view(np.int64), size, stop != 0

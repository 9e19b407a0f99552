"""Attributes of spans, of all spans at once: which of the known keys each has, and the type and bounds of its value.

Writers write the key first and the value behind it, and the value's only field is what it holds. Any other form is
irregular.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.otlp.columnar.headers import Joined, read_headers
from tokentrace.decode.otlp.columnar.known_texts import KnownTexts
from tokentrace.decode.otlp.wire import BYTES, FIXED64, VARINT

_KEY: Final = 1 << 3 | BYTES
_VALUE: Final = 2 << 3 | BYTES
TEXT: Final = 1 << 3 | BYTES
BOOL: Final = 2 << 3 | VARINT
INT: Final = 3 << 3 | VARINT
DOUBLE: Final = 4 << 3 | FIXED64
ARRAY: Final = 5 << 3 | BYTES
MAP: Final = 6 << 3 | BYTES
RAW: Final = 7 << 3 | BYTES
#: Type of a value that has none.
ABSENT: Final = 0
#: Longest number whose bits are all in one 64-bit load.
_LONGEST_INT: Final = 8
#: Bytes of a double's value.
_DOUBLE_BYTES: Final = 9

_ONE: Final = np.uint64(1)
_STOPS: Final = np.uint64(0x8080808080808080)
_PAYLOAD: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_EVERY_BYTE: Final = np.uint64(0x0101010101010101)
#: Steps that join 7-bit groups pairwise: lower half, upper half, shift.
_JOINS: Final = (
    (np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
)


class KnownAttributes(NamedTuple):
    """Attributes with a known key. owner: int64[k], the span of each. key: int64[k], its number. type: int64[k].

    offset, length: int64[k], bounds of a text; those of another value are of its bytes behind the type.
    irregular: bool[c], spans with an attribute that could not be read.
    """

    owner: NDArray[np.int64]
    key: NDArray[np.int64]
    type: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    irregular: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> KnownAttributes:
        """Return some of the attributes."""
        return KnownAttributes(
            self.owner[rows], self.key[rows], self.type[rows], self.offset[rows], self.length[rows], self.irregular
        )


def read_attributes(
    joined: Joined,
    keys: KnownTexts,
    spans: int,
    owner: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> KnownAttributes:
    """Read a attributes of `spans` spans. owner: int64[a], ascending. first, last: int64[a], bounds of each."""
    words = joined.words
    irregular = np.zeros(spans, np.bool_)
    # A key of up to 127 bytes behind its tag and length, then the tag of the value.
    head = words[first]
    key_at, key_length = first + 2, (head >> np.uint64(8) & np.uint64(0xFF)).view(np.int64)
    value_at = key_at + key_length
    good = ((head & np.uint64(0xFF)).view(np.int64) == _KEY) & (key_length < 0x80) & (value_at < last)
    value_at = np.where(good, value_at, first)
    value = read_headers(words, value_at, last)
    good &= value.regular & (value.tag == _VALUE) & (value.after == last)
    inner_at = np.where(good, value.first, first)
    empty = inner_at == last
    inner = read_headers(words, np.minimum(inner_at, last - 1), last)
    # Of a number the length is not known yet: it is of the bytes behind the type.
    fits = inner.regular & (inner.after == last)
    is_number = (inner.tag == INT) | (inner.tag == BOOL)
    size = last - inner_at - 1
    good &= empty | np.where(is_number, (size > 0) & (size <= _LONGEST_INT), fits)
    if not good.all():
        irregular[owner[~good]] = True
    key = keys.find(words, key_at, np.where(good, key_length, 0))
    rows = np.flatnonzero(key >= 0)
    kind = np.where(empty, ABSENT, inner.tag)[rows]
    is_number = is_number[rows]
    offset = np.where(is_number, inner_at[rows] + 1, inner.first[rows])
    length = np.where(is_number, size[rows], inner.value[rows])
    # Numbers of attributes that are not looked at need not end with them; those that are must.
    ends = ~is_number | (_bytes_of(words[offset]) == length)
    unknown = np.flatnonzero(good & (key < 0) & np.isin(inner.tag, (INT, BOOL)) & ~empty)
    wrong = _bytes_of(words[inner_at[unknown] + 1]) != size[unknown]
    irregular[owner[unknown[wrong]]] = True
    irregular[owner[rows[~ends]]] = True
    return KnownAttributes(owner[rows], key[rows], kind, offset, length, irregular)


def _bytes_of(word: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return int64[k], the bytes of the number at the low end of each word; 9 where it does not end in it."""
    stop = ~word & _STOPS
    mask = stop ^ (stop - _ONE)
    size = ((mask & _EVERY_BYTE) * _EVERY_BYTE >> np.uint64(56)).view(np.int64)
    return np.where(stop == 0, 9, size)


def integers(joined: Joined, offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[k], the numbers at offsets, of up to eight bytes each, so none is negative."""
    word = joined.words[offset]
    stop = ~word & _STOPS
    word = word & (stop ^ (stop - _ONE)) & _PAYLOAD
    for lower, upper, shift in _JOINS:
        word = (word & lower) | (word & upper) >> shift
    return word.view(np.int64)


def doubles(joined: Joined, offset: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return float64[k], the numbers with a point at offsets."""
    found: NDArray[np.float64] = joined.words[offset].view(np.float64)
    return found

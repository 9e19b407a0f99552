"""Lockstep: one position per message in one buffer, and reads that move all of them at once.

A `Cursors` is k messages and where each of them is. Its reads give an array with one value a message and advance the
positions. A message in which a read meets what no writer writes is *dropped*: its position goes beyond every datum,
where only zeros are read. Positions never move back, so a message that once left its own bytes, dropped or not,
cannot end where its datum ends, and that is all that the decoder has to look at. Reads are clipped to the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.spans import SpanColumns

#: Where dropped messages are: beyond any buffer, and far enough from 2^63 that lengths can be added to it.
DROPPED: Final = 1 << 56
#: Lengths from here on are those of no message; larger ones could overflow a position.
_LENGTH_BITS: Final = 40

_ONE: Final = np.uint64(1)
_HIGH_BITS: Final = np.uint64(0x8080808080808080)
_LOW_BITS: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_EVERY_BYTE: Final = np.uint64(0x0101010101010101)
#: Joining 7-bit groups two by two: (lower half, upper half, shift), needed from 2^8, 2^16 and 2^32 on.
_JOINS: Final = (
    (8, np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (16, np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (32, np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
)


@dataclass(slots=True)
class Chunk:
    """What the lanes of some messages share.

    words: uint64[len(buffer) - 7], the eight bytes from each position on. end: int64[n], each datum's end.
    sink: column name -> its arrays, n entries each. columns: keeps the strings that are not in the buffer.
    patience: steps that may still be taken with few rows; see `Cursors.worthwhile`.
    """

    buffer: NDArray[np.uint8]
    words: NDArray[np.uint64]
    end: NDArray[np.int64]
    sink: Mapping[str, Any]
    columns: SpanColumns
    thin_rows: int
    patience: int


class Cursors:
    """k messages of a chunk. pos: int64[k], changed in place. index: int64[k], their rows, or None for all rows."""

    __slots__ = ("chunk", "index", "pos")

    def __init__(self, chunk: Chunk, pos: NDArray[np.int64], index: NDArray[np.int64] | None = None) -> None:
        self.chunk = chunk
        self.pos = pos
        self.index = index

    def __len__(self) -> int:
        return len(self.pos)

    # Fewer rows, and none.

    def select(self, rows: NDArray[np.int64]) -> Cursors:
        """The lanes at `rows` (int64[j], positions in these lanes) with positions of their own."""
        return Cursors(self.chunk, self.pos.take(rows), rows if self.index is None else self.index.take(rows))

    def first(self, count: int) -> Cursors:
        """The first lanes, sharing their positions with these. Not for lanes that are all rows."""
        assert self.index is not None
        return Cursors(self.chunk, self.pos[:count], self.index[:count])

    def drop(self, bad: NDArray[np.bool_] | slice) -> None:
        """Take the lanes where `bad` (bool[k]) holds out of the fast path."""
        self.pos[bad] = DROPPED

    def worthwhile(self) -> bool:
        """Whether to go on with so few rows; if not, they are dropped.

        A message with very many more items than the others would otherwise cost one array operation for each item.
        """
        if len(self.pos) >= self.chunk.thin_rows:
            return True
        self.chunk.patience -= 1
        if self.chunk.patience >= 0:
            return True
        self.drop(slice(None))
        return False

    def end(self) -> NDArray[np.int64]:
        """int64[k], where each datum ends."""
        return self.chunk.end if self.index is None else self.chunk.end.take(self.index)

    def write(self, column: NDArray[Any], values: Any) -> None:
        """Put values (an array of k, or one for all) into the rows of a column."""
        if self.index is None:
            column[:] = values
        else:
            column[self.index] = values

    # Reads.

    def advance(self, width: int) -> None:
        np.add(self.pos, width, out=self.pos)

    def words(self, offset: int = 0) -> NDArray[np.uint64]:
        """uint64[k], the eight bytes at each position plus an offset; the position stays."""
        words = self.chunk.words
        at = np.add(self.pos, offset) if offset else self.pos
        loaded: NDArray[np.uint64] = words[np.minimum(at, len(words) - 1)]
        return loaded

    def varint(self, wide: bool = False) -> tuple[NDArray[Any], int]:
        """Read an int or long as it stands, before zigzag: uint8[k] or uint64[k], and the bitwise or of them all.

        wide: most of them are long, so that looking for short ones first does not pay.
        """
        value = None if wide else self._short_varint()
        if value is None:
            value = self._long_varint()
        return value, int(np.bitwise_or.reduce(value))

    def skip_varint(self) -> None:
        """Move over an int or long."""
        first = self.chunk.buffer.take(self.pos, mode="clip")
        if int(np.bitwise_or.reduce(first)) < 0x80:
            self.advance(1)
            return
        word = self.words()
        stop = ~word & _HIGH_BITS
        np.add(self.pos, _bytes(stop ^ (stop - _ONE)), out=self.pos)
        if int(stop.min()) == 0:
            self._ninth_byte(np.flatnonzero(stop == 0))

    def integer(self, wide: bool = False) -> NDArray[np.int64]:
        """Read an int or long: int64[k]. wide: see `varint`."""
        raw, seen = self.varint(wide)
        value: NDArray[np.int64] = (
            (raw >> 1).astype(np.int64) if raw.dtype == np.uint8 else (raw >> _ONE).view(np.int64)
        )
        # The sign is the lowest bit.
        return value ^ -(raw & 1).astype(np.int64) if seen & 1 else value

    def length(self) -> NDArray[Any]:
        """Read the length of a string or of bytes: uint8[k] or int64[k]; the lane of a wrong one is dropped."""
        raw, seen = self.varint()
        if seen & 1 or seen >> _LENGTH_BITS:
            bad = ((raw & 1) != 0) | (raw >= 1 << _LENGTH_BITS)
            self.drop(bad)
            raw[bad] = 0
        return raw >> 1 if raw.dtype == np.uint8 else (raw >> _ONE).view(np.int64)

    def choice(self, size: int) -> NDArray[Any]:
        """Read the index of an enum or a union of `size`, doubled: uint8[k] or uint64[k]; a wrong one is dropped."""
        raw, seen = self.varint()
        if seen & 1 or (seen >= 2 * size and int(raw.max()) >= 2 * size):
            bad = ((raw & 1) != 0) | (raw >= 2 * size)
            self.drop(bad)
            raw[bad] = 0
        return raw

    def block(self) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
        """Read the head of a block of an array or map.

        count: uint8[k] or int64[k], the block's items; 0 after the last block and in a lane that was dropped.
        stop: int64[k], where a block that states its size has to end, else -1; None where no block states it.
        """
        raw, seen = self.varint()
        # A negative count is followed by the block's size in bytes.
        count = (raw >> 1) + (raw & 1)
        if raw.dtype != np.uint8:
            count = np.minimum(count, np.uint64(1 << 62)).view(np.int64)
        stop = None
        if seen & 1:
            sized = np.flatnonzero(raw & 1)
            part = self.select(sized)
            size = part.length()
            stop = np.full(len(self), -1, np.int64)
            stop[sized] = part.pos + size
            self.pos[sized] = part.pos
        if seen:
            # Items take at least a byte each, so this bounds the loop over them by the message's own length.
            bad = count > self.end() - self.pos
            if bad.any():
                self.drop(bad)
                count[bad] = 0
        return count, stop

    def _short_varint(self) -> NDArray[Any] | None:
        """Numbers of up to three bytes, by the byte: uint8[k] or uint64[k]; None, nothing read, for longer ones."""
        buffer = self.chunk.buffer
        byte = buffer.take(self.pos, mode="clip")
        if int(np.bitwise_or.reduce(byte)) < 0x80:
            self.advance(1)
            return byte
        at = self.pos + 1
        value = (byte & 0x7F).astype(np.uint64)
        for shift in (np.uint64(7), np.uint64(14)):
            more = byte >> 7
            byte = buffer.take(at, mode="clip")
            byte *= more
            at += more
            seen = int(np.bitwise_or.reduce(byte))
            value |= (byte & 0x7F).astype(np.uint64) << shift
            if seen < 0x80:
                self.pos[:] = at
                return value
        return None

    def _long_varint(self) -> NDArray[np.uint64]:
        word = self.words()
        stop = ~word & _HIGH_BITS
        # All bits up to the first byte that has no continuation bit.
        upto = stop ^ (stop - _ONE)
        np.add(self.pos, _bytes(upto), out=self.pos)
        value = np.bitwise_and(word, upto, out=upto)
        value &= _LOW_BITS
        top = int(value.max())
        for bits, lower, upper, shift in _JOINS:
            if top >> bits:
                high = value & upper
                high >>= shift
                value &= lower
                value |= high
        if int(stop.min()) == 0:
            rows = np.flatnonzero(stop == 0)
            value[rows] |= self._ninth_byte(rows)
        return value

    def _ninth_byte(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The bits from 2^56 on of numbers whose first eight bytes (already passed) all continue: uint64[j]."""
        buffer = self.chunk.buffer
        at = self.pos[rows]
        ninth = buffer.take(at, mode="clip").astype(np.uint64)
        tenth = buffer.take(at + 1, mode="clip").astype(np.uint64)
        tenth[ninth < 0x80] = 0
        self.pos[rows] = np.where(tenth > 1, DROPPED, at + 1 + (ninth >= 0x80))
        return (ninth & np.uint64(0x7F)) << np.uint64(56) | tenth << np.uint64(63)


def _bytes(upto: NDArray[np.uint64]) -> NDArray[np.int64]:
    """int64[k], the bytes of each word that have their lowest bit set."""
    ones = upto & _EVERY_BYTE
    ones *= _EVERY_BYTE
    ones >>= np.uint64(56)
    return ones.view(np.int64)

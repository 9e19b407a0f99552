"""Read cursors: one position per message in a shared buffer, and reads that move all of them at once.

`Cursors` holds one position for each of k messages. A read returns an array with one value per message and advances
the positions. A message with bytes that no writer produces is *dropped*: its position moves beyond every datum, where
reads return zeros. Positions never move back, so a message that left its own bytes, dropped or not, cannot end at the
end of its datum. The decoder therefore checks only the final positions. Reads are clipped to the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.spans import SpanColumns

#: Position of dropped messages: beyond any buffer, and so far below 2^63 that adding lengths cannot overflow.
DROPPED: Final = 1 << 56
#: Bits of the longest accepted length, longer than any message; a larger one could overflow a position.
_LENGTH_BITS: Final = 40

_ONE: Final = np.uint64(1)
_HIGH_BITS: Final = np.uint64(0x8080808080808080)
_LOW_BITS: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_EVERY_BYTE: Final = np.uint64(0x0101010101010101)
#: Steps that join 7-bit groups pairwise: (bits from which it is needed, lower half, upper half, shift).
_JOINS: Final = (
    (8, np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (16, np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (32, np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
)


@dataclass(slots=True)
class MessageChunk:
    """Data shared by all cursors over n messages.

    words: uint64[len(buffer) - 7], the eight bytes from each position on. end: int64[n], the end of each datum.
    rows: int64[n], the messages' rows in `columns`. outputs: column name -> its arrays, n entries each.
    columns: stores the strings that are not in the buffer, and has the optional columns.
    sparse_rows: a round over fewer rows is sparse. sparse_rounds_left: see `Cursors.spend_round`.
    """

    buffer: NDArray[np.uint8]
    words: NDArray[np.uint64]
    end: NDArray[np.int64]
    rows: NDArray[np.int64]
    outputs: Mapping[str, Any]
    columns: SpanColumns
    sparse_rows: int
    sparse_rounds_left: int


class Cursors:
    """Positions in k messages of a chunk.

    pos: int64[k], changed in place. index: int64[k], the rows of the messages, or None for all rows.
    """

    __slots__ = ("chunk", "index", "pos")

    def __init__(self, chunk: MessageChunk, pos: NDArray[np.int64], index: NDArray[np.int64] | None = None) -> None:
        self.chunk = chunk
        self.pos = pos
        self.index = index

    def __len__(self) -> int:
        return len(self.pos)

    # Selecting and dropping rows.

    def select(self, rows: NDArray[np.int64]) -> Cursors:
        """Return the cursors at `rows` (int64[j], indices into these cursors) with a copy of their positions."""
        return Cursors(self.chunk, self.pos.take(rows), rows if self.index is None else self.index.take(rows))

    def first(self, count: int) -> Cursors:
        """Return the first cursors, as a view of these positions. Requires an index."""
        assert self.index is not None
        return Cursors(self.chunk, self.pos[:count], self.index[:count])

    def drop(self, bad: NDArray[np.bool_] | slice) -> None:
        """Take the cursors where `bad` (bool[k]) is True off the fast path."""
        self.pos[bad] = DROPPED

    def spend_round(self) -> bool:
        """Count one more round of items. Returns False, and drops the cursors, when the sparse rounds are used up.

        Without this limit a message with far more items than the others would cost one array operation per item.
        """
        if len(self.pos) >= self.chunk.sparse_rows:
            return True
        self.chunk.sparse_rounds_left -= 1
        if self.chunk.sparse_rounds_left >= 0:
            return True
        self.drop(slice(None))
        return False

    def end(self) -> NDArray[np.int64]:
        """Return int64[k], the end of each datum."""
        return self.chunk.end if self.index is None else self.chunk.end.take(self.index)

    def message_rows(self) -> NDArray[np.int64]:
        """Return int64[k], the rows of the messages in the chunk's columns."""
        return self.chunk.rows if self.index is None else self.chunk.rows.take(self.index)

    def write(self, column: NDArray[Any], values: Any) -> None:
        """Write values (an array of k, or a scalar) into the rows of a column."""
        if self.index is None:
            column[:] = values
        else:
            column[self.index] = values

    # Reads.

    def advance(self, width: int) -> None:
        """Move all cursors by `width` bytes."""
        np.add(self.pos, width, out=self.pos)

    def words(self, offset: int = 0) -> NDArray[np.uint64]:
        """Return uint64[k], the eight bytes at each position plus `offset`, without moving."""
        words = self.chunk.words
        at = np.add(self.pos, offset) if offset else self.pos
        loaded: NDArray[np.uint64] = words[np.minimum(at, len(words) - 1)]
        return loaded

    def varint(self, wide: bool = False) -> tuple[NDArray[Any], int]:
        """Read an int or long, still in zigzag encoding: (uint8[k] or uint64[k], the bitwise or of all values).

        wide: most numbers have many bytes, so trying the short form first does not pay.
        """
        value = None if wide else self._short_varint()
        if value is None:
            value = self._long_varint()
        return value, int(np.bitwise_or.reduce(value))

    def skip_varint(self) -> None:
        """Move past an int or long."""
        first = self.chunk.buffer.take(self.pos, mode="clip")
        if int(np.bitwise_or.reduce(first)) < 0x80:
            self.advance(1)
            return
        word = self.words()
        stop = ~word & _HIGH_BITS
        np.add(self.pos, _count_bytes(stop ^ (stop - _ONE)), out=self.pos)
        if int(stop.min()) == 0:
            self._last_bytes(np.flatnonzero(stop == 0))

    def integer(self, wide: bool = False) -> NDArray[np.int64]:
        """Read an int or long: int64[k]. wide: see `varint`."""
        raw, bits = self.varint(wide)
        value: NDArray[np.int64] = (
            (raw >> 1).astype(np.int64) if raw.dtype == np.uint8 else (raw >> _ONE).view(np.int64)
        )
        # The sign is the lowest bit.
        return value ^ -(raw & 1).astype(np.int64) if bits & 1 else value

    def length(self) -> NDArray[Any]:
        """Read the length of a string or of bytes: uint8[k] or int64[k]. An invalid length drops its cursor."""
        raw, bits = self.varint()
        if bits & 1 or bits >> _LENGTH_BITS:
            bad = ((raw & 1) != 0) | (raw >= 1 << _LENGTH_BITS)
            self.drop(bad)
            raw[bad] = 0
        return raw >> 1 if raw.dtype == np.uint8 else (raw >> _ONE).view(np.int64)

    def zigzag_index(self, size: int) -> NDArray[Any]:
        """Read the index into an enum or union of `size`, doubled: uint8[k] or uint64[k].

        An index out of range drops its cursor.
        """
        raw, bits = self.varint()
        if bits & 1 or (bits >= 2 * size and int(raw.max()) >= 2 * size):
            bad = ((raw & 1) != 0) | (raw >= 2 * size)
            self.drop(bad)
            raw[bad] = 0
        return raw

    def block(self) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
        """Read the header of a block of an array or map. Returns (count, stop).

        count: uint8[k] or int64[k], the block's items; 0 after the last block and for a dropped cursor.
        stop: int64[k], the required end of a block that declares its size, else -1; None if no block declares it.
        """
        raw, bits = self.varint()
        # A negative count is followed by the block's size in bytes.
        count = (raw >> 1) + (raw & 1)
        if raw.dtype != np.uint8:
            count = np.minimum(count, np.uint64(1 << 62)).view(np.int64)
        stop = None
        if bits & 1:
            sized = np.flatnonzero(raw & 1)
            part = self.select(sized)
            size = part.length()
            stop = np.full(len(self), -1, np.int64)
            stop[sized] = part.pos + size
            self.pos[sized] = part.pos
        if bits:
            # An item takes at least one byte, so the message's length bounds the loop over its items.
            bad = count > self.end() - self.pos
            if bad.any():
                self.drop(bad)
                count[bad] = 0
        return count, stop

    def _short_varint(self) -> NDArray[Any] | None:
        """Read numbers of up to three bytes: uint8[k] or uint64[k]. Reads nothing and returns None for longer ones."""
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
            bits = int(np.bitwise_or.reduce(byte))
            value |= (byte & 0x7F).astype(np.uint64) << shift
            if bits < 0x80:
                self.pos[:] = at
                return value
        return None

    def _long_varint(self) -> NDArray[np.uint64]:
        """Read numbers of up to ten bytes: uint64[k]."""
        word = self.words()
        stop = ~word & _HIGH_BITS
        # All bits up to the end of the first byte without a continuation bit.
        mask = stop ^ (stop - _ONE)
        np.add(self.pos, _count_bytes(mask), out=self.pos)
        value = np.bitwise_and(word, mask, out=mask)
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
            value[rows] |= self._last_bytes(rows)
        return value

    def _last_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Read bytes nine and ten of numbers that are longer than eight bytes: uint64[j], the bits from 2^56 on."""
        buffer = self.chunk.buffer
        at = self.pos[rows]
        ninth = buffer.take(at, mode="clip").astype(np.uint64)
        tenth = buffer.take(at + 1, mode="clip").astype(np.uint64)
        tenth[ninth < 0x80] = 0
        self.pos[rows] = np.where(tenth > 1, DROPPED, at + 1 + (ninth >= 0x80))
        return (ninth & np.uint64(0x7F)) << np.uint64(56) | tenth << np.uint64(63)


def _count_bytes(mask: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return int64[k], the number of bytes in each word that have their lowest bit set."""
    ones = mask & _EVERY_BYTE
    ones *= _EVERY_BYTE
    ones >>= np.uint64(56)
    return ones.view(np.int64)

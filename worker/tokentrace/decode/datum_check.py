"""Walk: where each field of a datum lies, and whether its bytes are a datum at all. Builds nothing, recurses never.

Fastavro takes bytes that no writer wrote: it reads a negative union index from the end, wraps a number that is too
long, does not look at the byte size of a block, and on deep nesting it overflows the C stack, which is a crash and
not an exception. So the reference decoder walks a datum first, and fastavro reads only what is known to be sound.

What is sound: a number has at most 10 bytes and fits int64 (an `int` beyond 32 bits is taken as it stands); union and
enum indexes are in range; no length is negative or leaves the datum; a block that states its size in bytes has that
size; blocks claim no more items than the datum has bytes, and MAX_EMPTY_ITEMS for items that take none.
"""

from __future__ import annotations

from typing import Final

from tokentrace.decode.resolve import Type

#: Types within types. No honest span nests deeper; fastavro overflows the stack at some thousands.
MAX_DEPTH: Final = 500
#: Zero-width items that one datum may hold beside those that its length allows for.
MAX_EMPTY_ITEMS: Final = 100_000

_STRING: Final = Type("string")
_WIDTHS: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class Malformed(ValueError):
    """The bytes are not a datum of the schema; the message says why."""


def walk(record: Type, data: bytes) -> list[int]:
    """The position of each field of the record that `data` is, exactly. Raises Malformed."""
    walker = _DatumChecker(data)
    starts = []
    for _, type_ in record.fields:
        starts.append(walker.position)
        walker.skip(type_)
    if walker.position != len(data):
        raise Malformed(f"{len(data) - walker.position} bytes follow its end")
    return starts


def branch_at(type_: Type, data: bytes, position: int) -> Type:
    """The type of the value at a position: the branch that a union takes there, or the type itself."""
    if type_.kind != "union":
        return type_
    index, _ = _long(data, position)
    return type_.branches[index]


class _DatumChecker:
    """A position in a datum, and how many more items its blocks may claim."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        self._items_left = len(data) + MAX_EMPTY_ITEMS

    def skip(self, type_: Type) -> None:
        """Move over one value."""
        # What is still to be read, last first; None ends a nested type, a number is where a block has to end.
        stack: list[Type | int | None] = [type_]
        depth = 0
        while stack:
            top = stack.pop()
            if top is None:
                depth -= 1
            elif isinstance(top, int):
                if self.position != top:
                    raise Malformed("a block has another size than it states")
            elif inner := self._enter(top):
                depth += 1
                if depth > MAX_DEPTH:
                    raise Malformed(f"it nests deeper than {MAX_DEPTH} types")
                stack += inner

    def _enter(self, type_: Type) -> list[Type | int | None]:
        """Move over the value, or over its head; what has to be read next, last first, or nothing."""
        kind = type_.kind
        if kind in ("int", "long"):
            self._long()
        elif kind in ("string", "bytes"):
            self._advance(self._long())
        elif kind in _WIDTHS:
            self._advance(_WIDTHS[kind])
        elif kind == "fixed":
            self._advance(type_.size)
        elif kind == "enum":
            self._index(len(type_.symbols), "an enum")
        elif kind == "union":
            return [None, type_.branches[self._index(len(type_.branches), "a union")]]
        elif kind == "record":
            return [None, *(inner for _, inner in reversed(type_.fields))]
        else:
            return self._block(type_)
        return []

    def _block(self, type_: Type) -> list[Type | int | None]:
        """The head of a block of an array or map: its items, then the next block."""
        count = self._long()
        if count == 0:
            return []
        # After the block's last item comes another block of the same array or map, one level up.
        inner: list[Type | int | None] = [type_, None]
        if count < 0:
            count = -count
            size = self._long()
            inner.append(self.position + size)
        self._items_left -= count
        if self._items_left < 0:
            raise Malformed("its blocks claim more items than it can hold")
        assert type_.items is not None
        item = [type_.items] if type_.kind == "array" else [type_.items, _STRING]
        return inner + item * count

    def _long(self) -> int:
        value, self.position = _long(self._data, self.position)
        return value

    def _index(self, size: int, what: str) -> int:
        index = self._long()
        if not 0 <= index < size:
            raise Malformed(f"the index of {what} is out of range")
        return index

    def _advance(self, length: int) -> None:
        if length < 0:
            raise Malformed("a length is negative")
        if length > len(self._data) - self.position:
            raise Malformed("it ends in the middle of a value")
        self.position += length


def _long(data: bytes, position: int) -> tuple[int, int]:
    """The zigzag varint at a position, and the position after it. Raises Malformed."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise Malformed("it ends in the middle of a value")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise Malformed("a number has more than 10 bytes")
    if value >> 64:
        raise Malformed("a number does not fit 64 bits")
    return (value >> 1) ^ -(value & 1), position

"""Datum check: validates the bytes of a datum and finds its fields. Iterative; builds no values.

Fastavro accepts bytes that no writer produces: it counts a negative union index from the end, wraps a number that is
too long, and ignores the byte size of a block. Deep nesting overflows its C stack, which crashes the process instead
of raising an exception. The fastavro decoder therefore checks a datum first, and fastavro reads only valid ones.

A datum is valid if numbers have at most 10 bytes and fit int64 (an `int` beyond 32 bits is accepted), union and enum
indexes are in range, lengths are not negative and stay inside the datum, and a block that declares its size in bytes
has that size. Its blocks may claim as many items as the datum has bytes, plus MAX_EMPTY_ITEMS for items of no bytes.
"""

from __future__ import annotations

from typing import Final

from tokentrace.decode.schema_tree import Type
from tokentrace.model import reasons
from tokentrace.model.messages import Reject
from tokentrace.model.varint import decode_long

#: Deepest nesting of types. Real spans never nest deeper; fastavro overflows the stack at some thousands of levels.
MAX_DEPTH: Final = 500
#: Zero-width items that one datum may hold, in addition to one item per byte.
MAX_EMPTY_ITEMS: Final = 100_000

_STRING: Final = Type("string")
_WIDTHS: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


#: The problem of a union's index that names no branch.
OUT_OF_RANGE: Final = "the index of a union is out of range"


class Malformed(ValueError):
    """The bytes are not a datum of the schema. The message gives the reason."""


def malformed(row: int, why: str) -> Reject:
    """Return the reject of a message whose bytes are not a datum of its schema."""
    return Reject(row, "malformed", f"{reasons.WHOLE['malformed'].rstrip('.')}: {why}.")


def check_datum(record: Type, data: bytes) -> list[int]:
    """Check that `data` is exactly one datum of the record. Returns the position of each field. Raises Malformed."""
    checker = _DatumChecker(data)
    starts = []
    for _, type_ in record.fields:
        starts.append(checker.position)
        checker.skip(type_)
    if checker.position != len(data):
        raise Malformed(f"{len(data) - checker.position} bytes follow the end of the datum")
    return starts


def skip_value(type_: Type, data: bytes, position: int) -> int:
    """Check the value at a position. Returns where it ends. Raises Malformed."""
    checker = _DatumChecker(data)
    checker.position = position
    checker.skip(type_)
    return checker.position


def branch_at(type_: Type, data: bytes, position: int) -> Type:
    """Return the type of the value at a position: the branch of a union, or the type itself."""
    if type_.kind != "union":
        return type_
    index, _ = decode_long(data, position)
    return type_.branches[index]


class _DatumChecker:
    """Position in a datum, and the number of items that its blocks may still claim."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        self._items_left = len(data) + MAX_EMPTY_ITEMS

    def skip(self, type_: Type) -> None:
        """Move past one value. Raises Malformed."""
        # Types still to be read, last first. None ends a nested type; a number is the required end of a block.
        stack: list[Type | int | None] = [type_]
        depth = 0
        while stack:
            top = stack.pop()
            if top is None:
                depth -= 1
            elif isinstance(top, int):
                if self.position != top:
                    raise Malformed("a block does not have its declared size")
            elif inner := self._enter(top):
                depth += 1
                if depth > MAX_DEPTH:
                    raise Malformed(f"the datum nests deeper than {MAX_DEPTH} types")
                stack += inner

    def _enter(self, type_: Type) -> list[Type | int | None]:
        """Move past a value, or past the header of a nested one. Returns the types to read next, last first."""
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
        """Read the header of a block of an array or map. Returns its items and the next block, last first."""
        count = self._long()
        if count == 0:
            return []
        # After its last item comes the next block of the same array or map, one level up.
        inner: list[Type | int | None] = [type_, None]
        if count < 0:
            count = -count
            size = self._long()
            inner.append(self.position + size)
        self._items_left -= count
        if self._items_left < 0:
            raise Malformed("the blocks claim more items than the datum can hold")
        assert type_.items is not None
        item = [type_.items] if type_.kind == "array" else [type_.items, _STRING]
        return inner + item * count

    def _long(self) -> int:
        try:
            value, self.position = decode_long(self._data, self.position)
        except ValueError as error:
            raise Malformed(str(error)) from None
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
            raise Malformed("the datum ends in the middle of a value")
        self.position += length

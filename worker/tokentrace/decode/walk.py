"""Walk: check that a datum ends within its bytes, without building it and without native recursion.

Only for schemas whose data could harm fastavro: in a recursive type a short message can nest deeper than the C stack
(a crash, not an exception), and an array of zero-width items can claim any length. Everything else is left to it.
"""

from __future__ import annotations

from typing import Final

from .resolve import Type

#: Deeper nesting than this is no honest span; fastavro crashes somewhere beyond some thousands.
MAX_DEPTH: Final = 200
#: Zero-width items that one message may hold.
MAX_EMPTY_ITEMS: Final = 100_000


class Malformed(ValueError):
    """The bytes are not a datum of the schema."""


def walk(root: Type, data: bytes) -> int:
    """The end of the datum that starts at 0. Raises Malformed."""
    position, depth = 0, 0
    # A stack of what is still to be read; None marks the end of a nested type.
    stack: list[Type | None] = [root]
    # An item takes a byte at least, or comes out of an allowance that the whole message shares.
    items_left = len(data) + MAX_EMPTY_ITEMS
    while stack:
        type_ = stack.pop()
        if type_ is None:
            depth -= 1
            continue
        kind = type_.kind
        if kind in ("int", "long"):
            _, position = _long(data, position)
        elif kind in ("string", "bytes"):
            length, position = _long(data, position)
            position = _advance(data, position, length)
        elif kind in _WIDTHS:
            position = _advance(data, position, _WIDTHS[kind])
        elif kind == "fixed":
            position = _advance(data, position, type_.size)
        elif kind == "enum":
            index, position = _long(data, position)
            if not 0 <= index < len(type_.symbols):
                raise Malformed("an enum index is out of range")
        elif kind == "union":
            index, position = _long(data, position)
            if not 0 <= index < len(type_.branches):
                raise Malformed("a union index is out of range")
            stack.append(type_.branches[index])
        elif kind == "record":
            depth += 1
            if depth > MAX_DEPTH:
                raise Malformed(f"it nests deeper than {MAX_DEPTH} records")
            stack.append(None)
            stack.extend(inner for _, inner in reversed(type_.fields))
        else:
            count, position = _long(data, position)
            if count < 0:
                count = -count
                _, position = _long(data, position)
            if count == 0:
                continue
            items_left -= count
            if items_left < 0:
                raise Malformed("its blocks claim more items than it can hold")
            stack.append(type_)
            assert type_.items is not None
            items = [type_.items] if kind == "array" else [type_.items, _STRING]
            stack.extend(items * count)
    return position


_STRING: Final = Type("string")
_WIDTHS: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def _advance(data: bytes, position: int, length: int) -> int:
    if length < 0 or position + length > len(data):
        raise Malformed("it ends in the middle of a value")
    return position + length


def _long(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise Malformed("it ends in the middle of a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7

"""Datum view: the fields of one datum as values for reading, as far as they can be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from struct import unpack_from
from typing import Any

from tokentrace.decode.datum_check import OUT_OF_RANGE, Malformed, branch_at, skip_value
from tokentrace.decode.resolve import timestamp_scale
from tokentrace.decode.schema_tree import Type
from tokentrace.model.text import first_bytes, utc_text
from tokentrace.model.varint import decode_long

#: Most items of an array or a map, and most bytes, that are shown.
_MOST_ITEMS = 50
_MOST_BYTES = 200


@dataclass(frozen=True, slots=True)
class FieldView:
    """A field of a datum. type_: in words. value: ready for JSON. problem: why it cannot be decoded, or empty."""

    name: str
    type_: str
    value: Any
    problem: str = ""


def branch_of(root: Type, data: bytes) -> tuple[Type, int]:
    """Return (the type of a datum, where it begins): of the branch, if the top level is a union. Raises Malformed."""
    if root.kind != "union":
        return root, 0
    try:
        index, start = decode_long(data, 0)
    except ValueError as error:
        raise Malformed(str(error)) from error
    if not 0 <= index < len(root.branches):
        raise Malformed(OUT_OF_RANGE)
    return root.branches[index], start


def fields_of(record: Type, data: bytes, position: int) -> Iterator[FieldView]:
    """Give the fields of the record that begins at a position, up to the first that cannot be decoded.

    Bytes behind the last field are a field without a name.
    """
    for name, type_ in record.fields:
        try:
            end = skip_value(type_, data, position)
            value, _ = _value(type_, data, position)
        except (Malformed, RecursionError) as error:
            rest = first_bytes(data[position:], 16)
            where = f"the bytes from {position} on are {rest}" if position < len(data) else "no bytes are left"
            yield FieldView(name, _words(type_), None, f"{error}; {where}")
            return
        yield FieldView(name, _words(branch_at(type_, data, position)), value)
        position = end
    if position != len(data):
        rest = first_bytes(data[position:], 16)
        yield FieldView("", "", None, f"{len(data) - position} bytes follow the end of the datum: {rest}")


def _words(type_: Type) -> str:
    if type_.kind == "union":
        return " or ".join(_words(branch) for branch in type_.branches)
    if type_.scale is not None:
        return f"decimal of {type_.scale} digits"
    return type_.logical or type_.name or type_.kind


def _value(type_: Type, data: bytes, position: int) -> tuple[Any, int]:
    """Return (a value, where it ends). The bytes were checked."""
    kind = type_.kind
    if kind == "null":
        return None, position
    if kind == "boolean":
        return data[position] != 0, position + 1
    if kind in ("int", "long"):
        number, position = decode_long(data, position)
        return _number(type_, number), position
    if kind in ("float", "double"):
        size, code = (4, "<f") if kind == "float" else (8, "<d")
        return unpack_from(code, data, position)[0], position + size
    if kind in ("string", "bytes", "fixed"):
        length = type_.size
        if kind != "fixed":
            length, position = decode_long(data, position)
        return _text(type_, data[position : position + length]), position + length
    if kind == "enum":
        index, position = decode_long(data, position)
        return type_.symbols[index], position
    if kind == "union":
        index, position = decode_long(data, position)
        return _value(type_.branches[index], data, position)
    if kind == "record":
        found = {}
        for name, inner in type_.fields:
            found[name], position = _value(inner, data, position)
        return found, position
    return _items(type_, data, position)


def _items(type_: Type, data: bytes, position: int) -> tuple[Any, int]:
    """Return (the first items of an array or a map, where all of them end)."""
    assert type_.items is not None
    pairs: list[tuple[str, Any]] = []
    while True:
        count, position = decode_long(data, position)
        if count == 0:
            break
        if count < 0:
            count = -count
            _, position = decode_long(data, position)
        for _ in range(count):
            key = ""
            if type_.kind == "map":
                length, position = decode_long(data, position)
                key = data[position : position + length].decode("utf-8", "replace")
                position += length
            value, position = _value(type_.items, data, position)
            if len(pairs) < _MOST_ITEMS:
                pairs.append((key, value))
    return (dict(pairs) if type_.kind == "map" else [value for _, value in pairs]), position


def _number(type_: Type, number: int) -> Any:
    """Return a number, and as a time what its type says that it is."""
    if "timestamp" not in type_.logical:
        return number
    multiply, divide = timestamp_scale(type_)
    seconds = number * multiply // divide // 10**6
    try:
        return f"{number} ({utc_text(seconds)})"
    except (ValueError, OverflowError, OSError):
        return f"{number} (beyond the years that have four digits)"


def _text(type_: Type, data: bytes) -> Any:
    if type_.scale is not None:
        return str(Decimal(int.from_bytes(data, "big", signed=True)).scaleb(-type_.scale)) if data else ""
    if type_.kind == "string":
        return data.decode("utf-8", "replace")
    return first_bytes(data, _MOST_BYTES)

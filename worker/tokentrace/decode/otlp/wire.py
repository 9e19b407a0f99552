"""Protobuf's wire format, read field by field in plain Python.

It knows tags, lengths and varints, and nothing of OTLP. What no writer produces is malformed: a number that does not
end, a length beyond the bytes, field 0, a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from tokentrace.model.unsigned_varint import encode_unsigned

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_SIZES: Final = {FIXED64: 8, FIXED32: 4}
#: Tags are numbers of 32 bits.
_LARGEST_TAG: Final = (1 << 32) - 1


class Malformed(Exception):
    """Bytes that are not a message; the end of a sentence says why."""


class Field(NamedTuple):
    """One field. wire: its wire type. start, end: bounds of its payload. tag: where its tag begins. value: of a varint.

    The payload of bytes begins behind their length.
    """

    number: int
    wire: int
    tag: int
    start: int
    end: int
    value: int = 0


def fields(data: bytes, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message at start:end. Raises Malformed."""
    at = start
    while at < end:
        begin = at
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if tag > _LARGEST_TAG or number == 0:
            raise Malformed(f"there is no field with the tag {tag}")
        if wire == VARINT:
            first = at
            value, at = varint(data, at, end)
            yield Field(number, wire, begin, first, at, value)
            continue
        if wire == BYTES:
            size, at = varint(data, at, end)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise Malformed(f"field {number} has the wire type {wire}, which OTLP does not use")
        if size > end - at:
            raise Malformed(f"field {number} ends beyond its message")
        yield Field(number, wire, begin, at, at + size)
        at += size


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return (an unsigned number of up to 64 bits, the position behind it). Raises Malformed."""
    value = shift = 0
    while True:
        if at >= end:
            raise Malformed("a number ends beyond its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise Malformed("a number has more than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise Malformed("a number has more than 64 bits")


def write_bytes(number: int, payload: bytes) -> bytes:
    """Return a field of bytes, tag and length included."""
    return encode_unsigned(number << 3 | BYTES) + encode_unsigned(len(payload)) + payload

"""Encoding: a span, a mapping in the shape of `schemas/span.avsc`, to its Avro datum.

The schema is compiled once to one function a field. fastavro, which tests compare it with, takes three times as long,
because it tries the branches of every union. A field that is absent or None takes its default.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from operator import index
from typing import Any, Final

from tokentrace.model.bundled_schemas import bundled_schema, single_object_header

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_DOUBLE: Final = struct.Struct("<d").pack
_SMALL: Final = [bytes((number << 1,)) for number in range(64)]

Encoder = Callable[[Any], bytes]


class SpanEncoder:
    """Encodes spans of one schema.

    header: the first bytes of each message in single-object encoding. names: the fields of the schema.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.header = single_object_header(schema)
        fields = [_field(field) for field in schema["fields"]]
        self.names = frozenset(name for name, _, _ in fields)
        #: Encoded default of each field, None for one without; name -> (its place, its encoder).
        self._defaults = [default for _, default, _ in fields]
        self._places = {name: (place, encode) for place, (name, _, encode) in enumerate(fields)}
        self._required = [(place, name) for place, (name, default, _) in enumerate(fields) if default is None]

    def datum(self, span: Mapping[str, Any]) -> bytes:
        """Return the Avro datum of a span. Raises ValueError, which names the field that does not match."""
        pieces: list[Any] = self._defaults.copy()
        places = self._places
        name = ""
        try:
            for name, value in span.items():
                if value is not None:
                    place, encode = places[name]
                    pieces[place] = encode(value)
        except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
            if name not in places:
                raise ValueError(f"schemas/span.avsc has no field {name!r}") from error
            raise ValueError(f"the field {name!r} {_why(error)}") from error
        for place, name in self._required:
            if pieces[place] is None:
                raise ValueError(f"the field {name!r} is missing")
        if len(span) > len(self.names) or not self.names.issuperset(span):
            unknown = ", ".join(sorted(repr(name) for name in span if name not in self.names))
            raise ValueError(f"schemas/span.avsc has no field {unknown}")
        return b"".join(pieces)


@cache
def span_encoder() -> SpanEncoder:
    """Return the encoder of `schemas/span.avsc`."""
    return SpanEncoder(bundled_schema("span"))


def span_message(span: Mapping[str, Any]) -> bytes:
    """Return the message value of one span, in single-object encoding. Raises ValueError as `SpanEncoder.datum`."""
    encoder = span_encoder()
    try:
        return encoder.header + encoder.datum(span)
    except ValueError as error:
        raise ValueError(f"The span does not match schemas/span.avsc: {error}.") from error


def _field(field: Mapping[str, Any]) -> tuple[str, bytes | None, Encoder]:
    """(name, encoded default or None for a field without one, encoder of a value that is not None)."""
    encode, branch = _encoder(field["type"])
    if "default" not in field:
        return field["name"], None, encode
    value = field["default"]
    return field["name"], branch if value is None else encode(value), encode


def _encoder(schema: Any) -> tuple[Encoder, bytes]:
    """(encoder of values, encoding of null)."""
    if isinstance(schema, list):
        null, (value,) = schema.index("null"), [branch for branch in schema if branch != "null"]
        prefix, (encode, _) = _long(1 - null), _encoder(value)
        if encode is _long:
            small = [prefix + number for number in _SMALL]
            return (
                lambda given: small[given] if type(given) is int and 0 <= given < 64 else prefix + _long(given)
            ), _long(null)
        return (lambda given: prefix + encode(given)), _long(null)
    kind = schema["type"] if isinstance(schema, Mapping) else schema
    if kind == "enum":
        codes = {symbol: _long(code) for code, symbol in enumerate(schema["symbols"])}
        return (lambda given: _symbol(codes, given)), b""
    if kind == "map":
        return _map(schema["values"]), b""
    return _PLAIN[kind], b""


def _map(values: Any) -> Encoder:
    encode: Encoder = _Attribute(values) if isinstance(values, list) else _PLAIN[values]

    def encode_map(given: Mapping[str, Any]) -> bytes:
        if not given:
            return b"\0"
        pieces = [_long(len(given))]
        for key, value in given.items():
            pieces += (_string(key), encode(value))
        pieces.append(b"\0")
        return b"".join(pieces)

    return encode_map


class _Attribute:
    """Encoder of a value of any scalar type; one of another type is written as text."""

    def __init__(self, branches: list[str]) -> None:
        self._prefix = {branch: _long(code) for code, branch in enumerate(branches)}

    def __call__(self, value: Any) -> bytes:
        if value is None:
            return self._prefix["null"]
        if isinstance(value, str):
            return self._prefix["string"] + _string(value)
        if isinstance(value, bool):
            return self._prefix["boolean"] + _boolean(value)
        if isinstance(value, int) and _INT64_MIN <= value <= _INT64_MAX:
            return self._prefix["long"] + _long(value)
        if isinstance(value, float):
            return self._prefix["double"] + _DOUBLE(value)
        return self._prefix["string"] + _string(str(value))


def _long(value: Any) -> bytes:
    if type(value) is not int:
        if isinstance(value, bool):
            raise TypeError("is a boolean, not a whole number")
        value = index(value)
    number: int = value
    if 0 <= number < 64:
        return _SMALL[number]
    if 0 < number < 8192:
        return bytes((number << 1 & 0x7F | 0x80, number >> 6))
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise OverflowError("does not fit in 64 bits")
    rest = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def _double(value: Any) -> bytes:
    if type(value) is float:
        return _DOUBLE(value)
    if isinstance(value, bool) or not (isinstance(value, (int, Decimal)) or hasattr(value, "__float__")):
        raise TypeError(f"is of type {type(value).__name__}, not a number")
    return _DOUBLE(float(value))


def _string(value: Any) -> bytes:
    # Half of a surrogate pair is in no UTF-8; a span is not lost for it.
    data: bytes = value.encode("utf-8", "replace")
    size = len(data)
    return (_SMALL[size] if size < 64 else _long(size)) + data


def _boolean(value: Any) -> bytes:
    if not isinstance(value, bool):
        raise TypeError("is neither true nor false")
    return b"\1" if value else b"\0"


def _symbol(codes: Mapping[str, bytes], value: Any) -> bytes:
    code = codes.get(value)
    if code is None:
        raise ValueError(f"is {str(value)[:40]!r}, not one of {', '.join(codes)}")
    return code


_PLAIN: Final[dict[str, Encoder]] = {"string": _string, "long": _long, "double": _double, "boolean": _boolean}


def _why(error: Exception) -> str:
    text = str(error)
    return text if text.startswith(("is ", "does ")) else f"does not match ({type(error).__name__}: {text})"

"""Recognition: which message values are of OTLP. Light, since every message without a known header is looked at."""

from __future__ import annotations

from typing import Final

from tokentrace.decode.otlp.wire import Malformed, varint

#: The tag of the first field of TracesData, in protobuf, and its name in JSON.
_FIRST_TAG: Final = b"\x0a"
_NAMES: Final = (b'"resourceSpans"', b'"resource_spans"')
#: Bytes at the beginning in which JSON has the name: no writer has another before it.
_BEGINNING: Final = 64


def is_json(value: bytes) -> bool:
    """Return whether a message of OTLP is in JSON: no message in protobuf begins so."""
    return value[:1] == b"{"


def is_otlp(value: bytes, framing: str) -> bool:
    """Return whether a message is read as one of OTLP. framing: kafka.framing."""
    return framing.startswith("otlp") or (framing == "auto" and looks_like_otlp(value))


def looks_like_otlp(value: bytes) -> bool:
    """Return whether a value without a header is a message of OTLP: its first field is a resource, or it names them."""
    if is_json(value):
        return any(name in value[:_BEGINNING] for name in _NAMES)
    if value[:1] != _FIRST_TAG:
        return False
    try:
        size, at = varint(value, 1, len(value))
    except Malformed:
        return False
    return size <= len(value) - at

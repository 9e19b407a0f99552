"""Parts of a message of OTLP for those who look at it: its spans for reading, and the message of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokentrace.decode.otlp import json_message, message
from tokentrace.decode.otlp.message import COMPOUND, OtelSpan
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


def one_span(value: bytes, ordinal: int) -> bytes:
    """Return the message that has one span of another, in the same encoding. ordinal: of the span, from 0.

    Raises Malformed, and LookupError where the message has no such span.
    """
    if not is_json(value):
        try:
            return message.one_span(value, ordinal)
        except (Malformed, LookupError):
            if not value[:1].isspace():
                raise
    return json_message.one_span(json_message.parse(value), ordinal)


def shown(value: bytes) -> list[dict[str, Any]]:
    """Return the spans of a message for reading: attributes by key, and what they are of. Raises Malformed."""
    return [_shown(span) for span in _all_spans(value)]


def _all_spans(value: bytes) -> list[OtelSpan]:
    if is_json(value):
        return [
            json_message.read_span(place, json_message.resource_attributes(place))
            for place in json_message.json_places(json_message.parse(value))
        ]
    return [
        message.read_span(value, place, message.resource_attributes(value, *place.resource))
        for place in message.places(value)
    ]


def _shown(span: OtelSpan) -> dict[str, Any]:
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "name": span.name,
        "started_at": span.start_ns // 1000,
        "ended_at": span.end_ns // 1000,
        "status": "error" if span.failed else "ok",
        "attributes": _readable(span.attributes),
        "resource": _readable(span.resource),
    }


def _readable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: repr(value) if value is COMPOUND else value for key, value in attributes.items()}


__all__ = ["Malformed", "is_json", "one_span", "shown"]

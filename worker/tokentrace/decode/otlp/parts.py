"""Parts of a message of OTLP for those who look at it: its spans for reading, and the message of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokentrace.decode.otlp import json_message, message
from tokentrace.decode.otlp.message import COMPOUND, OtelSpan
from tokentrace.decode.otlp.recognize import is_json
from tokentrace.decode.otlp.wire import Malformed


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

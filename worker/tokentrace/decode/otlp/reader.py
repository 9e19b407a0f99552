"""The plain reader: one message of OTLP at a time, into the columns of a batch.

Slow but certain. It reads what the columnar walker leaves to it, and it is the reference of the walker's tests. A
message that is malformed is rejected whole. A span whose attributes do not make a call of a model is ignored, and one
that is a call but cannot be counted is rejected alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tokentrace.decode.otlp import json_message, message
from tokentrace.decode.otlp.message import OtelSpan, Place
from tokentrace.decode.otlp.options import OtlpOptions
from tokentrace.decode.texts import field_of, key_of, text_of
from tokentrace.model.otel_calls import WrongType, call_fields, is_first_token, score_of, status_of
from tokentrace.model.spans import MODIFIERS, OPTIONAL_FIELDS, STATUSES, SpanColumns
from tokentrace.model.text import is_utf8

#: Fields that are texts and labels, which must be UTF-8.
LABELS: Final = ("model", "provider", "caller")
#: Nanoseconds of a microsecond.
_NANOS: Final = 1000


class Refused(Exception):
    """A call that is not counted: (reason, sentence)."""


@dataclass(slots=True)
class Call:
    """A call of a model. fields: by column; eval_score, ttft_ms and latency_ms are numbers, texts are bytes."""

    span: OtelSpan
    fields: dict[str, Any]
    status: str


def read_message(value: bytes, options: OtlpOptions, as_json: bool = False) -> Iterator[Call | Refused | None]:
    """Yield for each span of a message the call that it is, why it is refused, or None for any other.

    as_json: whether the message is in JSON. Raises Malformed, which refuses the whole message.
    """
    for span in _spans(value, as_json):
        yield None if span is None else read_call(span, options)


def _spans(value: bytes, as_json: bool) -> Iterator[OtelSpan | None]:
    """Yield the spans of a message, None for one that has no mark of a call."""
    if as_json:
        known_json: dict[int, dict[str, Any]] = {}
        for json_place in json_message.json_places(json_message.parse(value)):
            if not json_message.may_be_call(json_place):
                yield None
                continue
            resource = known_json.get(id(json_place.resource))
            if resource is None:
                resource = known_json[id(json_place.resource)] = json_message.resource_attributes(json_place)
            yield json_message.read_span(json_place, resource)
        return
    known: dict[tuple[int, int], dict[str, Any]] = {}
    for place in message.places(value):
        yield read_place(value, place, known) if message.may_be_call(value, place) else None


def read_place(value: bytes, place: Place, known: dict[tuple[int, int], dict[str, Any]]) -> OtelSpan:
    """Return the span at a place. known: the resources of the message that were read before. Raises Malformed."""
    resource = known.get(place.resource)
    if resource is None:
        resource = known[place.resource] = message.resource_attributes(value, *place.resource)
    return message.read_span(value, place, resource)


def read_call(span: OtelSpan, options: OtlpOptions) -> Call | Refused | None:
    """Return the call that a span is, why it is refused, or None where it is not one."""
    try:
        fields = call_fields(span.attributes, options.calls)
    except WrongType as wrong:
        return Refused("type_mismatch", str(wrong))
    if fields is None:
        return None
    error = fields.pop("error", None)
    fields["caller"] = text_of(attribute(span, options.caller))
    for name in ("model", "provider", *MODIFIERS):
        if name in fields:
            fields[name] = text_of(fields[name])
    for name in LABELS:
        if not is_utf8(fields.get(name, b"")):
            return Refused("invalid_utf8", f"The {name} is not valid UTF-8.")
    seconds = fields.pop("ttft", None)
    if seconds is not None:
        fields["ttft_ms"] = seconds * 1000
    for event in span.events:
        score = score_of(event.name, event.attributes)
        if score is not None:
            fields["eval_score"] = score
        if is_first_token(event.name) and "ttft_ms" not in fields and event.time_ns and span.start_ns:
            fields["ttft_ms"] = max(event.time_ns - span.start_ns, 0) / 1e6
    if span.start_ns:
        fields["started_at_us"] = span.start_ns // _NANOS
    if span.end_ns:
        fields["ended_at_us"] = span.end_ns // _NANOS
    if span.start_ns and span.end_ns:
        # Clocks may go back; a latency of 0 is not observed.
        fields["latency_ms"] = max(span.end_ns - span.start_ns, 0) / 1e6
    return Call(span, fields, status_of(error, span.failed))


def attribute(span: OtelSpan, key: str) -> Any:
    """Return an attribute of a span, or else of its resource, None where neither has it."""
    value = span.attributes.get(key)
    return span.resource.get(key) if value is None else value


def store(columns: SpanColumns, row: int, call: Call) -> None:
    """Put a call into a row of the columns, which is empty."""
    for name, value in call.fields.items():
        if name in LABELS:
            if value:
                columns.put_string(getattr(columns, name), row, value)
        elif name in MODIFIERS:
            columns.put_string(columns.modifier(name), row, value)
        else:
            numbers = columns.optional(name) if name in OPTIONAL_FIELDS else getattr(columns, name)
            numbers.values[row], numbers.present[row] = value, True
    for name in ("trace_id", "span_id"):
        if data := getattr(call.span, name):
            columns.put_string(getattr(columns, name), row, data)
    columns.status[row] = STATUSES.index(call.status)
    for source, strings in columns.texts.items():
        if text := text_of(source_value(call.span, source)):
            columns.put_string(strings, row, text)


def source_value(span: OtelSpan, source: str) -> Any:
    """Return what the source of a dimension gives of a span: an attribute of it or of its resource, or its name."""
    key = key_of(source)
    if key is not None:
        return attribute(span, key)
    return span.name if field_of(source) == "name" else None

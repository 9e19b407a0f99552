"""A message of OTLP in protobuf, read in plain Python: where its spans are, and what one of them says.

TracesData and ExportTraceServiceRequest have the same bytes: resources, of each the scopes, of each the spans. A span
without any mark of a call is not read further: it is none. `one_span` makes the message that has one span alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tokentrace.decode.otlp.wire import BYTES, FIXED64, VARINT, fields, write_bytes
from tokentrace.model.conventions import FIRST_TOKEN_EVENT, MARKS, SCORE_EVENT

_MARKS: Final = tuple(mark.encode() for mark in MARKS)
#: Names of events of which something is read.
_EVENTS: Final = (SCORE_EVENT[0].encode(), FIRST_TOKEN_EVENT.encode())


class _Compound:
    """The value of an attribute that is an array or a map: no field of a call takes one."""

    def __repr__(self) -> str:
        return "an array or a map"


COMPOUND: Final = _Compound()


class Event(NamedTuple):
    """An event of a span. time_ns: Unix time."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class OtelSpan:
    """Content of a span, whatever it was written in.

    resource: attributes of what has sent it. failed: whether its status is an error. Texts may have surrogates for
    bytes that are not UTF-8; a value of an array or a map is COMPOUND.
    """

    resource: Mapping[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    trace_id: bytes = b""
    span_id: bytes = b""
    name: str = ""
    start_ns: int = 0
    end_ns: int = 0
    failed: bool = False


class Place(NamedTuple):
    """Position of a span in a message. resource: bounds of its ResourceSpans. scope: of its ScopeSpans."""

    start: int
    end: int
    resource: tuple[int, int]
    scope: tuple[int, int]


def places(data: bytes) -> Iterator[Place]:
    """Yield where each span of a message is. Raises Malformed."""
    for resource in fields(data, 0, len(data)):
        if (resource.number, resource.wire) == (1, BYTES):
            for scope in fields(data, resource.start, resource.end):
                if (scope.number, scope.wire) == (2, BYTES):
                    for span in fields(data, scope.start, scope.end):
                        if (span.number, span.wire) == (2, BYTES):
                            yield Place(span.start, span.end, (resource.start, resource.end), (scope.start, scope.end))


def may_be_call(data: bytes, place: Place) -> bool:
    """Return whether a span has a mark of a call; without one it is none."""
    return any(data.find(mark, place.start, place.end) >= 0 for mark in _MARKS)


def may_be_read(data: bytes, start: int, end: int) -> bool:
    """Return whether an event may have something that is read; any other is passed over."""
    return any(data.find(name, start, end) >= 0 for name in _EVENTS)


def resource_attributes(data: bytes, start: int, end: int) -> dict[str, Any]:
    """Return the attributes of the resource of the ResourceSpans at start:end. Raises Malformed."""
    found: dict[str, Any] = {}
    for part in fields(data, start, end):
        if (part.number, part.wire) == (1, BYTES):
            found.update(attributes_of(data, part.start, part.end))
    return found


def attributes_of(data: bytes, start: int, end: int) -> dict[str, Any]:
    """Return the attributes of the Resource at start:end. Raises Malformed."""
    return _attributes(data, start, end, 1)


def read_span(data: bytes, place: Place, resource: Mapping[str, Any]) -> OtelSpan:
    """Return what the span at a place says. Raises Malformed."""
    span = OtelSpan(resource)
    for part in fields(data, place.start, place.end):
        kind = part.number, part.wire
        if kind == (9, BYTES):
            span.attributes.update(_attribute(data, part.start, part.end))
        elif kind == (1, BYTES):
            span.trace_id = data[part.start : part.end]
        elif kind == (2, BYTES):
            span.span_id = data[part.start : part.end]
        elif kind == (5, BYTES):
            span.name = _text(data, part.start, part.end)
        elif kind == (7, FIXED64):
            span.start_ns = _fixed64(data, part.start)
        elif kind == (8, FIXED64):
            span.end_ns = _fixed64(data, part.start)
        elif kind == (11, BYTES) and may_be_read(data, part.start, part.end):
            span.events.append(_event(data, part.start, part.end))
        elif kind == (15, BYTES):
            for status in fields(data, part.start, part.end):
                if (status.number, status.wire) == (3, VARINT):
                    # An enum is a number of 32 bits.
                    span.failed = status.value & 0xFFFFFFFF == 2
    return span


def one_span(data: bytes, ordinal: int) -> bytes:
    """Return the message that has one span of another, with its resource and scope. ordinal: of the span, from 0.

    Raises LookupError where the message has no such span.
    """
    place = list(places(data))[ordinal]
    scope = _without(data, *place.scope, number=2) + write_bytes(2, data[place.start : place.end])
    return write_bytes(1, _without(data, *place.resource, number=2) + write_bytes(2, scope))


def _without(data: bytes, start: int, end: int, *, number: int) -> bytes:
    """Return the bytes of a message without its fields of a number."""
    return b"".join(data[part.tag : part.end] for part in fields(data, start, end) if part.number != number)


def _event(data: bytes, start: int, end: int) -> Event:
    name, time_ns = "", 0
    for part in fields(data, start, end):
        if (part.number, part.wire) == (2, BYTES):
            name = _text(data, part.start, part.end)
        elif (part.number, part.wire) == (1, FIXED64):
            time_ns = _fixed64(data, part.start)
    return Event(name, time_ns, _attributes(data, start, end, 3))


def _attributes(data: bytes, start: int, end: int, number: int) -> dict[str, Any]:
    """Return the attributes of a message, which are its fields of a number. Of a key that repeats the last holds."""
    found: dict[str, Any] = {}
    for part in fields(data, start, end):
        if (part.number, part.wire) == (number, BYTES):
            found.update(_attribute(data, part.start, part.end))
    return found


def _attribute(data: bytes, start: int, end: int) -> dict[str, Any]:
    key, value = "", None
    for part in fields(data, start, end):
        if (part.number, part.wire) == (1, BYTES):
            key = _text(data, part.start, part.end)
        elif (part.number, part.wire) == (2, BYTES):
            value = _value(data, part.start, part.end, value)
    return {key: value}


def _value(data: bytes, start: int, end: int, value: Any) -> Any:
    """Return an AnyValue. value: what it is without a field."""
    for part in fields(data, start, end):
        kind = part.number, part.wire
        if kind == (1, BYTES):
            value = _text(data, part.start, part.end)
        elif kind == (2, VARINT):
            value = part.value != 0
        elif kind == (3, VARINT):
            value = part.value - (1 << 64) if part.value >> 63 else part.value
        elif kind == (4, FIXED64):
            (value,) = struct.unpack_from("<d", data, part.start)
        elif kind in ((5, BYTES), (6, BYTES)):
            value = COMPOUND
        elif kind == (7, BYTES):
            value = data[part.start : part.end]
    return value


def _text(data: bytes, start: int, end: int) -> str:
    return data[start:end].decode("utf-8", "surrogateescape")


def _fixed64(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 8], "little")

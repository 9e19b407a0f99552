"""A message of OTLP in JSON, read to the same spans as one in protobuf.

As OTLP has it: names in lowerCamelCase (those of the fields are taken too), ids in hex, 64-bit numbers as text or as
numbers, and unknown names are passed over.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tokentrace.decode.json_text import parse_json
from tokentrace.decode.otlp.message import COMPOUND, Event, OtelSpan
from tokentrace.decode.otlp.wire import Malformed
from tokentrace.model.conventions import MARKS

_FAILED: Final = (2, "2", "STATUS_CODE_ERROR")
_TRACES: Final = ("resourceSpans", "resource_spans")
_SCOPES: Final = ("scopeSpans", "scope_spans")
_COMPOUND: Final = ("arrayValue", "array_value", "kvlistValue", "kvlist_value")
_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = range(2**64)


class JsonPlace(NamedTuple):
    """A span as JSON, with the scope and the resource that it is in."""

    span: Mapping[str, Any]
    resource: Mapping[str, Any]
    scope: Mapping[str, Any]


def parse(value: bytes) -> Mapping[str, Any]:
    """Return a message as JSON. Raises Malformed."""
    try:
        found = parse_json(value)
    except ValueError as error:
        raise Malformed(str(error)) from error
    return _object(found, "the message")


def has_traces(message: Mapping[str, Any]) -> bool:
    """Return whether a message is one of traces."""
    return any(name in message for name in _TRACES)


def json_places(message: Mapping[str, Any]) -> Iterator[JsonPlace]:
    """Yield each span of a message. Raises Malformed."""
    for resource in _objects(message, *_TRACES):
        for scope in _objects(resource, *_SCOPES):
            for span in _objects(scope, "spans"):
                yield JsonPlace(span, resource, scope)


def may_be_call(place: JsonPlace) -> bool:
    """Return whether a span has an attribute with a mark of a call; without one it is none."""
    return any(str(item.get("key")).startswith(MARKS) for item in _objects(place.span, "attributes"))


def resource_attributes(place: JsonPlace) -> dict[str, Any]:
    """Return the attributes of the resource that a span is of. Raises Malformed."""
    return _attributes(_object(_get(place.resource, "resource") or {}, "resource"))


def read_span(place: JsonPlace, resource: Mapping[str, Any]) -> OtelSpan:
    """Return what a span says. Raises Malformed."""
    span = place.span
    status = _object(_get(span, "status") or {}, "status")
    return OtelSpan(
        resource,
        _attributes(span),
        [
            Event(
                str(_get(event, "name") or ""),
                _number(event, _UINT64, "timeUnixNano", "time_unix_nano"),
                _attributes(event),
            )
            for event in _objects(span, "events")
        ],
        _id(span, "traceId", "trace_id"),
        _id(span, "spanId", "span_id"),
        _text(str(_get(span, "name") or "")),
        _number(span, _UINT64, "startTimeUnixNano", "start_time_unix_nano"),
        _number(span, _UINT64, "endTimeUnixNano", "end_time_unix_nano"),
        _get(status, "code") in _FAILED,
    )


def one_span(message: Mapping[str, Any], ordinal: int) -> bytes:
    """Return the message that has one span of another, with its resource and scope. ordinal: of the span, from 0.

    Raises LookupError where the message has no such span.
    """
    place = list(json_places(message))[ordinal]
    scope = {name: item for name, item in place.scope.items() if name != "spans"} | {"spans": [place.span]}
    resource = {name: item for name, item in place.resource.items() if name not in _SCOPES}
    try:
        return _written({**resource, "scopeSpans": [scope]})
    except RecursionError:
        # What Python reads it cannot always write. Arrays and maps, which alone are nested, are never read here.
        scope, resource = {"spans": [_flat(place.span)]}, _flat({"resource": place.resource.get("resource")})
        return _written({**resource, "scopeSpans": [scope]})


def _written(resource: Mapping[str, Any]) -> bytes:
    return json.dumps({"resourceSpans": [resource]}, separators=(",", ":")).encode()


def _flat(found: Any) -> Any:
    """Return a part of a message without what no field of a call is made from: the values of arrays and of maps."""
    if isinstance(found, dict):
        return {name: _flat(item) for name, item in found.items() if name not in _COMPOUND and name != "links"}
    return [_flat(item) for item in found] if isinstance(found, list) else found


def _get(found: Mapping[str, Any], *names: str) -> Any:
    return next((found[name] for name in names if found.get(name) is not None), None)


def _object(found: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise Malformed(f"{name} is not an object")
    return found


def _objects(found: Mapping[str, Any], *names: str) -> list[Any]:
    items = _get(found, *names)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Malformed(f"{names[0]} is not an array of objects")
    return items


def _attributes(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(_get(item, "key") or ""): _value(_object(_get(item, "value") or {}, "value"))
        for item in _objects(found, "attributes")
    }


def _value(found: Mapping[str, Any]) -> Any:
    for name, item in found.items():
        if item is None:
            continue
        if name in ("stringValue", "string_value"):
            if not isinstance(item, str):
                raise Malformed("stringValue is not a text")
            return _text(item)
        if name in ("boolValue", "bool_value"):
            return bool(item)
        if name in ("intValue", "int_value"):
            return _number(found, _INT64, name)
        if name in ("doubleValue", "double_value"):
            return _double(item)
        if name in ("bytesValue", "bytes_value"):
            try:
                return base64.b64decode(item, validate=True)
            except (TypeError, ValueError) as error:
                raise Malformed("bytesValue is not in base64") from error
        if name in _COMPOUND:
            return COMPOUND
    return None


def _text(item: str) -> str:
    """Return a text with each half of a surrogate pair as the bytes that it has, which are not UTF-8."""
    try:
        item.encode()
    except UnicodeEncodeError:
        return item.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    return item


def _number(found: Mapping[str, Any], limits: range, *names: str) -> int:
    """Return a whole number, 0 where there is none: JSON has 64-bit numbers as text."""
    item = _get(found, *names)
    try:
        if isinstance(item, (bool, list, dict)) or (isinstance(item, float) and not item.is_integer()):
            raise ValueError
        number = int(item or 0)
    except ValueError as error:
        raise Malformed(f"{names[0]} is not a whole number") from error
    if number not in limits:
        raise Malformed(f"{names[0]} has more than 64 bits")
    return number


def _double(item: Any) -> float:
    try:
        if isinstance(item, (bool, list, dict)):
            raise ValueError
        return float(item)
    except (ValueError, OverflowError) as error:
        raise Malformed("doubleValue is not a number") from error


def _id(found: Mapping[str, Any], *names: str) -> bytes:
    item = _get(found, *names)
    try:
        return binascii.unhexlify(item or "")
    except (TypeError, ValueError) as error:
        raise Malformed(f"{names[0]} is not in hex") from error

"""JSON spans: plain JSON objects with the span's field names, rewritten as Avro messages of the bundled schema.

What follows decodes them as those of any publisher. It is strict, because nothing else checks them: an unknown field, a
value of another type, a key that is there twice and NaN reject the message, each in a sentence of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from tokentrace.decode.json_text import parse_json
from tokentrace.model.bundled_schemas import bundled_schema
from tokentrace.model.messages import OTHER_GROUP_VALUE, Reject
from tokentrace.model.reasons import WHOLE
from tokentrace.model.span_encoder import span_encoder

_INT64: Final = range(-(2**63), 2**63)
#: Above it a number with a point has no exact whole value.
_EXACT: Final = 2.0**53

#: Kind of a field -> its name in sentences.
_IN_WORDS: Final = {
    "long": "a whole number",
    "double": "a number",
    "string": "a text",
    "enum": "a text",
    "boolean": "true or false",
    "attributes": "an object of texts, numbers, true, false and null",
    "units": "an object of numbers",
}


class _Refused(Exception):
    """A message that is rejected: (reason, sentence)."""


def json_messages(values: Sequence[bytes | None]) -> tuple[list[bytes | None], list[Reject]]:
    """Return (n messages in single-object encoding, rejects).

    The value of a rejected row is empty. Values without content stay as they are.
    """
    messages: list[bytes | None] = []
    rejects = []
    encoder = span_encoder()
    for row, value in enumerate(values):
        if not value or value is OTHER_GROUP_VALUE:
            messages.append(value)
            continue
        try:
            messages.append(encoder.header + encoder.datum(_span(value)))
        except _Refused as error:
            reason, why = error.args
            rejects.append(Reject(row, reason, why))
            messages.append(b"")
    return messages, rejects


def _span(value: bytes) -> dict[str, Any]:
    """Parse and check one message. Raises _Refused."""
    given = _parsed(value)
    if not isinstance(given, dict):
        raise _malformed(f"it is {_in_words(given)}, not an object")
    span: dict[str, Any] = {}
    names = _names()
    for key, item in given.items():
        known = names.get(key)
        if known is None:
            raise _Refused("unknown_field", f"The span has no field {_short(key)}; docs/publishing.md lists them.")
        if item is None:
            continue
        name, kind, symbols = known
        if name in span:
            raise _malformed(f"{name} is there twice, once by another name")
        span[name] = _checked(key, kind, symbols, item)
    # Without a model, the span is rejected as those of other framings are.
    span.setdefault("model", "")
    return span


def _parsed(value: bytes) -> Any:
    try:
        return parse_json(value, object_pairs_hook=_object, parse_constant=_constant)
    except ValueError as error:
        raise _malformed(str(error)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _malformed(f"{_short(next(name for name in names if names.count(name) > 1))} is there twice")
    return found


def _constant(name: str) -> Any:
    raise _malformed(f"{name} is not JSON")


def _malformed(why: str) -> _Refused:
    return _Refused("malformed", f"The value is not a JSON object of a span: {why}.")


@cache
def _names() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Field or alias -> (field, kind, symbols of an enum)."""
    names: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for field in bundled_schema("span")["fields"]:
        kind, symbols = field["type"], ()
        if isinstance(kind, list):
            (kind,) = (branch for branch in kind if branch != "null")
        if isinstance(kind, dict):
            symbols = tuple(kind.get("symbols", ()))
            kind = ("units" if kind["values"] == "double" else "attributes") if kind["type"] == "map" else kind["type"]
        for name in (field["name"], *field.get("aliases", ())):
            names[name] = (field["name"], kind, symbols)
    return names


def _checked(key: str, kind: str, symbols: tuple[str, ...], value: Any) -> Any:
    """Return the value as the encoder takes it. Raises _Refused."""
    if symbols and isinstance(value, str):
        if value not in symbols:
            raise _Refused("unknown_status", WHOLE["unknown_status"].rstrip(".") + f" ({_short(value)}).")
        return value
    if kind in ("attributes", "units"):
        if not isinstance(value, dict):
            raise _mismatch(key, kind, value)
        item_kind = "scalar" if kind == "attributes" else "double"
        return {
            name: _checked_item(f"{key}[{_short(name)}]", item_kind, item)
            for name, item in value.items()
            if item is not None or kind == "attributes"
        }
    if not _FITS[kind](value):
        raise _mismatch(key, kind, value)
    if kind == "long":
        return int(value)
    if kind == "string":
        return _text(key, value)
    return value


def _checked_item(key: str, kind: str, value: Any) -> Any:
    _text(key, key)
    if kind == "scalar" and (value is None or isinstance(value, (bool, int, float))):
        return value
    if kind == "scalar" and isinstance(value, str):
        return _text(key, value)
    if kind == "double" and _FITS["double"](value):
        return value
    raise _mismatch(key, "double" if kind == "double" else "attributes", value)


def _text(key: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Refused(
            "invalid_utf8", f"Field {key} has half of a surrogate pair, which is not valid UTF-8."
        ) from error
    return value


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer() and abs(value) <= _EXACT
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def _is_number(value: Any) -> bool:
    # A whole number that is larger than any double cannot be converted.
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value in _INT64)


_FITS: Final[dict[str, Callable[[Any], bool]]] = {
    "long": _is_whole,
    "double": _is_number,
    "string": lambda value: isinstance(value, str),
    "enum": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
}


def _mismatch(key: str, kind: str, value: Any) -> _Refused:
    return _Refused("type_mismatch", f"Field {key!r} is {_in_words(value)}; it takes {_IN_WORDS[kind]}.")


def _in_words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"the number {_short(value)}"
    return "a text" if isinstance(value, str) else "an array" if isinstance(value, list) else "an object"


def _short(value: Any) -> str:
    """At most 40 characters of a value, printable."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

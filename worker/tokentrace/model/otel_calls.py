"""Calls of models among the spans of OpenTelemetry: which spans are calls, and the fields that their attributes give.

A span whose operation is a call is counted. Agents, tools, workflows and chains wrap calls and repeat their usage, so
they are not. A span without an operation, as instrumentations wrote them before there was one, is a call if it names
a provider and a model and has usage.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from tokentrace.model.conventions import (
    CALLS,
    FIRST_TOKEN_EVENT,
    MEANINGS,
    OPERATION_KEYS,
    PARAMETERS_KEY,
    SCORE_EVENT,
    TIMEOUTS,
    USAGE_FIELDS,
    Meaning,
)

#: Above it a number with a point has no exact whole value.
_EXACT: Final = 2.0**53
_KEYS: Final = {meaning.field: meaning.keys for meaning in MEANINGS}
#: Of each of these groups of fields, a span without an operation needs one to be a call.
_NEEDED: Final = (("model",), ("provider",), USAGE_FIELDS)
_EXPECTED: Final = {"text": "a text", "count": "a whole number", "seconds": "a number", "score": "a number"}


class WrongType(ValueError):
    """An attribute of a call that has a value of another type than its meaning takes."""


def operation_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the operation of a span in small letters, None if nothing names it."""
    for key in OPERATION_KEYS:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            return value.lower()
    return None


def call_fields(attributes: Mapping[str, Any], calls: Collection[str] = CALLS) -> dict[str, Any] | None:
    """Return the fields that attributes give of a call of a model; None if they are of something else.

    calls: operations that are calls. The ttft is in seconds. Raises WrongType.
    """
    operation = operation_of(attributes)
    if operation is not None and operation not in calls:
        return None
    if operation is None and not all(any(_has(attributes, name) for name in names) for names in _NEEDED):
        return None
    found = ((meaning.field, _value(attributes, meaning)) for meaning in MEANINGS)
    fields = {name: value for name, value in found if value is not None}
    if "model" not in fields and (model := _requested(attributes.get(PARAMETERS_KEY))):
        fields["model"] = model
    return fields


def _requested(parameters: Any) -> str:
    """Return the model in the parameters of a call, empty where they do not have it."""
    try:
        found = json.loads(parameters) if isinstance(parameters, str) else None
    except (ValueError, RecursionError):
        return ""
    model = found.get("model") if isinstance(found, dict) else None
    # Half of a surrogate pair has no bytes.
    return model.encode("utf-8", "replace").decode() if isinstance(model, str) else ""


def _has(attributes: Mapping[str, Any], name: str) -> bool:
    return any(attributes.get(key) not in (None, "") for key in _KEYS[name])


def _value(attributes: Mapping[str, Any], meaning: Meaning) -> Any:
    """Return the value of the first attribute that gives a field, None where none does."""
    for key in meaning.keys:
        value = attributes.get(key)
        if value is None or value == "":
            continue
        if meaning.kind == "text":
            fits = isinstance(value, str)
        elif meaning.kind == "score":
            # Whether it is one is for validation to say, which counts the call without it.
            return float(value) if _is_number(value) else float("nan")
        elif meaning.kind == "count":
            fits = _is_number(value) and (isinstance(value, int) or (value.is_integer() and abs(value) <= _EXACT))
            value = int(value) if fits else value
        else:
            fits = _is_number(value)
        if not fits:
            raise WrongType(f"Attribute {key!r} is {_short(value)}; it takes {_EXPECTED[meaning.kind]}.")
        return value
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def status_of(error: str | None, failed: bool) -> str:
    """Return the status of a call. error: its kind, if it has one. failed: whether the span's own status says so."""
    if not error:
        return "error" if failed else "ok"
    return "timeout" if any(word in error.lower() for word in TIMEOUTS) else "error"


def score_of(name: str, attributes: Mapping[str, Any]) -> float | None:
    """Return the score in an event of a span: NaN for one that is not a number, None for any other event."""
    if name != SCORE_EVENT[0]:
        return None
    value = attributes.get(SCORE_EVENT[1])
    if value is None:
        return None
    return float(value) if _is_number(value) else float("nan")


def is_first_token(name: str) -> bool:
    """Return whether an event of a span is the first token of a streamed answer."""
    return name == FIRST_TOKEN_EVENT

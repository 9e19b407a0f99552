"""Field types of the configuration: durations, addresses, rates; each turns text into a value or says why not."""

from __future__ import annotations

import itertools
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from tokentrace.model.durations import duration, format_duration, positive_duration

_DURATION_SCHEMA: Final = {
    "type": "string",
    "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$",
    "examples": ["500ms", "15s", "5m"],
}

#: Seconds, zero allowed.
Duration = Annotated[
    float, BeforeValidator(duration), PlainSerializer(format_duration), WithJsonSchema(_DURATION_SCHEMA)
]
#: Seconds, more than zero.
PositiveDuration = Annotated[
    float, BeforeValidator(positive_duration), PlainSerializer(format_duration), WithJsonSchema(_DURATION_SCHEMA)
]


def _whole_minutes(value: Any) -> float:
    seconds = positive_duration(value)
    if seconds % 60:
        raise ValueError(f"{value} is not a whole number of minutes, and spans are summed up by the minute")
    return seconds


#: Seconds, a multiple of 60.
WholeMinutes = Annotated[
    float, BeforeValidator(_whole_minutes), PlainSerializer(format_duration), WithJsonSchema(_DURATION_SCHEMA)
]


class HostPort(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        host = "" if self.host == "0.0.0.0" else f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _address(value: Any) -> HostPort:
    if isinstance(value, HostPort):
        return value
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]*):(\d{1,5})", value) if isinstance(value, str) else None
    if match is None or int(match[2]) > 65535:
        raise ValueError(f'{value!r} is no address; write ":9090", "127.0.0.1:9090" or "[::1]:9090"')
    return HostPort(match[1].strip("[]") or "0.0.0.0", int(match[2]))


ListenAddress = Annotated[
    HostPort,
    BeforeValidator(_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": [":9090", "127.0.0.1:9090", "[::1]:9090"]}),
]


def _rate(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError(f"{value!r} is no price in USD")
    try:
        # A YAML float is read by its shortest text, so that 0.15 is exactly 0.15.
        rate = Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError(f"{value!r} is no price in USD") from error
    if not rate.is_finite() or rate < 0:
        raise ValueError(f"{value!r} is no price in USD: it must be finite and not negative")
    return rate


#: USD a million tokens, exact.
UsdPerMillion = Annotated[
    Decimal, BeforeValidator(_rate), PlainSerializer(str), WithJsonSchema({"type": "number", "minimum": 0})
]


def _bounds(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("must be a list of upper bounds")
    if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in value):
        raise ValueError("must hold numbers only")
    bounds = tuple(float(each) for each in value)
    if not all(math.isfinite(each) and each > 0 for each in bounds):
        raise ValueError("must hold positive, finite numbers; the bucket +Inf is added by itself")
    if any(left >= right for left, right in itertools.pairwise(bounds)):
        raise ValueError("must ascend")
    if len(bounds) > 200:
        raise ValueError("must not have more than 200 bounds")
    return bounds


Bounds = Annotated[
    tuple[float, ...],
    BeforeValidator(_bounds),
    WithJsonSchema({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 1}),
]

"""Field types of the configuration: durations, addresses, prices and bucket bounds, parsed from YAML values."""

from __future__ import annotations

import itertools
import math
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from tokentrace.config.hints import number_meant
from tokentrace.model.durations import duration, format_duration, positive_duration
from tokentrace.model.secrets import public_url

#: Largest factor of a modifier.
MAX_FACTOR: Final = 20
#: Largest amount of a budget.
MAX_AMOUNT_USD: Final = 1_000_000_000_000
#: Nano-dollars of a dollar.
NANO: Final = 10**9
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

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
        raise ValueError(f"{value} is not a whole number of minutes; use for example 1m, 15m or 1h")
    return seconds


#: Seconds, a multiple of 60.
WholeMinutes = Annotated[
    float, BeforeValidator(_whole_minutes), PlainSerializer(format_duration), WithJsonSchema(_DURATION_SCHEMA)
]


class HostPort(NamedTuple):
    """Listen address."""

    host: str
    port: int

    def __str__(self) -> str:
        host = "" if self.host == "0.0.0.0" else f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _address(value: Any) -> HostPort:
    if isinstance(value, HostPort):
        return value
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]*):(\d{1,5})", value) if isinstance(value, str) else None
    if match is None or int(match[2]) > 65535:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
            raise ValueError(f'{value} is a port alone; write ":{value}" for every interface, or "127.0.0.1:{value}"')
        raise ValueError(f"{value!r} is not a valid address; {_address_meant(value)}")
    return HostPort(match[1].strip("[]") or "0.0.0.0", int(match[2]))


def _address_meant(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    if found := re.fullmatch(r"https?://([A-Za-z0-9.-]*:\d{1,5})/?", text):
        return f"write {found[1]} alone, and certificates make it HTTPS"
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+|localhost", text):
        return f'write its port too, such as "{text}:9090"'
    if found := re.fullmatch(r"(\*)?(:\d{1,5})/.*|\*(:\d{1,5})", text):
        port = found[2] or found[3]
        return f'write "{port}"' + ("; the path is prometheus_path" if found[2] else " for every interface")
    return 'use for example ":9090", "127.0.0.1:9090" or "[::1]:9090"'


ListenAddress = Annotated[
    HostPort,
    BeforeValidator(_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": [":9090", "127.0.0.1:9090", "[::1]:9090"]}),
]


def _number(value: Any, what: str, percent: Decimal | None = None) -> Decimal:
    if value is None:
        raise ValueError("is empty; write a number")
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError(f"{value!r} is not a valid {what}")
    try:
        # The text of a YAML float keeps 0.15 exactly 0.15.
        rate = Decimal(getattr(value, "text", str(value)).replace("_", ""))
    except InvalidOperation as error:
        meant = number_meant(value, percent=percent) if isinstance(value, str) else ""
        raise ValueError(f"{value!r} is not a valid {what}" + (f"; write {meant}" if meant else "")) from error
    if not rate.is_finite() or rate < 0:
        raise ValueError(f"{value!r} is not a valid {what}; it must be finite and not negative")
    return rate


def _usd(value: Any) -> Decimal:
    return _number(value, "USD price")


#: USD per million tokens, exact.
UsdPerMillion = Annotated[
    Decimal,
    BeforeValidator(_usd),
    PlainSerializer(str),
    WithJsonSchema({"type": "number", "minimum": 0}),
]


#: USD, exact, for the quantity that the price of a unit is for.
UsdPrice = UsdPerMillion


def _amount(value: Any) -> Decimal:
    amount = _number(value, "amount in USD")
    if not 0 < amount <= MAX_AMOUNT_USD:
        raise ValueError(f"{value!r} is not a likely amount; it must be more than 0 and at most {MAX_AMOUNT_USD:,} USD")
    if amount * NANO % 1:
        raise ValueError(f"{value!r} has more than nine decimals; the smallest amount is a nano-dollar")
    return amount


#: USD, exact, a whole number of nano-dollars.
UsdAmount = Annotated[
    Decimal,
    BeforeValidator(_amount),
    PlainSerializer(str),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": MAX_AMOUNT_USD}),
]


def _moment(value: Any) -> int:
    """Return microseconds since the epoch of a YAML date or time, or of their text; without a zone it is UTC."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    if not isinstance(moment, datetime):
        meant = _date_meant(str(value)) or "for example 2026-07-01, or 2026-07-01T12:00:00Z"
        raise ValueError(f"{value!r} is not a date; write {meant}")
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _date_meant(text: str) -> str:
    """Return the date that a text in another order of its parts means, empty if none."""
    for shape, form in (
        (r"(\d{4})-(\d\d?)", "{0}-{1:0>2}-01"),
        (r"(\d{4})[/.](\d\d?)[/.](\d\d?)", "{0}-{1:0>2}-{2:0>2}"),
        (r"(\d\d?)\.(\d\d?)\.(\d{4})", "{2}-{1:0>2}-{0:0>2}"),
        (r"(20\d\d)(\d\d)(\d\d)", "{0}-{1}-{2}"),
    ):
        if found := re.fullmatch(shape, text.strip()):
            return form.format(*found.groups())
    return ""


def format_moment(time_us: int) -> str:
    """Return a time as text, without the time of day where it is midnight UTC."""
    moment = _EPOCH + timedelta(microseconds=time_us)
    return f"{moment:%Y-%m-%d}" if time_us % 86_400_000_000 == 0 else moment.isoformat()


#: Microseconds since the epoch.
Moment = Annotated[
    int,
    BeforeValidator(_moment),
    PlainSerializer(format_moment),
    WithJsonSchema({"type": "string", "examples": ["2026-07-01", "2026-07-01T12:00:00Z"]}),
]


def _percent(value: Any) -> Decimal:
    percent = _number(value, "number", Decimal(1))
    if not 0 < percent <= 100:
        raise ValueError(f"{value!r} is not a discount; it must be more than 0 and at most 100 percent")
    return percent


def _factor(value: Any) -> Decimal:
    factor = _number(value, "number", Decimal("0.01"))
    if factor > MAX_FACTOR:
        raise ValueError(f"{value!r} is not a likely factor; it must be at most {MAX_FACTOR}, and 0.5 halves a price")
    return factor


#: Part of a price in percent, exact.
Percent = Annotated[
    Decimal,
    BeforeValidator(_percent),
    PlainSerializer(str),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 100}),
]
#: Factor on a price, exact.
Factor = Annotated[
    Decimal,
    BeforeValidator(_factor),
    PlainSerializer(str),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_FACTOR}),
]


def _bounds(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("must be a list of upper bounds")
    if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in value):
        raise ValueError("must contain only numbers")
    bounds = tuple(float(bound) for bound in value)
    if not all(math.isfinite(bound) and bound > 0 for bound in bounds):
        raise ValueError("must contain positive, finite numbers; the +Inf bucket is added automatically")
    if any(left >= right for left, right in itertools.pairwise(bounds)):
        raise ValueError("must be in ascending order")
    if len(bounds) > 200:
        raise ValueError("must have at most 200 bounds")
    return bounds


def http_url(value: str) -> str:
    """Return the URL. Raises ValueError for one that is not of a web server; it does not quote what may be secret."""
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    if "," in value.partition("://")[2].partition("/")[0]:
        raise ValueError("must be one URL, and has a comma")
    try:
        host, _ = (parts := urlsplit(value)).hostname, parts.port
    except ValueError as error:
        raise ValueError("is not a valid URL; its port must be a number from 0 to 65535") from error
    if not host or any(character.isspace() for character in value):
        raise ValueError("is not a valid URL; write https://host:port/path without spaces")
    return value


def _public_url(url: str) -> str:
    return public_url(url) if url else url


#: URL whose credentials, path and query may be secret.
SecretUrl = Annotated[str, PlainSerializer(_public_url, when_used="json")]

Bounds = Annotated[
    tuple[float, ...],
    BeforeValidator(_bounds),
    WithJsonSchema({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 1}),
]


def _distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) != len(labels):
        raise ValueError("contains a label twice")
    return labels


def _time_zone(value: str) -> str:
    # "localtime" is whatever the machine has, which is another zone on another replica.
    if value == "UTC" or value in available_timezones() - {"localtime"}:
        return value
    near = get_close_matches(value, available_timezones(), 1)
    hint = f'; did you mean "{near[0]}"?' if near else "; use a name of the IANA database, such as Europe/Berlin"
    raise ValueError(f"{value!r} is not a time zone{hint}")


#: Name of a time zone in the IANA database.
TimeZone = Annotated[str, AfterValidator(_time_zone), Field(examples=["Europe/Berlin"])]

#: Labels, each once.
DistinctLabels = Annotated[tuple[str, ...], AfterValidator(_distinct)]

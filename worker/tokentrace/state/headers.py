"""Headers of the durable records: what travels beside a record, which itself stays that of every release."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tokentrace.errors import UnreadableRecord

Header = tuple[str, str | bytes | None]
#: As the Kafka client gives them.
Headers = dict[str, str | bytes | None] | list[Header] | None

_Decoded = TypeVar("_Decoded")


def header_items(headers: Headers) -> Iterable[Header]:
    """Return the headers of a record one by one."""
    return headers.items() if isinstance(headers, dict) else headers or ()


def read_header(headers: Headers, name: str, decode: Callable[[Any], _Decoded]) -> _Decoded | None:
    """Return a header of a record, decoded, None where it has none of this name. Raises as `decode_header`."""
    for key, value in header_items(headers):
        if key == name and value is not None:
            return decode_header(name, value, decode)
    return None


def decode_header(name: str, value: str | bytes, decode: Callable[[Any], _Decoded]) -> _Decoded:
    """Return the value of a header, decoded. Raises UnreadableRecord for one that `decode` rejects."""
    try:
        return decode(value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnreadableRecord(f"The header {name} of a record is damaged ({error!r}).") from error

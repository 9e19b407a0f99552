"""Decimals: amounts of money in Avro's logical type `decimal`, as US dollars that are exact to the nano-dollar.

A decimal is a whole number, big-endian in two's complement, of 10^-scale. It is rounded to nano-dollars, half to even.
Below 2^53 of them the nearest double gives the same nano-dollars back, and no cost that is accepted has more.
"""

from __future__ import annotations

import math
from typing import Any, Final

NANO_DIGITS: Final = 9
#: Largest scale that is computed with; Java's largest decimal has a precision of 38.
MAX_SCALE: Final = 100
#: Most nano-dollars that a double has exactly.
MOST_NANO_USD: Final = 2**53


def decimal_scale(schema: dict[str, Any]) -> int | None:
    """Return the scale of a decimal's schema, None for any other; an invalid decimal is its bytes, as Avro says."""
    if schema.get("logicalType") != "decimal":
        return None
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if (
        not isinstance(precision, int)
        or precision < 1
        or not isinstance(scale, int)
        or not 0 <= scale <= min(precision, MAX_SCALE)
    ):
        return None
    return scale


def usd_of(data: bytes, scale: int) -> float:
    """Return a decimal as US dollars: NaN if it has no bytes, and infinite if it is beyond every double."""
    if not data:
        return math.nan
    nano: int
    value, shift = int.from_bytes(data, "big", signed=True), scale - NANO_DIGITS
    if shift <= 0:
        nano = value * 10**-shift
    else:
        divisor = 10**shift
        nano, rest = divmod(value, divisor)
        nano += 2 * rest > divisor or (2 * rest == divisor and nano & 1)
    try:
        return nano / 10**NANO_DIGITS
    except OverflowError:
        return math.inf if nano > 0 else -math.inf

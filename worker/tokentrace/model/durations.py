"""Durations as text: `500ms`, `15s`, `5m`, `1h`, `7d`; seconds inside."""

from __future__ import annotations

import re
from typing import Any, Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration(value: Any) -> float:
    """Seconds of a duration, zero allowed. Raises ValueError with what to write instead."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"invalid duration {value}; use a number and a unit, e.g. 500ms, 15s, 5m, 1h")
    raise ValueError(f"invalid duration {value!r}; use a number and a unit, e.g. 500ms, 15s, 5m, 1h")


def positive_duration(value: Any) -> float:
    """Seconds of a duration above zero. Raises ValueError with what to write instead."""
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError("must be longer than zero")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that gives these seconds back."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds / _UNITS[unit])}{unit}"
    return f"{seconds * 1000:g}ms"

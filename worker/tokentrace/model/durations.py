"""Durations as text: `500ms`, `15s`, `5m`, `1h`, `7d`; seconds inside."""

from __future__ import annotations

import re
from typing import Any, Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WORDS: Final = {
    word: seconds
    for words, seconds in {
        "ms msec msecs millis millisecond milliseconds": 0.001, "s sec secs second seconds": 1.0,
        "m min mins minute minutes": 60.0, "h hr hrs hour hours": 3600.0, "d day days": 86400.0,
        "w week weeks": 604800.0,
    }.items()
    for word in words.split()
}  # fmt: skip
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)")
#: Longest duration, 100 years; timers and dates fail for longer ones.
_LONGEST_S: Final = 36_525 * 86_400.0
#: Most characters of a wrong duration that an error quotes.
_QUOTED: Final = 60
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration(value: Any) -> float:
    """Seconds of a duration, zero allowed. Raises ValueError with what to write instead."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNITS[match[2]]
        if seconds > _LONGEST_S:
            raise ValueError(f"invalid duration {value[:_QUOTED]!r}; it is longer than 100 years")
        return seconds
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"invalid duration {value}; use a number and a unit, e.g. 500ms, 15s, 5m, 1h")
    text = value[:_QUOTED] if isinstance(value, str) else value
    meant = _meant(text.replace(",", ".")) if isinstance(text, str) else ""
    hint = f"did you mean {meant}?" if meant else "use a number and a unit, e.g. 500ms, 15s, 5m, 1h"
    raise ValueError(f"invalid duration {text!r}; {hint}")


def _meant(text: str) -> str:
    """Return the duration that a text such as 1m30s, 5 min or 2 weeks means, empty if it is none."""
    if not re.fullmatch(rf"(\s*{_PART.pattern})+\s*", text, re.IGNORECASE):
        return ""
    parts = [(float(number), _WORDS.get(word.lower(), 0.0)) for number, word in _PART.findall(text)]
    seconds = sum(number * unit for number, unit in parts)
    return "" if any(not unit for _, unit in parts) or seconds > _LONGEST_S else format_duration(seconds)


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

from __future__ import annotations


def seconds(text: str) -> float:
    """Return the seconds of a duration such as 40s, 10m or 2h."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    return float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text)

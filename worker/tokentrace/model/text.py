"""Text from spans and records, which anybody may have written, made safe to show."""

from __future__ import annotations

from datetime import UTC, datetime


def printable(text: str) -> str:
    """Escape what a terminal or a log viewer would interpret: control characters, line breaks, changes of direction."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def first_bytes(data: bytes, most: int) -> str:
    """Return the beginning of bytes: in quotes if it is printable text, else in hex; `...` if there is more."""
    beginning, more = data[:most], "..." if len(data) > most else ""
    try:
        text = beginning.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    return f'"{text}"{more}' if text and text.isprintable() else f"{beginning.hex() or 'empty'}{more}"


def is_utf8(data: bytes) -> bool:
    """Return whether the bytes are text in UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def utc_text(time_s: float) -> str:
    """Return Unix time as RFC 3339, in UTC, to the second."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Text from spans and records, which anybody may have written, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what a terminal or a log viewer would interpret: control characters, line breaks, changes of direction."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )

"""Texts: the values of a writer's fields and attributes that dimensions are made from, as bytes.

Strings, bytes, fixed and enum symbols are taken as they are; a number or a boolean becomes its text. Null, and a value
of any other type, is absent.
"""

from __future__ import annotations

from typing import Any, Final

from tokentrace.model.dimensions import ATTRIBUTE, FIELD

#: Kinds of writer types that have a text.
NUMBER_KINDS: Final = frozenset({"boolean", "int", "long", "float", "double"})
STRING_KINDS: Final = frozenset({"string", "bytes", "enum", "fixed"})


def field_of(source: str) -> str | None:
    """Return the field of the span that a source names, None for an attribute."""
    return source.removeprefix(FIELD) if source.startswith(FIELD) else None


def key_of(source: str) -> str | None:
    """Return the key of the attribute that a source names, None for a field."""
    return source.removeprefix(ATTRIBUTE) if source.startswith(ATTRIBUTE) else None


def text_of(value: Any) -> bytes:
    """Return a decoded value as text, empty where it has none. Invalid UTF-8 is in surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return repr(value).encode() if isinstance(value, (int, float)) else b""

"""Text that is safe and short to show."""

from __future__ import annotations

import pytest

from tokentrace.model.text import first_bytes, utc_text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b"hello", '"hello"'),
        (b"hello world", '"hello"...'),
        (b"\x00\x01\xff", "0001ff"),
        (b"\x00abcdefgh", "0061626364..."),
        ("grün".encode(), "6772c3bc6e"),
        (b"a\x1b[2J", "611b5b324a"),
    ],
)
def test_first_bytes_are_text_where_they_are_printable(data: bytes, text: str) -> None:
    assert first_bytes(data, 5) == text


def test_utc_text_is_to_the_second() -> None:
    assert utc_text(1.9) == "1970-01-01T00:00:01Z"

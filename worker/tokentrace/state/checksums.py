"""Checksums: a record of tokentrace's own topics carries one, so that damaged bytes are never read as other numbers.

The sum is in a header, over key and value: a record under a wrong key is noticed too. Tombstones carry none. Records of
release 0.1.0 have no such header and are read as they are, and 0.1.0 ignores it.
"""

from __future__ import annotations

import zlib
from typing import Final

from tokentrace.errors import UnreadableRecord
from tokentrace.state.headers import Header, Headers, header_items
from tokentrace.state.schemas import schema_headers

#: Header of a record: CRC-32 (ISO 3309, as in zlib) over its key and then its value, 4 bytes, big-endian.
CHECKSUM_HEADER: Final = "tokentrace.crc32"
DAMAGED: Final = f"The key or the value is damaged: they do not give the checksum in the header {CHECKSUM_HEADER}."


def checksum(key: bytes | None, value: bytes) -> bytes:
    """Return the sum of a record, as its header holds it."""
    return zlib.crc32(value, zlib.crc32(key or b"")).to_bytes(4, "big")


def checksum_header(key: bytes | None, value: bytes) -> Header:
    """Return the header with the sum of a record."""
    return CHECKSUM_HEADER, checksum(key, value)


def record_headers(key: bytes | None, value: bytes | None) -> list[Header]:
    """Return the headers to write a record with: its schema, where that has to travel, and its sum."""
    return [] if value is None else [*schema_headers(value), checksum_header(key, value)]


def is_intact(key: bytes | None, value: bytes, headers: Headers) -> bool:
    """Return whether a record is what was written, as far as its headers tell: one without a sum is."""
    for name, found in header_items(headers):
        if name == CHECKSUM_HEADER:
            return found == checksum(key, value)
    return True


def require_intact(key: bytes | None, value: bytes, headers: Headers) -> None:
    """Raises UnreadableRecord for a record that is not `is_intact`."""
    if not is_intact(key, value, headers):
        raise UnreadableRecord(DAMAGED)

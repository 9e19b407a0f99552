"""Unsigned varints, as protobuf has them, and Avro behind its zigzag: seven bits a byte, the lowest first.

`model.span_encoder` has its own, which saves it a call for each number.
"""

from __future__ import annotations

from typing import Final

_LOW_SEVEN: Final = 0x7F


def encode_unsigned(value: int) -> bytes:
    """Encode a number that is not negative."""
    encoded = bytearray()
    while value > _LOW_SEVEN:
        encoded.append(value & _LOW_SEVEN | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

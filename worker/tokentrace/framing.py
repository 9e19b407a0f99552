"""Framing: which writer schema each message names, and where its bare Avro datum lies. All messages at once.

Confluent wire format: `00`, 4-byte big-endian schema id, datum. Avro single-object encoding (Avro 1.12, "Single-object
encoding"): `C3 01`, 8-byte little-endian CRC-64-AVRO fingerprint, datum. A raw datum has no frame at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from . import reasons
from .messages import Reject
from .spans import PADDING

Framing = Literal["auto", "confluent", "single_object", "raw"]

CONFLUENT_HEADER: Final = 5
SINGLE_OBJECT_HEADER: Final = 10
SINGLE_OBJECT_MARKER: Final = b"\xc3\x01"


@dataclass(frozen=True, slots=True)
class SchemaKey:
    """How a message names its writer schema. value: registry id, fingerprint (8 bytes), or "" for raw."""

    kind: Literal["id", "fingerprint", "raw"]
    value: int | bytes | str = ""

    def __str__(self) -> str:
        if isinstance(self.value, bytes):
            return f"fingerprint:{self.value.hex()}"
        return f"id:{self.value}" if self.kind == "id" else self.kind


RAW: Final = SchemaKey("raw")


@dataclass(frozen=True, slots=True)
class Framed:
    """n messages in one buffer.

    buffer: uint8[...], all values joined, then PADDING zero bytes. start, end: int64[n], the datum's bounds in it.
    keys: the distinct schema keys. key: int32[n], index into keys, -1 for a rejected message.
    """

    buffer: NDArray[np.uint8]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    keys: tuple[SchemaKey, ...]
    key: NDArray[np.int32]
    rejects: list[Reject]


def frame(values: Sequence[bytes | None], mode: Framing = "auto") -> Framed:
    """Join n message values and find each one's schema key and datum."""
    n = len(values)
    joined = b"".join([value or b"" for value in values] if None in values else values)  # type: ignore[arg-type]
    buffer = np.frombuffer(joined + bytes(PADDING), np.uint8)
    lengths = np.fromiter((len(value) if value else 0 for value in values), np.int64, n)
    end = np.cumsum(lengths)
    start = end - lengths
    key = np.full(n, -1, np.int32)
    keys: list[SchemaKey] = []

    filled = lengths > 0
    if mode == "raw":
        keys.append(RAW)
        key[filled] = 0
    first = buffer[start]
    confluent = single = np.zeros(n, np.bool_)
    if mode in ("auto", "confluent"):
        confluent = filled & (first == 0) & (lengths >= CONFLUENT_HEADER)
        rows = np.flatnonzero(confluent)
        ids = _header(buffer, start[rows] + 1, 4).view(">u4").ravel()
        for value in _distinct(ids):
            key[rows[ids == value]] = len(keys)
            keys.append(SchemaKey("id", int(value)))
    if mode in ("auto", "single_object"):
        single = filled & (first == 0xC3) & (buffer[start + 1] == 0x01) & (lengths >= SINGLE_OBJECT_HEADER)
        rows = np.flatnonzero(single)
        fingerprints = _header(buffer, start[rows] + 2, 8).view("<u8").ravel()
        for value in _distinct(fingerprints):
            key[rows[fingerprints == value]] = len(keys)
            keys.append(SchemaKey("fingerprint", int(value).to_bytes(8, "little")))
    header = confluent * CONFLUENT_HEADER + single * SINGLE_OBJECT_HEADER
    rejects = [_reject(values[row], int(row)) for row in np.flatnonzero(key < 0)]
    return Framed(buffer, start + header, end, tuple(keys), key, rejects)


def _header(buffer: NDArray[np.uint8], at: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """uint8[len(at), width], contiguous."""
    return buffer[at[:, None] + np.arange(width)]


def _distinct(values: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Distinct values; one comparison for the usual batch, which has a single schema."""
    if len(values) and (values == values[0]).all():
        return values[:1]
    return np.unique(values)


def _reject(value: bytes | None, row: int) -> Reject:
    if value is None:
        return Reject(row, reasons.TOMBSTONE, reasons.WHOLE[reasons.TOMBSTONE])
    reason = "unknown_framing" if value else "empty"
    return Reject(row, reason, reasons.WHOLE[reason])

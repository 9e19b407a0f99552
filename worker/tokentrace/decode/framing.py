"""Framing: finds the writer schema that each message names and the bounds of its Avro datum, all messages at once.

Confluent wire format: `00`, 4-byte big-endian schema id, datum. Avro single-object encoding (Avro 1.12, "Single-object
encoding"): `C3 01`, 8-byte little-endian CRC-64-AVRO fingerprint, datum. A raw datum has no header, and JSON
is rewritten first.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.json_spans import json_messages
from tokentrace.model import reasons
from tokentrace.model.arrays import PADDING, unaligned_words
from tokentrace.model.bundled_schemas import SINGLE_OBJECT_MARKER as SINGLE_OBJECT_MARKER
from tokentrace.model.messages import OTHER_GROUP_VALUE, Reject

Framing = Literal["auto", "confluent", "single_object", "raw", "json"]

CONFLUENT_HEADER: Final = 5
SINGLE_OBJECT_HEADER: Final = 10
_MARKER: Final = np.uint64(int.from_bytes(SINGLE_OBJECT_MARKER, "little"))
_FIRST_BYTE, _FIRST_TWO_BYTES, _BYTE = np.uint64(0xFF), np.uint64(0xFFFF), np.uint64(8)


@dataclass(frozen=True, slots=True)
class SchemaKey:
    """Name of a writer schema in a message. value: registry id, fingerprint (8 bytes), or "" for raw."""

    kind: Literal["id", "fingerprint", "raw"]
    value: int | bytes | str = ""

    def __str__(self) -> str:
        if isinstance(self.value, bytes):
            return f"fingerprint:{self.value.hex()}"
        return f"id:{self.value}" if self.kind == "id" else self.kind


RAW: Final = SchemaKey("raw")


@dataclass(frozen=True, slots=True)
class Framed:
    """Messages joined in one buffer.

    buffer: uint8[...], all n values, then PADDING zero bytes. start, end: int64[n], bounds of each datum in the buffer.
    keys: the distinct schema keys. key: int32[n], index into keys, -1 for a rejected message.
    """

    buffer: NDArray[np.uint8]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    keys: tuple[SchemaKey, ...]
    key: NDArray[np.int32]
    rejects: list[Reject]


def frame(values: Sequence[bytes | None], mode: Framing = "auto") -> Framed:
    """Join n message values and find the schema key and the datum of each."""
    if mode == "json":
        values, unreadable = json_messages(values)
        framed = frame(values, "single_object")
        known = {reject.row for reject in unreadable}
        rejects = unreadable + [reject for reject in framed.rejects if reject.row not in known]
        rejects.sort(key=lambda reject: reject.row)
        return replace(framed, rejects=rejects)
    n = len(values)
    pieces: list[bytes] = [*values, bytes(PADDING)]  # type: ignore[list-item]
    try:
        joined = b"".join(pieces)
    except TypeError:
        # Tombstones are rare, and finding them in advance would cost as much as the join.
        pieces = [piece or b"" for piece in pieces]
        joined = b"".join(pieces)
    buffer = np.frombuffer(joined, np.uint8)
    lengths = np.fromiter(map(len, pieces), np.int64, n)
    end = np.cumsum(lengths)
    start = end - lengths
    keys: list[SchemaKey] = []
    key = np.full(n, -1, np.int32)
    if mode == "raw":
        keys.append(RAW)
        key[lengths > 0] = 0
    words = unaligned_words(buffer)
    # An empty last value starts at the padding, so these loads stay inside the buffer.
    head = words[start]
    if mode in ("auto", "confluent"):
        rows = np.flatnonzero(((head & _FIRST_BYTE) == 0) & (lengths >= CONFLUENT_HEADER))
        ids = (head[rows] >> _BYTE).astype(np.uint32).byteswap()
        key[rows] = _add_keys(ids, keys, lambda value: SchemaKey("id", value))
        start[rows] += CONFLUENT_HEADER
    if mode in ("auto", "single_object"):
        rows = np.flatnonzero(((head & _FIRST_TWO_BYTES) == _MARKER) & (lengths >= SINGLE_OBJECT_HEADER))
        fingerprints = words[start[rows] + len(SINGLE_OBJECT_MARKER)]
        key[rows] = _add_keys(fingerprints, keys, lambda value: SchemaKey("fingerprint", value.to_bytes(8, "little")))
        start[rows] += SINGLE_OBJECT_HEADER
    rejects = [_reject(values[row], row, mode) for row in np.flatnonzero(key < 0).tolist()]
    return Framed(buffer, start, end, tuple(keys), key, rejects)


def _add_keys(values: NDArray[Any], keys: list[SchemaKey], to_key: Callable[[int], SchemaKey]) -> NDArray[np.int64]:
    """Append a key for every distinct value. Returns int64[k], the index of each value's key."""
    first = len(keys)
    if not len(values):
        return np.zeros(0, np.int64)
    # The usual batch has a single schema, and one comparison is cheaper than a sort.
    if (values == values[0]).all():
        keys.append(to_key(int(values[0])))
        return np.full(len(values), first, np.int64)
    distinct, index = np.unique(values, return_inverse=True)
    keys += map(to_key, distinct.tolist())
    return first + index.astype(np.int64)


#: Header of AWS Glue: 03, a byte for the compression, the UUID of the schema's version.
GLUE_HEADER: Final = 18
_GLUE_COMPRESSION: Final = {b"\0": "not compressed", b"\x05": "zlib"}

_PINNED: Final = {
    "confluent": "The value has no Confluent header (00 and a 4-byte schema id), which kafka.framing requires.",
    "single_object": "The value has no single-object header (C3 01 and a fingerprint), which kafka.framing requires.",
}


def _reject(value: bytes | None, row: int, mode: Framing) -> Reject:
    if value is None:
        return Reject(row, reasons.TOMBSTONE, reasons.WHOLE[reasons.TOMBSTONE])
    if value is OTHER_GROUP_VALUE:
        return Reject(row, reasons.OTHER_GROUP, reasons.WHOLE[reasons.OTHER_GROUP])
    if not value:
        return Reject(row, "empty", reasons.WHOLE["empty"])
    why = _PINNED.get(mode, reasons.WHOLE["unknown_framing"])
    return Reject(row, "unknown_framing", f"{why} {recognised}" if (recognised := _recognised(value)) else why)


def _recognised(value: bytes) -> str:
    """Return a sentence on what a value is instead, as far as its first bytes tell; empty if they do not."""
    if value[:1] == b"{":
        return "It looks like JSON, which kafka.framing: json reads."
    if value[:4] == b"Obj\x01":
        return "It is an Avro container file; a message has one datum, without the file's header."
    if value[:1] == b"\x03" and value[1:2] in _GLUE_COMPRESSION and len(value) >= GLUE_HEADER:
        schema, how = uuid.UUID(bytes=value[2:18]), _GLUE_COMPRESSION[value[1:2]]
        return (
            f"It has the header of AWS Glue's Schema Registry ({how}, schema version {schema}), which is not read; "
            "publish in single-object encoding, or with a Confluent-compatible registry."
        )
    if value[:2] == b"\x1f\x8b" or value[:4] == b"\x28\xb5\x2f\xfd":
        return "It is compressed; leave compression to Kafka's producer (compression.type)."
    return ""

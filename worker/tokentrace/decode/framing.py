"""Framing: finds the writer schema that each message names and the bounds of its Avro datum, all messages at once.

Confluent wire format: `00`, 4-byte big-endian schema id, datum. Apicurio: `00`, 8-byte big-endian id, datum. Avro
single-object encoding (Avro 1.12, "Single-object encoding"): `C3 01`, 8-byte little-endian CRC-64-AVRO fingerprint,
datum. AWS Glue: see `decode.glue`. A header of the record that names the schema comes before all of these, see
`decode.header_keys`. A raw datum has no header, and JSON is rewritten first.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode import glue
from tokentrace.decode.foreign import recognised
from tokentrace.decode.header_keys import header_keys
from tokentrace.decode.json_spans import json_messages
from tokentrace.decode.schema_key import RAW as RAW
from tokentrace.decode.schema_key import ApicurioId
from tokentrace.decode.schema_key import SchemaKey as SchemaKey
from tokentrace.model import reasons
from tokentrace.model.arrays import PADDING, unaligned_words
from tokentrace.model.bundled_schemas import SINGLE_OBJECT_MARKER as SINGLE_OBJECT_MARKER
from tokentrace.model.messages import (
    APICURIO_CONTENT_ID,
    APICURIO_GLOBAL_ID,
    CONFLUENT_SCHEMA_ID,
    OTHER_GROUP_VALUE,
    SCHEMA_HEADERS,
    Reject,
)

Framing = Literal["auto", "confluent", "apicurio", "single_object", "glue", "raw", "json"]
#: Framings of messages that hold any number of spans.
OtlpFraming = Literal["otlp_proto", "otlp_json"]

CONFLUENT_HEADER: Final = 5
APICURIO_HEADER: Final = 9
SINGLE_OBJECT_HEADER: Final = 10
_MARKER: Final = np.uint64(int.from_bytes(SINGLE_OBJECT_MARKER, "little"))
_FIRST_BYTE, _FIRST_TWO_BYTES, _BYTE = np.uint64(0xFF), np.uint64(0xFFFF), np.uint64(8)
_GLUE: Final = tuple(np.uint64(glue.GLUE_VERSION | how << 8) for how in (glue.NOT_COMPRESSED, glue.ZLIB))

#: Framing -> the headers of records that it looks at.
_HEADERS: Final[Mapping[Framing, tuple[str, ...]]] = {
    "auto": SCHEMA_HEADERS,
    "confluent": (CONFLUENT_SCHEMA_ID,),
    "apicurio": (APICURIO_CONTENT_ID, APICURIO_GLOBAL_ID),
}
_NO_HEADERS: Final[Mapping[str, Sequence[bytes | str | None]]] = {}


#: Stands for the first bytes of a message whose header names its schema: those of no framing.
_NO_FRAMING: Final = np.uint64(2**64 - 1)


def single_span_framing(framing: Framing | OtlpFraming) -> Framing:
    """Return the framing of messages that are one span each: `auto` where the configured one is of OTLP."""
    return "auto" if framing == "otlp_proto" or framing == "otlp_json" else framing


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


def frame(
    values: Sequence[bytes | None],
    mode: Framing = "auto",
    headers: Mapping[str, Sequence[bytes | str | None]] = _NO_HEADERS,
) -> Framed:
    """Join n message values and find the schema key and the datum of each.

    headers: name of a header of SCHEMA_HEADERS -> n values of it, of those that any message has.
    """
    if mode == "json":
        values, unreadable = json_messages(values)
        framed = frame(values, "single_object")
        known = {reject.row for reject in unreadable}
        rejects = unreadable + [reject for reject in framed.rejects if reject.row not in known]
        rejects.sort(key=lambda reject: reject.row)
        return replace(framed, rejects=rejects)
    named = header_keys(headers, _HEADERS.get(mode, ()), len(values))
    hidden = None if named is None else named.key != -1
    joined = _join(values, hidden)
    problems: dict[int, str] = {}
    if mode in ("auto", "glue") and len(rows := _starting_with(joined, glue.ZLIB)):
        values, problems = glue.expand(values, rows.tolist())
        joined = _join(values, hidden)
    keys, key = _keys_of(joined, mode)
    if named is not None:
        problems |= named.problems
        rows = np.flatnonzero((named.key >= 0) & (joined.lengths > 0))
        # A schema that only messages without a value name is not looked up.
        used, index = np.unique(named.key[rows], return_inverse=True)
        key[rows] = len(keys) + index
        keys += (named.keys[number] for number in used.tolist())
    key[list(problems)] = -1
    rejects = [_reject(values[row], row, mode, problems.get(row, "")) for row in np.flatnonzero(key < 0).tolist()]
    return Framed(joined.buffer, joined.start, joined.end, tuple(keys), key, rejects)


@dataclass(frozen=True, slots=True)
class _Joined:
    """n values in one buffer, see `Framed`. words: see `unaligned_words`. lengths: int64[n]. start may be moved on.

    head: uint64[n], the first eight bytes of each value, or _NO_FRAMING.
    """

    buffer: NDArray[np.uint8]
    words: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    head: NDArray[np.uint64]


def _join(values: Sequence[bytes | None], hidden: NDArray[np.bool_] | None) -> _Joined:
    """hidden: bool[n], the values whose first bytes are not to be looked at."""
    pieces: list[bytes] = [*values, bytes(PADDING)]  # type: ignore[list-item]
    try:
        joined = b"".join(pieces)
    except TypeError:
        # Tombstones are rare, and finding them in advance would cost as much as the join.
        pieces = [piece or b"" for piece in pieces]
        joined = b"".join(pieces)
    buffer = np.frombuffer(joined, np.uint8)
    lengths = np.fromiter(map(len, pieces), np.int64, len(values))
    end = np.cumsum(lengths)
    start = end - lengths
    words = unaligned_words(buffer)
    # An empty last value starts at the padding, so this load stays inside the buffer.
    head = words[start]
    if hidden is not None:
        head[hidden] = _NO_FRAMING
    return _Joined(buffer, words, lengths, start, end, head)


def _starting_with(joined: _Joined, compression: int) -> NDArray[np.int64]:
    """Return the rows with Glue's header of this compression."""
    first = np.uint64(glue.GLUE_VERSION | compression << 8)
    return np.flatnonzero(((joined.head & _FIRST_TWO_BYTES) == first) & (joined.lengths >= glue.GLUE_HEADER))


def _keys_of(joined: _Joined, mode: Framing) -> tuple[list[SchemaKey], NDArray[np.int32]]:
    """Return (the distinct keys, int32[n]: each value's, -1 for one without). Moves `start` to the datums."""
    head, lengths, start, words = joined.head, joined.lengths, joined.start, joined.words
    keys: list[SchemaKey] = []
    key = np.full(len(lengths), -1, np.int32)
    if mode == "raw":
        keys.append(RAW)
        key[lengths > 0] = 0
    if mode in ("auto", "confluent"):
        rows = np.flatnonzero(((head & _FIRST_BYTE) == 0) & (lengths >= CONFLUENT_HEADER))
        ids = (head[rows] >> _BYTE).astype(np.uint32).byteswap()
        if mode == "auto" and len(ids) and not ids.all():
            # No registry gives out the id 0, with which Apicurio's ids of eight bytes begin.
            short = (ids != 0) | (lengths[rows] < APICURIO_HEADER)
            rows, ids = rows[short], ids[short]
        key[rows] = _add_keys(ids, keys, lambda value: SchemaKey("id", value))
        start[rows] += CONFLUENT_HEADER
    if mode in ("auto", "apicurio"):
        rows = np.flatnonzero(((head & _FIRST_BYTE) == 0) & (lengths >= APICURIO_HEADER) & (key < 0))
        if len(rows):
            long_ids = words[start[rows] + 1].byteswap()
            key[rows] = _add_keys(long_ids, keys, lambda value: SchemaKey("apicurio", ApicurioId(value)))
            start[rows] += APICURIO_HEADER
    if mode in ("auto", "single_object"):
        rows = np.flatnonzero(((head & _FIRST_TWO_BYTES) == _MARKER) & (lengths >= SINGLE_OBJECT_HEADER))
        fingerprints = words[start[rows] + len(SINGLE_OBJECT_MARKER)]
        key[rows] = _add_keys(fingerprints, keys, lambda value: SchemaKey("fingerprint", value.to_bytes(8, "little")))
        start[rows] += SINGLE_OBJECT_HEADER
    if mode in ("auto", "glue"):
        rows = _starting_with(joined, glue.NOT_COMPRESSED)
        if len(rows):
            key[rows] = _add_versions(rows, joined, keys)
            start[rows] += glue.GLUE_HEADER
    return keys, key


def _add_versions(rows: NDArray[np.int64], joined: _Joined, keys: list[SchemaKey]) -> NDArray[np.int64]:
    """Append a key for every distinct schema version of Glue. Returns int64[k], the index of each row's key."""
    at = joined.start[rows] + 2
    pairs = np.stack([joined.words[at], joined.words[at + 8]], axis=1)
    distinct, index = np.unique(pairs, axis=0, return_inverse=True)
    first = len(keys)
    keys += (SchemaKey("glue", uuid.UUID(bytes=pair.tobytes())) for pair in distinct)
    return first + index.reshape(-1).astype(np.int64)


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


_PINNED: Final = {
    "confluent": "The value has no Confluent header (00 and a 4-byte schema id), which kafka.framing requires.",
    "apicurio": "The value has no Apicurio header (00 and an 8-byte id), which kafka.framing requires.",
    "single_object": "The value has no single-object header (C3 01 and a fingerprint), which kafka.framing requires.",
    "glue": "The value has no header of AWS Glue (03, 00 or 05, and the UUID of a schema version), which kafka.framing "
    "requires.",
}


def _reject(value: bytes | None, row: int, mode: Framing, problem: str) -> Reject:
    """problem: what is wrong with a header that the message has."""
    if value is None:
        return Reject(row, reasons.TOMBSTONE, reasons.WHOLE[reasons.TOMBSTONE])
    if value is OTHER_GROUP_VALUE:
        return Reject(row, reasons.OTHER_GROUP, reasons.WHOLE[reasons.OTHER_GROUP])
    if not value:
        return Reject(row, "empty", reasons.WHOLE["empty"])
    why = _PINNED.get(mode, reasons.WHOLE["unknown_framing"])
    if problem:
        return Reject(row, "unknown_framing", f"The framing cannot be read. {problem}")
    return Reject(row, "unknown_framing", f"{why} {known}" if (known := recognised(value)) else why)

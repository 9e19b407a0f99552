"""Datums written by fastavro, bytes written by hand, and columns converted to plain values."""

from __future__ import annotations

import io
from typing import Any

import fastavro

from tests.decode.differential import THOROUGH, assert_agreement, both_decoders, run
from tokentrace.model.messages import Reject
from tokentrace.model.spans import (
    FLOAT_FIELDS,
    INT_FIELDS,
    MODIFIERS,
    OPTIONAL_FIELDS,
    STATUSES,
    STRING_FIELDS,
    SpanBatch,
)
from tokentrace.model.units import UNITS

#: A span without values, in the form of `spans_of`.
ABSENT: dict[str, Any] = {
    **dict.fromkeys(STRING_FIELDS, b""),
    **dict.fromkeys((*INT_FIELDS, *FLOAT_FIELDS)),
    "status": "ok",
}


def record_schema(name: str = "Span", /, **types: Any) -> dict[str, Any]:
    """Return a record schema with these fields in this order."""
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": field, "type": type_} for field, type_ in types.items()],
    }


def write(schema: Any, record: dict[str, Any]) -> bytes:
    """Return the datum, written by fastavro."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return stream.getvalue()


def zigzag(value: int) -> bytes:
    """Encode an int or long, including those of more than 64 bits."""
    rest = value * 2 if value >= 0 else -value * 2 - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def string(data: bytes | str) -> bytes:
    """Encode a string or bytes."""
    data = data.encode() if isinstance(data, str) else data
    return zigzag(len(data)) + data


def decode(schema: Any, *datums: bytes) -> tuple[list[dict[str, Any]], list[Reject]]:
    """Decode a batch of bare datums with fastavro. Returns (spans, rejects).

    Asserts that the columnar decoder, if the schema has a columnar form, gives the same.
    """
    reference, columnar = both_decoders(schema, **THOROUGH)
    if columnar is not None and datums:
        assert_agreement(schema, datums, reference, columnar)
    batch, rejects = run(reference, datums)
    return spans_of(batch), rejects


def spans_of(batch: SpanBatch) -> list[dict[str, Any]]:
    """Every span as a dict: labels as bytes, an absent number as None, status by its word."""
    spans = []
    for index in range(len(batch)):
        span: dict[str, Any] = {}
        for name in STRING_FIELDS:
            column = getattr(batch, name)
            first = int(column.offset[index])
            span[name] = batch.buffer[first : first + int(column.length[index])].tobytes()
        for name in (*INT_FIELDS, *FLOAT_FIELDS):
            column = getattr(batch, name)
            span[name] = column.values[index].item() if column.present[index] else None
        # Optional columns are there where any span of the batch has one.
        for name, column in sorted(batch.optional.items()):
            if column.present[index]:
                span[name] = column.values[index].item()
        for name, strings in sorted(batch.modifiers.items()):
            first = int(strings.offset[index])
            if text := batch.buffer[first : first + int(strings.length[index])].tobytes():
                span[name] = text
        code = int(batch.status[index])
        span["status"] = STATUSES[code] if code < len(STATUSES) else "unknown"
        spans.append(span)
    return spans


def expected(record: dict[str, Any]) -> dict[str, Any]:
    """Return the expected span of a record in the shape of schemas/span.avsc."""
    span = {**ABSENT, "status": record["status"]}
    for name in STRING_FIELDS:
        span[name] = record[name].encode()
    for name in (*INT_FIELDS, *FLOAT_FIELDS):
        span[name] = record.get(name.removesuffix("_us"))
    for name in OPTIONAL_FIELDS:
        if record.get(name) is not None:
            span[name] = int(record[name])
    for name in MODIFIERS:
        if record.get(name):
            span[name] = record[name].encode()
    for unit in UNITS:
        quantity = record.get("usage", {}).get(unit.name)
        if quantity is not None and span.get(unit.column) is None:
            span[unit.column] = round(quantity * unit.scale)
    score = record["attributes"].get("eval.score")
    span["eval_score"] = None if score is None else float(score)
    return span


def only(schema: Any, data: bytes) -> dict[str, Any]:
    """Decode one valid datum. Returns its span."""
    spans, rejects = decode(schema, data)
    assert rejects == []
    return spans[0]


def reason(schema: Any, data: bytes) -> str:
    """Decode one invalid datum. Returns the reason of its reject."""
    spans, rejects = decode(schema, data)
    assert spans == []
    (reject,) = rejects
    assert reject.row == 0
    assert reject.error.endswith(".")
    return reject.reason

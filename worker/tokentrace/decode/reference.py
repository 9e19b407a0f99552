"""The reference decoder: fastavro, one message at a time, into the columns of a batch.

Slow and certain. It serves schemas that have no column form and messages that leave the columnar decoder's fast path,
and it is what every differential test compares with.
"""

from __future__ import annotations

import io
import math
from typing import Any

import fastavro
import numpy as np
from fastavro.schema import SchemaParseException, UnknownType
from numpy.typing import NDArray

from .. import reasons
from ..errors import SchemaError
from ..messages import Reject
from ..spans import STATUSES, STRING_FIELDS, UNKNOWN_STATUS, SpanColumns
from .resolve import Resolution, Type, accepted_kinds, timestamp_scale
from .walk import Malformed, walk

LABEL_FIELDS = ("model", "provider", "caller")


class _Mismatch(Exception):
    """A value whose type cannot feed its column."""


class ReferenceDecoder:
    """Decodes the messages of one writer schema."""

    def __init__(self, schema: Any, resolution: Resolution) -> None:
        """Raises SchemaError where fastavro does not take the schema."""
        self._root = resolution.root
        # Fastavro guards neither against deep nesting nor against items that take no bytes.
        self._guarded = resolution.recursive or resolution.unbounded
        types = dict(resolution.root.fields)
        self._feeds = [(name, column, types[name]) for name, column in resolution.feeds.items()]
        try:
            self._schema = fastavro.parse_schema(_without_logical_types(schema))
        except (SchemaParseException, UnknownType, KeyError, TypeError, ValueError, RecursionError) as error:
            raise SchemaError(
                "schema_unusable", f"The writer schema cannot be read as a span: it is no valid Avro schema ({error})."
            ) from error

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Decode messages into `columns` at `rows`.

        rows: int64[k]. start, end: int64[k], each datum's bounds in columns.buffer.
        A rejected row leaves its columns in any state.
        """
        rejects = []
        for row, first, last in zip(rows.tolist(), start.tolist(), end.tolist(), strict=True):
            reject = self._decode_one(columns, row, columns.buffer[first:last].tobytes())
            if reject is not None:
                rejects.append(reject)
        return rejects

    def _decode_one(self, columns: SpanColumns, row: int, data: bytes) -> Reject | None:
        try:
            if self._guarded:
                walk(self._root, data)
            stream = io.BytesIO(data)
            # Undecodable bytes survive as surrogates: whether they matter depends on the field.
            record: Any = fastavro.schemaless_reader(
                stream, self._schema, None, handle_unicode_errors="surrogateescape"
            )
        except Malformed as error:
            return _malformed(row, str(error))
        except (EOFError, IndexError):
            return _malformed(row, "it ends too early")
        except Exception as error:
            # Whatever fastavro raises for wrong bytes is the message's fault; its exceptions are no closed set.
            return _malformed(row, f"{type(error).__name__}: {error}"[:200])
        if stream.tell() != len(data):
            return _malformed(row, f"{len(data) - stream.tell()} bytes follow its end")
        try:
            for name, column, type_ in self._feeds:
                _store(columns, row, column, type_, record[name])
        except _Mismatch:
            return Reject(row, "type_mismatch", f"Field {name!r} holds a {type(record[name]).__name__}.")
        except UnicodeDecodeError:
            return invalid_utf8(row, name)
        return None


def invalid_utf8(row: int, name: str) -> Reject:
    """The reject for a label field that is not UTF-8."""
    return Reject(row, "invalid_utf8", f"Field {name!r} is not valid UTF-8.")


def _malformed(row: int, why: str) -> Reject:
    return Reject(row, "malformed", f"{reasons.WHOLE['malformed'].rstrip('.')}: {why}.")


def _store(columns: SpanColumns, row: int, column: str, type_: Type, value: Any) -> None:
    if column == "attributes":
        _store_score(columns, row, value)
    elif column == "status":
        columns.status[row] = _status(value)
    elif column in STRING_FIELDS:
        data = _bytes(value)
        if column in LABEL_FIELDS:
            data.decode("utf-8")
        columns.put_string(getattr(columns, column), row, data)
    elif value is None:
        getattr(columns, column).present[row] = False
    else:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _Mismatch
        if isinstance(value, float) and "double" not in accepted_kinds(column):
            raise _Mismatch
        if column in ("started_at_us", "ended_at_us"):
            multiply, divide = timestamp_scale(type_)
            value = _clamp_int64(value * multiply // divide)
        numbers = getattr(columns, column)
        numbers.values[row] = value
        numbers.present[row] = True


def _clamp_int64(value: int) -> int:
    return max(min(value, 2**63 - 1), -(2**63))


def _bytes(value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value
    raise _Mismatch


def _status(value: Any) -> int:
    if value is None:
        return 0
    symbol = _bytes(value).decode("utf-8", "replace")
    return STATUSES.index(symbol) if symbol in STATUSES else UNKNOWN_STATUS


def _store_score(columns: SpanColumns, row: int, attributes: Any) -> None:
    value = attributes.get("eval.score") if isinstance(attributes, dict) else None
    if value is None:
        columns.eval_score.present[row] = False
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    columns.eval_score.values[row] = float(value) if number else math.nan
    columns.eval_score.present[row] = True


def _without_logical_types(schema: Any) -> Any:
    """Plain numbers and bytes are wanted; fastavro would turn them into dates and decimals."""
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, dict):
        return {key: _without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    return schema

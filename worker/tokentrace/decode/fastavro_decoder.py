"""Fastavro decoder: decodes one message at a time with fastavro, into the columns of a batch.

Slow but certain. It decodes schemas without a columnar form and messages that leave the columnar decoder's fast path,
and it is the reference of every differential test. Any bytes give a row or a reject, never an exception.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import fastavro
import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.datum_check import Malformed, branch_at, check_datum, malformed
from tokentrace.decode.decimals import usd_of
from tokentrace.decode.resolve import USAGE, Resolution, accepted_in_words, accepts, resolve, timestamp_scale
from tokentrace.decode.schema_tree import Type, parse_schema
from tokentrace.decode.texts import field_of, key_of, text_of
from tokentrace.model.messages import Reject
from tokentrace.model.spans import MODIFIERS, OPTIONAL_FIELDS, STATUSES, STRING_FIELDS, UNKNOWN_STATUS, SpanColumns
from tokentrace.model.text import is_utf8
from tokentrace.model.units import BY_NAME

LABEL_FIELDS = ("model", "provider", "caller")

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class FastavroDecoder:
    """Decodes the messages of one writer schema."""

    def __init__(self, schema: Any, resolution: Resolution | None = None, index: bytes = b"") -> None:
        """schema: parsed JSON. resolution: of this schema, if already computed. Raises SchemaError.

        index: of a branch, as it is written, where the schema is a union and the resolution is of that branch.
        """
        resolution = resolution or resolve(schema)
        self._schema = parse_schema(schema)
        self._index = index
        self._root = resolution.root
        self._fields = [
            (index, name, resolution.field_columns[name], type_)
            for index, (name, type_) in enumerate(resolution.root.fields)
            if name in resolution.field_columns
        ]
        self._texts = list(_texts(resolution))

    def decode_into(
        self, columns: SpanColumns, rows: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> list[Reject]:
        """Decode messages into `columns` at `rows`, overwriting previous values. Returns the rejects in order.

        rows: int64[k]. start, end: int64[k], bounds of each datum in columns.buffer.
        A message with several faults is rejected for the first of malformed, type_mismatch, invalid_utf8.
        The columns of a rejected row are undefined.
        """
        rejects = []
        for row, first, last in zip(rows.tolist(), start.tolist(), end.tolist(), strict=True):
            reject = self._decode_one(columns, row, columns.buffer[first:last].tobytes())
            if reject is not None:
                rejects.append(reject)
        return rejects

    def _decode_one(self, columns: SpanColumns, row: int, data: bytes) -> Reject | None:
        try:
            starts = check_datum(self._root, data)
        except Malformed as error:
            return malformed(row, str(error))
        values = []
        for index, name, column, type_ in self._fields:
            branch = branch_at(type_, data, starts[index])
            if column not in ("attributes", USAGE) and branch.kind != "null" and not accepts(column, branch):
                why = f"Field {name!r} holds a value of type {branch.kind}; {column} takes {accepted_in_words(column)}."
                return Reject(row, "type_mismatch", why)
            values.append((name, column, branch))
        try:
            # Invalid UTF-8 is kept as surrogates, because only some fields must be valid.
            record: Any = fastavro.schemaless_reader(
                io.BytesIO(self._index + data), self._schema, None, handle_unicode_errors="surrogateescape"
            )
        except Exception as error:
            # Fastavro raises exceptions of many types. The datum was checked, so the message is at fault.
            return malformed(row, f"{type(error).__name__}: {error}"[:200])
        columns.clear_optional(row)
        for name, column, branch in values:
            if not _store(columns, row, column, branch, record[name]):
                return Reject(row, "invalid_utf8", f"Field {name!r} is not valid UTF-8.")
        for source, index, name, type_ in self._texts:
            key, value = key_of(source), record[name]
            if key is not None:
                is_map = branch_at(type_, data, starts[index]).kind == "map"
                value = value.get(key) if is_map else None
            if text := text_of(value):
                columns.put_string(columns.texts[source], row, text)
        return None


def _texts(resolution: Resolution) -> Iterator[tuple[str, int, str, Type]]:
    """Return (source, index, name, type) of the fields that have the texts of dimensions."""
    for source in resolution.texts:
        field = field_of(source)
        for index, (name, type_) in enumerate(resolution.root.fields):
            if name == field or (field is None and resolution.field_columns.get(name) == "attributes"):
                yield source, index, name, type_


def _store(columns: SpanColumns, row: int, column: str, branch: Type, value: Any) -> bool:
    """Store a value in its column. Returns False for a label that is not valid UTF-8."""
    if column in STRING_FIELDS:
        data = _bytes(value)
        if column in LABEL_FIELDS and not is_utf8(data):
            return False
        strings = getattr(columns, column)
        strings.offset[row] = strings.length[row] = 0
        if data:
            columns.put_string(strings, row, data)
        return True
    if column in MODIFIERS:
        if data := _bytes(value):
            columns.put_string(columns.modifier(column), row, data)
        return True
    if column == "status":
        columns.status[row] = 0 if value is None else _status_code(_bytes(value))
        return True
    if column == USAGE:
        for unit, quantity in (value or {}).items():
            if unit in BY_NAME and quantity is not None:
                mapped = columns.mapped(unit)
                mapped.values[row], mapped.present[row] = quantity, True
        return True
    if column == "attributes":
        column, value = "eval_score", _score(value) if branch.kind == "map" else None
    elif column.endswith("_at_us") and value is not None:
        multiply, divide = timestamp_scale(branch)
        value = min(max(value * multiply // divide, _INT64_MIN), _INT64_MAX)
    elif isinstance(value, bytes):
        assert branch.scale is not None
        value = usd_of(value, branch.scale)
    if value is None and column in OPTIONAL_FIELDS:
        return True
    numbers = columns.column(column)
    numbers.values[row] = 0 if value is None else value
    numbers.present[row] = value is not None
    return True


def _bytes(value: str | bytes | None) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return value or b""


def _status_code(symbol: bytes) -> int:
    text = symbol.decode("utf-8", "replace")
    return STATUSES.index(text) if text in STATUSES else UNKNOWN_STATUS


def _score(attributes: dict[str, Any]) -> float | None:
    """Return the eval.score attribute: NaN if it is present but not a number, None if it is absent."""
    value = attributes.get("eval.score")
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number else math.nan

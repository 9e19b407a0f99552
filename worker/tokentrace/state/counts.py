"""Counts: rows of a layout as the Avro record `Counts`, and back. Columns and fields are matched by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.schemas.files import bundled_schema
from tokentrace.errors import UnreadableRecord
from tokentrace.model.measures import Layout
from tokentrace.model.varint import encode_rows

#: Rows encoded together: enough for the array operations, and few enough to stay in the cache.
_TOGETHER: Final = 1000


@dataclass(frozen=True, slots=True)
class Field:
    """A field of `Counts`, and its columns in a layout. A sum has one; an array of buckets has any number."""

    name: str
    columns: slice
    is_array: bool

    @property
    def size(self) -> int:
        return int(self.columns.stop - self.columns.start)


def fields_of(layout: Layout) -> tuple[Field, ...]:
    """Return the fields of `Counts` in the order of today's schema, which is that of the written numbers."""
    (fields,) = (
        field["type"]["fields"] for field in bundled_schema("state-cell")["fields"] if field["name"] == "counts"
    )
    return tuple(
        Field(field["name"], layout.fields[field["name"]], isinstance(field["type"], dict)) for field in fields
    )


class Counts:
    """Encodes and decodes the rows of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._width = layout.width
        self._fields = fields_of(layout)
        #: Column -> its number in a record. (number, size) of the head of each array.
        self._places = np.zeros(layout.width, np.int64)
        self._arrays: list[tuple[int, int]] = []
        end = 0
        for field in self._fields:
            if field.is_array:
                # An array of b buckets is b, the buckets, and 0 for its end.
                self._arrays.append((end, field.size))
                self._places[field.columns] = np.arange(end + 1, end + 1 + field.size)
                end += field.size + 2
            else:
                self._places[field.columns] = end
                end += 1
        self._numbers = end

    def encode(self, values: NDArray[np.int64]) -> Iterator[bytes]:
        """Encode rows, a record each. values: int64[t, width]. An array without observations is empty."""
        for first in range(0, len(values), _TOGETHER):
            part = values[first : first + _TOGETHER]
            numbers = np.zeros((len(part), self._numbers), np.int64)
            numbers[:, self._places] = part
            keep = np.ones(numbers.shape, np.bool_)
            for head, size in self._arrays:
                items = slice(head + 1, head + 1 + size)
                observed: NDArray[np.bool_] = np.any(numbers[:, items], axis=1)
                numbers[:, head] = np.where(observed, size, 0)
                keep[:, head + 1 : head + 2 + size] = observed[:, None]
            yield from encode_rows(numbers, keep)

    def row(self, counts: Mapping[str, Any], without: Collection[str] = ()) -> list[int]:
        """Return the row of a decoded record. without: histograms whose buckets are left out.

        Raises UnreadableRecord where a histogram has another number of buckets.
        """
        row = [0] * self._width
        for field in self._fields:
            value = counts[field.name]
            if not field.is_array:
                row[field.columns.start] = value
            elif value and field.name.removesuffix("_buckets") not in without:
                if len(value) != field.size:
                    raise UnreadableRecord(
                        f"A durable record has {len(value)} buckets in {field.name}, and metrics.buckets gives "
                        f"{field.size}. Set metrics.buckets as it was when the record was written."
                    )
                row[field.columns] = value
        return row

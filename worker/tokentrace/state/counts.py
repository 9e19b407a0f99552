"""Counts: rows of a layout as the Avro record `Counts`, and back. Columns and fields are matched by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.schemas.files import bundled_schema, released_schemas
from tokentrace.errors import UnreadableRecord
from tokentrace.model.measures import RARE_FIELD, Layout
from tokentrace.model.varint import encode_rows
from tokentrace.state.schemas import FIRST_RELEASE

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


def fields_of(layout: Layout, *, first: bool = False) -> tuple[Field, ...]:
    """Return the fields of `Counts` in the order of today's schema, which is that of the written numbers.

    first: those of the first release's schema.
    """
    schema = released_schemas()[FIRST_RELEASE, "state-cell"] if first else bundled_schema("state-cell")
    (fields,) = (field["type"]["fields"] for field in schema["fields"] if field["name"] == "counts")
    return tuple(
        Field(field["name"], layout.fields[field["name"]], isinstance(field["type"], dict)) for field in fields
    )


class _Plan:
    """Encoding of rows of some width.

    numbers: of a record. columns, places: int64[c], columns that are written, and the number of each in a record.
    arrays: (number, size) of the head of each array.
    """

    def __init__(self, fields: Sequence[Field], width: int) -> None:
        places: dict[int, int] = {}
        self.arrays: list[tuple[int, int]] = []
        end = 0
        for field in fields:
            if field.columns.start >= width:
                end += 1  # An array that these rows have not: it is empty.
            elif field.is_array:
                # An array of b buckets is b, the buckets, and 0 for its end.
                self.arrays.append((end, field.size))
                columns = range(field.columns.start, field.columns.stop)
                places |= {column: end + 1 + place for place, column in enumerate(columns)}
                end += field.size + 2
            else:
                places[field.columns.start] = end
                end += 1
        self.numbers = end
        self.columns = np.array(list(places), np.int64)
        self.places = np.array(list(places.values()), np.int64)


class Counts:
    """Encodes and decodes the rows of one layout.

    A row with nothing that the first release does not know is *plain*, and may be written with its schema.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fields = fields_of(layout)
        #: (columns of the rows, whether they are written as plain ones) -> how they are encoded.
        widths = (layout.width, layout.full)
        self._plans = {(width, False): _Plan(self._fields, width) for width in widths}
        plain = fields_of(layout, first=True)
        self._plans |= {(width, True): _Plan(plain, width) for width in widths}
        known = {column for field in plain for column in range(field.columns.start, field.columns.stop)}
        #: Columns that plain rows have nothing in.
        self._later = np.array([column for column in range(layout.full) if column not in known], np.int64)

    def plain(self, values: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[t], the rows that are plain. values: int64[t, width or full]."""
        later = self._later[self._later < values.shape[1]]
        anything: NDArray[np.bool_] = np.any(values[:, later], axis=1)
        return ~anything

    def encode(self, values: NDArray[np.int64], *, plain: bool = False) -> Iterator[bytes]:
        """Encode rows, a record each. values: int64[t, width or full]. An array without observations is empty.

        plain: with the first release's schema; all rows have to be plain.
        """
        plan = self._plans[values.shape[1], plain]
        for first in range(0, len(values), _TOGETHER):
            part = values[first : first + _TOGETHER]
            numbers = np.zeros((len(part), plan.numbers), np.int64)
            numbers[:, plan.places] = part[:, plan.columns]
            keep = np.ones(numbers.shape, np.bool_)
            for head, size in plan.arrays:
                items = slice(head + 1, head + 1 + size)
                observed: NDArray[np.bool_] = np.any(numbers[:, items], axis=1)
                numbers[:, head] = np.where(observed, size, 0)
                keep[:, head + 1 : head + 2 + size] = observed[:, None]
            yield from encode_rows(numbers, keep)

    def rows(self, counts: Sequence[Mapping[str, Any]], without: Collection[str] = ()) -> NDArray[np.int64]:
        """Return the rows of decoded records, int64[r, width or full]; see `row`."""
        rows = [self.row(record, without) for record in counts]
        values = np.zeros((len(rows), max(map(len, rows), default=self._layout.width)), np.int64)
        for number, row in enumerate(rows):
            values[number, : len(row)] = row
        return values

    def row(self, counts: Mapping[str, Any], without: Collection[str] = ()) -> list[int]:
        """Return the row of a decoded record, of layout.width or full columns.

        without: histograms whose buckets are left out.
        Raises UnreadableRecord where a histogram has another number of buckets.
        """
        rare = counts[RARE_FIELD]
        row = [0] * (self._layout.full if rare else self._layout.width)
        for field in self._fields:
            value = counts[field.name]
            if field.name == RARE_FIELD:
                # A later release may have more of them.
                row[self._layout.width :] = [*rare, *[0] * field.size][: field.size] if rare else []
            elif not field.is_array:
                row[field.columns.start] = value
            elif value and field.name.removesuffix("_buckets") not in without:
                if len(value) != field.size:
                    raise UnreadableRecord(
                        f"A durable record has {len(value)} buckets in {field.name}, and metrics.buckets gives "
                        f"{field.size}. Set metrics.buckets as it was when the record was written."
                    )
                row[field.columns] = value
        return row

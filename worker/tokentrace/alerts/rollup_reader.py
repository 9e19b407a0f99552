"""Reading rollups: a record becomes arrays, without an object for each number in it.

Every number ends at a byte whose high bit is clear, so all of them are found at once. What could be the minute of a row
is known by its length and its last byte; for each of these it is computed where the next row would begin, for all at
once, and Python only follows the chain from the first. Only the columns that are needed are decoded, and names are read
when they are met for the first time. A record that does not look as tokentrace writes it is read by fastavro instead.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import fastavro
import numpy as np
from numpy.typing import NDArray

from tokentrace.decode.schema_tree import parse_schema
from tokentrace.decode.schemas.files import bundled_schema
from tokentrace.errors import UnreadableRecord
from tokentrace.model.arrays import Ints, widened
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import BASE_LABELS, Group
from tokentrace.model.spans import STATUSES
from tokentrace.model.varint import decode_at
from tokentrace.state.counts import Counts, Field, fields_of
from tokentrace.state.headers import Headers
from tokentrace.state.records import ROLLUP_DIMENSIONS, decode_rollup, other_bounds, rollup_group
from tokentrace.state.schemas import PREFIX_BYTES, record_schemas

log = logging.getLogger(__name__)

_DIMENSIONS: Final = parse_schema({"type": "map", "values": "string"})
#: Most dimensions of a group that are read with the others.
_MOST_ENTRIES: Final = 32


@dataclass(frozen=True, slots=True)
class Rollup:
    """A record of r rows. minutes, groups, statuses: int64[r]. values: int64[r, columns that were asked for].

    replica: its writer. source_partitions, reached_us, clamped: see `Progress` of `state.codec`.
    """

    replica: str
    committed_at_us: int
    minutes: Ints
    groups: Ints
    statuses: Ints
    values: Ints
    source_partitions: int
    reached_us: Mapping[int, int]
    clamped: int


class _NotPlain(Exception):
    """The record has to be read the slow way."""


class _Form:
    """Layout of the rows of a record.

    leading: sums before the first array. arrays: (size, sums that follow it) of each array.
    dimensions: whether a map of them follows the labels.
    """

    def __init__(self, fields: Sequence[Field], layout: Layout, columns: Ints, *, dimensions: bool = False) -> None:
        self.dimensions = dimensions
        self.leading, self.arrays = _arrays_of(fields)
        self._fields, self._layout, self._columns = fields, layout, columns
        self._patterns: dict[int, Ints] = {}

    def offsets(self, pattern: int) -> Ints:
        """Return column -> its distance from the first sum in numbers, -1 where it is 0 and not written.

        pattern: bit i is set where histogram i is written.
        """
        found = self._patterns.get(pattern)
        if found is None:
            offsets = np.full(self._layout.full, -1, np.int64)
            end = array = 0
            for field in self._fields:
                if not field.is_array:
                    offsets[field.columns] = end
                    end += 1
                    continue
                if pattern >> array & 1:
                    offsets[field.columns] = range(end + 1, end + 1 + field.size)
                    end += field.size + 1
                end += 1
                array += 1
            found = self._patterns[pattern] = offsets[self._columns]
        return found


class RollupReader:
    """Reads the columns that are needed of rollup records."""

    def __init__(self, layout: Layout, columns: Ints, number: Callable[[Group], int]) -> None:
        """columns: int64[c], numbers of columns of the layout. number: group -> the number to give it."""
        schema = bundled_schema("rollup")
        #: Beginning of a record -> how its rows are laid out: by today's schema, or by the first release's.
        self._forms = {
            record_schemas().first_prefix("rollup"): _Form(fields_of(layout, first=True), layout, columns),
            record_schemas().prefix("rollup"): _Form(fields_of(layout), layout, columns),
            record_schemas().prefix(ROLLUP_DIMENSIONS): _Form(fields_of(layout), layout, columns, dimensions=True),
        }
        # Everything but the rows, which are the last field.
        self._head = parse_schema({**schema, "fields": schema["fields"][:-1]})
        self._layout = layout
        self._bounds = {name: list(histogram.bounds) for name, histogram in layout.histograms.items()}
        self._columns = columns
        self._number = number
        self._names: dict[bytes, int] = {}
        self._warned = False
        self._counts = Counts(layout)

    def read(self, value: bytes, headers: Headers = None) -> Rollup:
        """Read a record of the rollups topic. headers: of its message.

        Raises UnreadableRecord for a record that is not a rollup, is damaged, or has a schema that is not known.
        """
        try:
            rollup = self._read(value, headers)
        except UnreadableRecord:
            raise
        # Damaged numbers take the reading of arrays anywhere: IndexError, ValueError, OverflowError.
        except Exception as error:
            raise UnreadableRecord(f"A rollup record is damaged ({error!r}).") from error
        if len(rollup.statuses) and not 0 <= rollup.statuses.min() <= rollup.statuses.max() < len(STATUSES):
            raise UnreadableRecord("A rollup record is damaged (it has a status that does not exist).")
        return rollup

    def _read(self, value: bytes, headers: Headers) -> Rollup:
        form = self._forms.get(value[:PREFIX_BYTES])
        if form is None:
            return self._resolved(decode_rollup(value, headers))
        stream = io.BytesIO(value)
        stream.seek(PREFIX_BYTES)
        head: Any = fastavro.schemaless_reader(stream, self._head, None)
        if head["bounds"] == self._bounds:
            # Where the bytes are damaged, fastavro says how.
            with suppress(_NotPlain, IndexError, ValueError, OverflowError, EOFError):
                return _rollup(head, *self._rows(value, stream.tell(), form))
        return self._resolved(decode_rollup(value))

    def _rows(self, value: bytes, first: int, form: _Form) -> tuple[Ints, Ints, Ints, Ints]:
        found = _Numbers(np.frombuffer(value, np.uint8, offset=first))
        rows = found.rows(form)
        spans = zip((rows.names_begin + first).tolist(), (rows.names_end + first).tolist(), strict=True)
        names = [value[begin:end] for begin, end in spans]
        groups = list(map(self._names.get, names))
        for row in [row for row, group in enumerate(groups) if group is None]:
            groups[row] = self._new_group(names[row])
        # Histograms that are written, as one number: rows of the same have their columns at the same places.
        patterns, which = np.unique(rows.present @ (1 << np.arange(len(form.arrays))), return_inverse=True)
        offsets = np.zeros((len(patterns), len(self._columns)), np.int64)
        for number, pattern in enumerate(patterns.tolist()):
            offsets[number] = form.offsets(pattern)
        # Most of the units are in no row.
        written = np.flatnonzero((offsets >= 0).any(axis=0))
        places = offsets[:, written][which]
        absent = places < 0
        places += rows.sums[:, None]
        numbers = found.numbered(places.ravel()).reshape(places.shape)
        numbers[absent] = 0
        values = np.zeros((len(places), len(self._columns)), np.int64)
        values[:, written] = numbers
        return rows.minutes, np.array(groups, np.int64), rows.statuses, values

    def _new_group(self, name: bytes) -> int:
        """name: three strings, each behind its length, and the map of the dimensions where the record has them."""
        stream = io.BytesIO(name)
        labels: list[Any] = [fastavro.schemaless_reader(stream, "string", None) for _ in BASE_LABELS]
        dimensions: Any = {}
        if stream.tell() < len(name):
            dimensions = fastavro.schemaless_reader(stream, _DIMENSIONS, None)
        model, provider, caller = labels
        group = Group(model, provider, caller, tuple(sorted(dimensions.items())))
        self._names[name] = number = self._number(group)
        return number

    def _resolved(self, record: Mapping[str, Any]) -> Rollup:
        """Read a decoded record: of another schema, with other bounds, or with another layout of blocks."""
        rows = record["rows"]
        other = other_bounds(self._bounds, record["bounds"])
        if other and not self._warned:
            self._warned = True
            log.warning(
                "Some replicas count with other buckets (%s); alerts leave these out until all have the same "
                "metrics.buckets.",
                ", ".join(other),
            )
        values = widened(self._counts.rows([row["counts"] for row in rows], other), self._layout.full)
        return _rollup(
            record,
            np.array([row["minute"] for row in rows], np.int64),
            np.array([self._number(rollup_group(row)) for row in rows], np.int64),
            np.array([STATUSES.index(row["status"]) for row in rows], np.int64),
            values[:, self._columns],
        )


def _rollup(head: Mapping[str, Any], minutes: Ints, groups: Ints, statuses: Ints, values: Ints) -> Rollup:
    return Rollup(
        head["replica"],
        head["committed_at"],
        minutes,
        groups,
        statuses,
        values,
        head["source_partitions"],
        {partition["partition"]: partition["event_time"] for partition in head["reached"]},
        head["clamped"],
    )


def _arrays_of(fields: Sequence[Field]) -> tuple[int, list[tuple[int, int]]]:
    """Return (sums before the first array, (size, sums that follow it) of each array)."""
    leading = 0
    arrays: list[tuple[int, int]] = []
    for field in fields:
        if field.is_array:
            arrays.append((field.size, 0))
        elif arrays:
            size, following = arrays[-1]
            arrays[-1] = size, following + 1
        else:
            leading += 1
    return leading, arrays


@dataclass(frozen=True, slots=True)
class _Rows:
    """Positions of r rows.

    minutes, statuses: int64[r]. names_begin, names_end: int64[r], bytes. sums: int64[r], the number that is the first
    sum. present: bool[r, histograms], true where the buckets are written.
    """

    minutes: Ints
    statuses: Ints
    names_begin: Ints
    names_end: Ints
    sums: Ints
    present: NDArray[np.bool_]


class _Numbers:
    """The numbers of an array of rows. A wrong place gives some number, not an error."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        ending = data < 0x80
        self._data = data
        self._ends = np.flatnonzero(ending)
        self._ended = np.cumsum(ending, dtype=np.int32)

    def numbered(self, places: Ints) -> Ints:
        """Return the numbers at these places, from 1 on: a number begins where the one before ends."""
        return self._decoded(self._end(places - 1) + 1, self._end(places))

    def rows(self, form: _Form) -> _Rows:
        """Return all rows, which are laid out like this.

        Raises _NotPlain unless they are one block that ends with the record.
        """
        count = int(self._decoded(np.zeros(1, np.int64), self._ends[:1])[0]) if len(self._ends) else -1
        if count < 0:
            raise _NotPlain
        starts = self._like_the_first() if count else np.zeros(0, np.int64)
        if count > len(starts):
            raise _NotPlain
        rows, following = self._read(starts, form)
        chosen, last = self._chained(starts, following, count)
        if last != len(self._ends) - 1 or self._data[-1]:
            raise _NotPlain
        return _Rows(*(column[chosen] for column in rows))

    def _like_the_first(self) -> Ints:
        """Return the places at which a row may begin.

        The minutes of one record take the same number of bytes and have the same highest bits.
        """
        ends = self._ends
        alike = self._place(np.flatnonzero(self._data == self._data[ends[1]]))
        alike = alike[alike > 0]
        same: NDArray[np.bool_] = ends[alike] - ends[alike - 1] == ends[1] - ends[0]
        return alike[same]

    def _read(self, places: Ints, form: _Form) -> tuple[tuple[Any, ...], Ints]:
        """Return the rows that would begin at these places, and the places behind them."""
        minutes = self.numbered(places)
        names_begin = begin = self._end(places) + 1
        for _ in BASE_LABELS:
            begin = self._behind_string(begin)
        if form.dimensions:
            begin = self._behind_map(begin)
        place = self._place(begin)
        statuses = self._decoded(begin, self._end(place))
        following = place + 1 + form.leading
        present = np.zeros((len(places), len(form.arrays)), np.bool_)
        for number, (size, sums_after) in enumerate(form.arrays):
            present[:, number] = some = self._data.take(self._end(following - 1) + 1, mode="clip") != 0
            following = following + np.where(some, size + 2, 1) + sums_after
        return (minutes, statuses, names_begin, begin, place + 1, present), following

    def _behind_string(self, begin: Ints) -> Ints:
        end = self._end(self._place(begin))
        return end + 1 + self._decoded(begin, end)

    def _behind_map(self, begin: Ints) -> Ints:
        """Return where maps of strings end: one block, or none."""
        end = self._end(self._place(begin))
        count = self._decoded(begin, end)
        begin = end + 1
        most = int(count.max(initial=0))
        if most > _MOST_ENTRIES:
            # What only looks like a row may have any number of them.
            count = np.where(count > _MOST_ENTRIES, 0, count)
            most = int(count.max(initial=0))
        for entry in range(most):
            behind = self._behind_string(self._behind_string(begin))
            begin = np.where(count > entry, behind, begin)
        return begin + (count > 0)

    @staticmethod
    def _chained(starts: Ints, following: Ints, count: int) -> tuple[Ints, int]:
        """Return (the starts that are rows, the place behind the last row)."""
        links = np.searchsorted(starts, following).clip(max=len(starts) - 1)
        links[starts[links] != following] = -1
        link = links.tolist()
        chosen = np.zeros(count, np.int64)
        at = 0
        for row in range(count):
            if at < 0:
                raise _NotPlain
            chosen[row] = at
            at = link[at]
        return chosen, int(following[chosen[-1]]) if count else 0

    def _end(self, places: Ints) -> Ints:
        return self._ends.take(places, mode="clip")

    def _place(self, begins: Ints) -> Ints:
        """Return the places, from 1 on, of the numbers that begin at these bytes.

        The byte before is the end of a string, whose bytes may look like numbers.
        """
        return self._ended.take(begins - 1, mode="clip").astype(np.int64)

    def _decoded(self, begins: Ints, ends: Ints) -> Ints:
        return decode_at(self._data, begins, ends)

"""Reading rollups: a record becomes arrays, without an object for each number in it.

All numbers of a record are decoded at once, as bytes that end where the high bit is clear. Python then walks the rows
once, to find where each begins; names are read when they are met for the first time. A name that is not ASCII would
look like a number, so its record is read by fastavro instead, as is one that was written with other buckets.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import fastavro
import numpy as np
from numpy.typing import NDArray

from ..decode.resolve import parse
from ..errors import RuntimeFailure
from ..measures import SUMS, Layout
from ..publish import MARKER
from ..schemas.files import bundled_schema, fingerprint_of
from ..snapshot import Group
from ..spans import STATUSES
from ..state.codec import decode_record

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
HEADER_BYTES: Final = 10
_LONGEST_VARINT: Final = 10


@dataclass(frozen=True, slots=True)
class Rollup:
    """A record of r rows. minutes, groups, statuses: int64[r]. values: int64[r, columns that were asked for].

    source_partitions, reached_us, clamped: see `Progress` of `state.codec`.
    """

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


class RollupReader:
    """Reads the columns that are needed of rollup records."""

    def __init__(self, layout: Layout, columns: Ints, number: Callable[[Group], int]) -> None:
        """columns: int64[c], numbers of columns of the layout. number: group -> the number to give it."""
        schema = bundled_schema("rollup")
        self._header = MARKER + fingerprint_of(schema)
        assert isinstance(schema, dict)
        # Everything but the rows, which are the last field.
        self._head = parse({**schema, "fields": schema["fields"][:-1]})
        self._layout = layout
        self._bounds = {name: list(each.bounds) for name, each in layout.histograms.items()}
        self._columns = columns
        self._number = number
        self._names: dict[bytes, int] = {}
        self._told = False
        #: Histograms in the order of a row: (first column, buckets, whether its own sum follows).
        self._arrays = [
            (each.first, len(each.bounds) + 1, each.sum >= each.first) for each in layout.histograms.values()
        ]
        self._patterns: dict[tuple[bool, ...], Ints] = {}

    def read(self, value: bytes) -> Rollup:
        """Raises RuntimeFailure for a record of another version."""
        if value[:HEADER_BYTES] != self._header:
            decode_record(value)  # It says what is wrong.
            raise RuntimeFailure("A record of the rollups topic is no rollup.")
        stream = io.BytesIO(value)
        stream.seek(HEADER_BYTES)
        head: Any = fastavro.schemaless_reader(stream, self._head, None)
        try:
            if head["bounds"] != self._bounds:
                raise _NotPlain
            rows = self._rows(value, stream.tell())
        except (_NotPlain, IndexError, EOFError):
            rows = self._slowly(value)
        return Rollup(
            head["committed_at"],
            *rows,
            head["source_partitions"],
            {each["partition"]: each["event_time"] for each in head["reached"]},
            head["clamped"],
        )

    def _rows(self, value: bytes, first: int) -> tuple[Ints, Ints, Ints, Ints]:
        numbers, begins = _varints(np.frombuffer(value, np.uint8, offset=first))
        # Of some eighty numbers a row, ten are looked at one by one: not worth a list of all.
        tokens, at = numbers.data, begins.data
        text = value[first:]
        minutes: list[int] = []
        groups: list[int] = []
        statuses: list[int] = []
        rows_of: dict[tuple[bool, ...], tuple[list[int], list[int]]] = {}
        names, arrays, sums = self._names, self._arrays, len(SUMS)
        i = 1
        left, row = tokens[0], 0
        while left:
            if left < 0:
                # A block that tells its size in bytes.
                left, i = -left, i + 1
            for _ in range(left):
                model = i + 2 + tokens[i + 1]
                provider = model + 1 + tokens[model]
                status = provider + 1 + tokens[provider]
                name = text[at[i + 1] : at[status]]
                group = names.get(name)
                if group is None:
                    group = names[name] = self._new_group(name)
                minutes.append(tokens[i])
                groups.append(group)
                statuses.append(tokens[status])
                place = i = status + 1
                i += sums
                present = []
                for _, size, own_sum in arrays:
                    some = tokens[i] != 0
                    present.append(some)
                    i += (size + 2 if some else 1) + own_sum
                places, which = rows_of.setdefault(tuple(present), ([], []))
                places.append(place)
                which.append(row)
                row += 1
            left = tokens[i]
            i += 1
        values = np.zeros((row, len(self._columns)), np.int64)
        for pattern, (places, which) in rows_of.items():
            offsets = self._offsets(pattern)
            known = offsets >= 0
            taken = numbers[np.array(places)[:, None] + offsets[known]]
            values[np.array(which)[:, None], np.flatnonzero(known)] = taken
        return np.array(minutes, np.int64), np.array(groups, np.int64), np.array(statuses, np.int64), values

    def _offsets(self, pattern: tuple[bool, ...]) -> Ints:
        """Column -> how many numbers behind the first sum it is, -1 where it is 0 and not written."""
        found = self._patterns.get(pattern)
        if found is None:
            offsets = np.full(self._layout.width, -1, np.int64)
            offsets[: len(SUMS)] = range(len(SUMS))
            end = len(SUMS)
            for (first, size, own_sum), some in zip(self._arrays, pattern, strict=True):
                if some:
                    offsets[first : first + size] = range(end + 1, end + 1 + size)
                    end += size + 2
                else:
                    end += 1
                if own_sum:
                    offsets[first + size] = end
                    end += 1
            found = self._patterns[pattern] = offsets[self._columns]
        return found

    def _new_group(self, name: bytes) -> int:
        """name: three strings, each behind its length."""
        stream = io.BytesIO(name)
        return self._number(Group(*(_string(stream) for _ in Group._fields)))

    def _slowly(self, value: bytes) -> tuple[Ints, Ints, Ints, Ints]:
        record = decode_record(value)
        rows = record["rows"]
        values = np.zeros((len(rows), self._layout.width), np.int64)
        other = [name for name, bounds in self._bounds.items() if record["bounds"].get(name) != bounds]
        if other and not self._told:
            self._told = True
            log.warning(
                "Some replicas count with other buckets (%s); alerts leave these out until all have the same "
                "metrics.buckets.",
                ", ".join(other),
            )
        for row, each in zip(rows, values, strict=True):
            counts = row["counts"]
            each[: len(SUMS)] = [counts[name] for name in SUMS]
            for name, histogram in self._layout.histograms.items():
                if name not in other and counts[f"{name}_buckets"]:
                    each[histogram.buckets] = counts[f"{name}_buckets"]
            each[self._layout.histograms["eval_score"].sum] = counts["eval_score_millionths_sum"]
        return (
            np.array([row["minute"] for row in rows], np.int64),
            np.array([self._number(Group(row["model"], row["provider"], row["caller"])) for row in rows], np.int64),
            np.array([STATUSES.index(row["status"]) for row in rows], np.int64),
            values[:, self._columns],
        )


def _string(stream: io.BytesIO) -> str:
    """An Avro string that is ASCII; _NotPlain where it is not."""
    length: Any = fastavro.schemaless_reader(stream, "long", None)
    data = stream.read(length)
    if not data.isascii() or len(data) != length:
        raise _NotPlain
    return data.decode("ascii")


def _varints(data: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """Every number in data: (int64[n], as zigzag encodes them; int64[n], the byte at which each begins)."""
    ends = np.flatnonzero(data < 0x80)
    begins = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - begins + 1
    raw = (data[begins] & 0x7F).astype(np.uint64)
    longer = np.flatnonzero(lengths > 1)
    for place in range(1, _LONGEST_VARINT):
        if not len(longer):
            break
        raw[longer] |= (data[begins[longer] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
        longer = longer[lengths[longer] > place + 1]
    return (raw >> np.uint64(1)).astype(np.int64) ^ -(raw & np.uint64(1)).astype(np.int64), begins

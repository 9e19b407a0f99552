"""The codec of the durable state: totals and increments as Avro records with named fields, and back.

The schemas are `state-cell`, `state-cell-wide`, `state-replica` and `rollup` in `schemas/`; a reader needs no more than
these files. Fields are resolved by name: a sum that is added later is 0 in older records.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace import __version__
from tokentrace.errors import FatalError, UnreadableRecord
from tokentrace.model.measures import RARE_FIELD, RARE_SUMS, Layout
from tokentrace.model.snapshot import ExpiredKey, ExpiredTotals, Group, PartitionAudit
from tokentrace.model.spans import STATUSES
from tokentrace.model.varint import encode_long
from tokentrace.model.wide import LIMIT, NOTHING_CARRIED, Carried, CarriedRows
from tokentrace.state.appearance import Appeared, presence
from tokentrace.state.counts import Counts
from tokentrace.state.headers import Header, Headers
from tokentrace.state.keys import Cell
from tokentrace.state.schemas import PREFIX_BYTES, decode_record, encode_record, record_schemas, schema_headers
from tokentrace.state.totals import Totals

#: Schemas of a rollup record, by whether any row of it has dimensions.
ROLLUP: Final = "rollup"
ROLLUP_DIMENSIONS: Final = "rollup-dimensions"
#: Bytes of the rows in a rollup record: it stays well below the megabyte that a broker takes by default.
ROLLUP_BYTES: Final = 700_000


class Progress(NamedTuple):
    """Event time that a commit has reached; see schemas/rollup.avsc. reached_us: partition -> Unix time."""

    source_partitions: int = 0
    reached_us: Mapping[int, int] = {}
    clamped: int = 0


def other_bounds(ours: Mapping[str, Sequence[float]], written: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the histograms that a writer counted with other bounds. One that it did not know is empty, and fits."""
    return [name for name, bounds in ours.items() if name in written and written[name] != bounds]


class StateCodec:
    """Encodes and decodes the records of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._bounds = {name: list(histogram.bounds) for name, histogram in layout.histograms.items()}
        self._counts = Counts(layout)
        #: Column -> its field, of sums.
        self._names = {
            columns.start: name for name, columns in layout.fields.items() if columns.stop == columns.start + 1
        }

    # -- totals ------------------------------------------------------------------------------------------------------

    def cells(
        self, values: NDArray[np.int64], created_s: NDArray[np.float64], carried: CarriedRows = NOTHING_CARRIED
    ) -> Iterator[bytes]:
        """Encode cells, a record each. values: int64[t, width]. created_s: float64[t], Unix time. carried: by row.

        A cell with nothing but what release 0.1.0 knows is written with its schema, so that a roll-back reads it. Only
        a cell that carries something is a wide record, which 0.1.0 rejects instead of losing a part of it.
        """
        schemas = record_schemas()
        prefix, wide = schemas.prefix("state-cell"), schemas.prefix("state-cell-wide")
        first = schemas.first_prefix("state-cell")
        times_us = np.rint(created_s * 1e6).astype(np.int64).tolist()
        plain = self._counts.plain(values)
        plain[list(carried)] = False
        with_all, with_some = self._counts.encode(values[~plain]), self._counts.encode(values[plain], plain=True)
        for row, (created_at, is_plain) in enumerate(zip(times_us, plain.tolist(), strict=True)):
            if is_plain:
                yield first + encode_long(created_at) + next(with_some)
            elif row in carried:
                yield wide + encode_long(created_at) + next(with_all) + self._carried(carried[row])
            else:
                yield prefix + encode_long(created_at) + next(with_all)

    def is_plain(self, totals: Totals) -> bool:
        """Return whether no cell of these totals has anything but what release 0.1.0 knows."""
        rows = [totals.values, *(row.values[None] for row in totals.expired.values())]
        return all(bool(self._counts.plain(values).all()) for values in rows)

    def _carried(self, carried: Carried) -> bytes:
        """Encode the last field of a wide cell, a map."""
        items = [_string(self._names[column]) + encode_long(count) for column, count in sorted(carried.items())]
        return b"".join([encode_long(len(items)), *items, b"\0"])

    def cell(self, value: bytes) -> tuple[list[int], float]:
        """Decode a cell's record: (its row of the layout as exact integers of any size, Unix time of its creation)."""
        counts, created_at_us = decode_cell(value)
        return self._counts.row(counts), created_at_us / 1e6

    def expired(self, totals: ExpiredTotals) -> bytes:
        """Encode the totals of expired groups; the record is a cell's."""
        carried = {0: totals.carried} if totals.carried else {}
        return next(self.cells(totals.values[None], np.array([totals.created_s]), carried))

    def replica(self, replica: str, topic: str, totals: Totals, dimensions: Iterable[str] = ()) -> bytes:
        """Encode a replica's own record. dimensions: names of those that any group has."""
        return encode_replica(
            {
                "replica": replica,
                "version": __version__,
                "committed_at": round(totals.committed_at_s * 1e6),
                "bounds": self._bounds,
                "partitions": [
                    {
                        "topic": topic,
                        "partition": partition,
                        "offset": offset,
                        **_recorded(totals.partitions.get(partition, PartitionAudit(0, 0, 0))),
                    }
                    for partition, offset in sorted(totals.positions.items())
                ],
                "rejects": [
                    {"reason": reason, "count": count, "created_at": round(totals.rejected_created_s[reason] * 1e6)}
                    for reason, count in sorted(totals.rejected.items())
                ],
                "dimensions": sorted(dimensions),
            },
        )

    def require_same_bounds(self, value: bytes) -> Any:
        """Decode a replica's record.

        Raises FatalError if it was counted with other buckets, which cannot be added to these.
        """
        record = decode_record(value, "state-replica")
        if changed := ", ".join(other_bounds(self._bounds, record["bounds"])):
            raise FatalError(
                f"The committed state of replica {record['replica']!r} has other buckets ({changed}). Restore "
                "metrics.buckets, or forget what it has counted: tokentrace state reset --totals --replica "
                f"{record['replica']}"
            )
        return record

    def totals(
        self,
        value: bytes,
        rows: NDArray[np.int64],
        created_s: NDArray[np.float64],
        changed_s: NDArray[np.float64],
        topic: str,
        expired: Mapping[ExpiredKey, ExpiredTotals] = MappingProxyType({}),
        carried: CarriedRows = NOTHING_CARRIED,
        generations: Mapping[int, int] = MappingProxyType({}),
        appeared: Appeared = MappingProxyType({}),
        shown_until_s: float | None = None,
    ) -> Totals:
        """Decode a replica's record into its totals, with the rows of its cells and what has expired.

        shown_until_s: None where the record's writer did not say; then everything counts as shown.
        Raises FatalError as `require_same_bounds`.
        """
        record = self.require_same_bounds(value)
        audits = [audit for audit in record["partitions"] if audit["topic"] == topic]
        totals = Totals(
            values=rows,
            created_s=created_s,
            changed_s=changed_s,
            present=presence(self._layout, rows, carried),
            rejected={reject["reason"]: reject["count"] for reject in record["rejects"]},
            rejected_created_s={reject["reason"]: reject["created_at"] / 1e6 for reject in record["rejects"]},
            partitions=recorded_audits(record, topic),
            positions={audit["partition"]: audit["offset"] for audit in audits},
            committed_at_s=record["committed_at"] / 1e6,
            expired=expired,
            carried=carried,
            generations=generations,
            appeared=appeared,
        )
        return replace(totals, shown_until_s=totals.newest_s if shown_until_s is None else shown_until_s)

    # -- increments --------------------------------------------------------------------------------------------------

    def rollups(
        self,
        replica: str,
        committed_at_s: float,
        minutes: NDArray[np.int64],
        cells: Sequence[Cell],
        values: NDArray[np.int64],
        progress: Progress,
        starts: Sequence[int] = (0,),
    ) -> Iterator[bytes]:
        """Encode the increments of a commit. minutes: int64[r]. cells: r of them. values: int64[r, width].

        starts: first rows of parts, each of which is in records of its own: no record has a row of the same minute and
        cell twice. Yields no record for a commit without rows that does not bring event time further.
        """
        names: dict[Group, bytes] = {}
        rows = []
        by_dimension = any(group.dimensions for group, _ in cells)
        plain = not by_dimension and bool(self._counts.plain(values).all())
        encoded = self._counts.encode(values, plain=plain)
        for minute, (group, status), counts in zip(minutes.tolist(), cells, encoded, strict=True):
            name = names.get(group)
            if name is None:
                name = names[group] = b"".join(map(_string, group.base))
                if by_dimension:
                    name = names[group] = name + _map(group.dimensions)
            rows.append(encode_long(minute) + name + encode_long(status) + counts)
        if not rows and not progress.reached_us:
            return
        head_fields: dict[str, Any] = {
            "replica": replica,
            "committed_at": round(committed_at_s * 1e6),
            "bounds": self._bounds,
            "source_partitions": progress.source_partitions,
            "reached": [],
            "clamped": 0,
            "rows": [],
        }
        # The last field is an array, which is empty: its end is one byte. What is before it is as in 0.1.0.
        schema = ROLLUP_DIMENSIONS if by_dimension else ROLLUP
        prefix = record_schemas().first_prefix(schema) if plain else record_schemas().prefix(schema)

        def encode_head() -> bytes:
            return prefix + encode_record(schema, head_fields)[PREFIX_BYTES:-1]

        head = encode_head()
        *parts, last = _parts(rows, starts)
        for part in parts:
            yield b"".join([head, encode_long(len(part)), *part, b"\0"])
        head_fields["reached"] = [
            {"partition": partition, "event_time": time_us}
            for partition, time_us in sorted(progress.reached_us.items())
        ]
        head_fields["clamped"] = progress.clamped
        head = encode_head()
        yield b"".join([head, encode_long(len(last)), *last, b"\0"]) if last else head + b"\0"

    def rollup_rows(self, record: Mapping[str, Any]) -> tuple[NDArray[np.int64], list[Cell], NDArray[np.int64]]:
        """Return (minutes int64[r], r cells, values int64[r, width or full]) of a decoded rollup record."""
        rows = record["rows"]
        minutes = np.array([row["minute"] for row in rows], np.int64)
        cells = [(rollup_group(row), STATUSES.index(row["status"])) for row in rows]
        return minutes, cells, self._counts.rows([row["counts"] for row in rows])


def _parts(rows: Sequence[bytes], starts: Sequence[int]) -> list[Sequence[bytes]]:
    """Split the rows at `starts` and into parts of ROLLUP_BYTES and at most one row more.

    Without rows, return one empty part.
    """
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    cuts = (np.flatnonzero(np.diff(ends // ROLLUP_BYTES)) + 1).tolist()
    return [rows[first:last] for first, last in itertools.pairwise([*sorted({0, *starts, *cuts}), len(rows)])]


#: Labels repeat from commit to commit. More of them than this are encoded again each time.
_CACHED_TEXTS: Final = 1 << 14


@lru_cache(_CACHED_TEXTS)
def _string(text: str) -> bytes:
    data = text.encode()
    return encode_long(len(data)) + data


def _map(items: Sequence[tuple[str, str]]) -> bytes:
    """Encode a map of strings."""
    if not items:
        return b"\0"
    return b"".join([encode_long(len(items)), *(_string(text) for item in items for text in item), b"\0"])


def decode_rollup(value: bytes, headers: Headers = None) -> Any:
    """Decode a record of the rollups topic, with or without dimensions; see `decode_record`."""
    schemas = record_schemas()
    if schemas.name(value) is None:
        schemas.learn(headers)
    return decode_record(value, ROLLUP_DIMENSIONS if schemas.name(value) == ROLLUP_DIMENSIONS else ROLLUP, headers)


def rollup_group(row: Mapping[str, Any]) -> Group:
    """Return the group of a row of a decoded rollup record."""
    dimensions = tuple(sorted(row.get("dimensions", {}).items()))
    return Group(row["model"], row["provider"], row["caller"], dimensions)


def is_wide(value: bytes) -> bool:
    """Return whether a cell's record has sums beyond `wide.LIMIT`."""
    return record_schemas().name(value) == "state-cell-wide"


def decode_cell(value: bytes) -> tuple[dict[str, Any], int]:
    """Decode a cell's record: (its counts by field, of any size; microseconds of Unix time of its creation)."""
    wide = is_wide(value)
    record = decode_record(value, "state-cell-wide" if wide else "state-cell")
    counts = record["counts"]
    if wide:
        for name, count in record["carried"].items():
            if name in RARE_SUMS and counts[RARE_FIELD]:
                counts[RARE_FIELD][RARE_SUMS.index(name)] += LIMIT * count
                continue
            if name not in counts:
                raise UnreadableRecord(f"A state-cell-wide record is damaged (it carries a sum {name!r}).")
            counts[name] += LIMIT * count
    return counts, record["created_at"]


def decode_positions(value: bytes, topic: str) -> dict[int, int]:
    """Decode from a replica's record: partition of the input topic -> offset up to which the replica has counted."""
    return counted_positions(decode_record(value, "state-replica"), topic)


def counted_positions(record: Mapping[str, Any], topic: str) -> dict[int, int]:
    """Return from a replica's decoded record: partition of the input topic -> offset up to which it has counted."""
    audits = record["partitions"]
    return {audit["partition"]: audit["offset"] for audit in audits if audit["topic"] == topic}


#: Fields of an audit that are in the record; the others are in a header, see `state.span_audit`.
_AUDITED: Final = ("polled", "counted", "rejected", "duplicates")


def recorded_audits(record: Mapping[str, Any], topic: str) -> dict[int, PartitionAudit]:
    """Return input partition -> its audit, of a replica's record; see `span_audit` for what its headers add."""
    return {
        found["partition"]: PartitionAudit(**{name: found[name] for name in _AUDITED})
        for found in record["partitions"]
        if found["topic"] == topic
    }


def _recorded(audit: PartitionAudit) -> dict[str, int]:
    return {name: getattr(audit, name) for name in _AUDITED}


def encode_replica(record: Mapping[str, Any]) -> bytes:
    """Encode a replica's own record, given as `decode_record` returns it.

    Without dimensions it is written with the schema of 0.1.0, which lacks this last field. With them, 0.1.0 refuses to
    start, since it would overlook the cells.
    """
    value = encode_record("state-replica", record)
    if record["dimensions"]:
        return value
    return record_schemas().first_prefix("state-replica") + value[PREFIX_BYTES:-1]


def replica_headers(value: bytes, wide: bool = False, plain: bool = False) -> list[Header]:
    """Return the headers to write a replica's own record with. They describe its cells too.

    wide: whether any record of it is a wide cell. plain: whether every cell has the first release's schema.
    """
    names = ["state-cell", "state-cell-wide"] if wide else ["state-cell"]
    unused = ["state-cell"] if plain else []
    return [*schema_headers(value), *record_schemas().headers_of(names, unused)]

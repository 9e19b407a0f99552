"""The codec of the durable state: rows of integers as Avro records with named fields, and back.

Values are in single-object encoding with the schemas of `schemas/state-cell.avsc`, `state-replica.avsc` and
`rollup.avsc`, so that a later version finds out by the fingerprint what an earlier one wrote, and a reader needs no
more than these files. Fields have names rather than positions: a sum that is added later is 0 in older records.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import fastavro
import numpy as np
from numpy.typing import NDArray

from tokentrace import __version__
from tokentrace.decode.framing import SINGLE_OBJECT_MARKER
from tokentrace.decode.schema_tree import parse_schema
from tokentrace.decode.schemas.files import bundled_schema, fingerprint_of
from tokentrace.errors import FatalError
from tokentrace.model.measures import SUMS, Layout
from tokentrace.model.snapshot import ExpiredKey, ExpiredTotals, Group, PartitionAudit
from tokentrace.model.spans import STATUSES
from tokentrace.state.totals import Totals
from tokentrace.state.varint import encode_rows, long

#: Histogram -> the field of its sum; the token histograms' sums are the token sums.
_OWN_SUMS: Final = {
    "latency_ms": "latency_us_sum",
    "ttft_ms": "ttft_us_sum",
    "eval_score": "eval_score_millionths_sum",
}
#: Bytes of the rows in a rollup record: it stays well below the megabyte that a broker takes by default.
ROLLUP_BYTES: Final = 700_000

#: Rows encoded together: enough for the array operations, and few enough to stay in the cache.
_TOGETHER: Final = 1000

Cell = tuple[Group, int]


class Progress(NamedTuple):
    """How far a commit brings event time; see `Rollup` in `schemas/rollup.avsc`. reached_us: partition -> Unix time."""

    source_partitions: int = 0
    reached_us: Mapping[int, int] = {}
    clamped: int = 0


#: Made once: `json.dumps` makes one for every call that does not want its defaults.
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def cell_key(replica: str, group: Group, status: int) -> bytes:
    """The key of a cell's record: a JSON array."""
    return _json([replica, *group, STATUSES[status]])


def replica_key(replica: str) -> bytes:
    """The key of a replica's record: a JSON array."""
    return _json([replica])


def folded_key(replica: str, folded: ExpiredKey) -> bytes:
    """The key of a record of what expired: a JSON array, shorter by the labels that it is not told apart by."""
    labels = [] if folded.model is None else [folded.model, folded.provider or ""]
    return _json([replica, *labels, STATUSES[folded.status]])


def parse_key(key: bytes | None) -> tuple[str, Cell | ExpiredKey | None] | None:
    """(replica, its cell, what is folded, or None for its own record); None for a key that is not of this topic."""
    try:
        parts = json.loads(key or b"")
    except ValueError:
        return None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    if len(parts) == 1:
        return parts[0], None
    if len(parts) == 5 and parts[4] in STATUSES:
        return parts[0], (Group(*parts[1:4]), STATUSES.index(parts[4]))
    if len(parts) in (2, 4) and parts[-1] in STATUSES:
        model, provider = parts[1:3] if len(parts) == 4 else (None, None)
        return parts[0], ExpiredKey(model, provider, STATUSES.index(parts[-1]))
    return None


def _json(parts: list[str]) -> bytes:
    return _JSON.encode(parts).encode()


class StateCodec:
    """Encodes and decodes the records of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._bounds = {name: list(each.bounds) for name, each in layout.histograms.items()}
        # The schema's fields are in the layout's order. An array of b buckets is b, the buckets, and 0 for its end.
        starts = {each.first: len(each.bounds) + 1 for each in layout.histograms.values()}
        #: Where each column of a row is among the numbers of a record; (number, size) of each array's head.
        self._places: list[int] = []
        self._arrays: list[tuple[int, int]] = []
        self._numbers = end = 0
        for column in range(layout.width):
            if column in starts:
                self._arrays.append((self._numbers, starts[column]))
                end = column + starts[column]
                self._numbers += 1
            self._places.append(self._numbers)
            self._numbers += 1 + (column == end - 1)

    # -- totals ------------------------------------------------------------------------------------------------------

    def cells(self, values: NDArray[np.int64], created_s: NDArray[np.float64]) -> Iterator[bytes]:
        """values: int64[t, width], created_s: float64[t] -> the record of each cell."""
        _, header = _writer("state-cell")
        times_us = np.rint(created_s * 1e6).astype(np.int64)
        for created_at, counts in zip(times_us.tolist(), self._encoded(values), strict=True):
            yield header + long(created_at) + counts

    def cell(self, value: bytes) -> tuple[list[int], float]:
        """A cell's record -> (its row of the layout, Unix time of its creation)."""
        record = decode_record(value)
        return self._row(record["counts"]), record["created_at"] / 1e6

    def folded(self, totals: ExpiredTotals) -> bytes:
        """The record of what expired; it is a cell's."""
        return next(self.cells(totals.values[None], np.array([totals.created_s])))

    def replica(self, replica: str, topic: str, totals: Totals) -> bytes:
        """A replica's own record."""
        return _encode(
            "state-replica",
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
                        **totals.partitions.get(partition, PartitionAudit(0, 0, 0))._asdict(),
                    }
                    for partition, offset in sorted(totals.positions.items())
                ],
                "rejects": [
                    {"reason": reason, "count": count, "created_at": round(totals.rejected_created_s[reason] * 1e6)}
                    for reason, count in sorted(totals.rejected.items())
                ],
            },
        )

    def totals(
        self,
        value: bytes,
        rows: NDArray[np.int64],
        created_s: NDArray[np.float64],
        changed_s: NDArray[np.float64],
        topic: str,
        folded: Mapping[ExpiredKey, ExpiredTotals] = MappingProxyType({}),
    ) -> Totals:
        """A replica's record with the rows of its cells and what is folded -> its totals.

        Raises FatalError when it was counted with other buckets, which cannot be added to these.
        """
        record = decode_record(value)
        if record["bounds"] != self._bounds:
            changed = ", ".join(name for name, bounds in self._bounds.items() if record["bounds"].get(name) != bounds)
            raise FatalError(
                f"The committed state of replica {record['replica']!r} has other buckets ({changed}). Restore "
                "metrics.buckets, or forget what it has counted: tokentrace state reset --totals --replica "
                f"{record['replica']}"
            )
        partitions = [each for each in record["partitions"] if each["topic"] == topic]
        return Totals(
            values=rows,
            created_s=created_s,
            changed_s=changed_s,
            rejected={each["reason"]: each["count"] for each in record["rejects"]},
            rejected_created_s={each["reason"]: each["created_at"] / 1e6 for each in record["rejects"]},
            partitions={
                each["partition"]: PartitionAudit(*(each[name] for name in PartitionAudit._fields))
                for each in partitions
            },
            positions={each["partition"]: each["offset"] for each in partitions},
            committed_at_s=record["committed_at"] / 1e6,
            folded=folded,
        )

    def positions(self, value: bytes, topic: str) -> dict[int, int]:
        """A replica's record -> input partition -> offset up to which it has counted."""
        partitions = decode_record(value)["partitions"]
        return {each["partition"]: each["offset"] for each in partitions if each["topic"] == topic}

    # -- increments --------------------------------------------------------------------------------------------------

    def rollups(
        self,
        replica: str,
        committed_at_s: float,
        minutes: NDArray[np.int64],
        cells: Sequence[Cell],
        values: NDArray[np.int64],
        progress: Progress,
    ) -> Iterator[bytes]:
        """The increments of a commit. minutes: int64[r]. cells: r of them. values: int64[r, width].

        Nothing where there is nothing to tell.
        """
        names: dict[Group, bytes] = {}
        rows = []
        for minute, (group, status), counts in zip(minutes.tolist(), cells, self._encoded(values), strict=True):
            name = names.get(group)
            if name is None:
                name = names[group] = b"".join(map(_string, group))
            rows.append(long(minute) + name + long(status) + counts)
        if not rows and not progress.reached_us:
            return
        told: dict[str, Any] = {
            "replica": replica,
            "committed_at": round(committed_at_s * 1e6),
            "bounds": self._bounds,
            "source_partitions": progress.source_partitions,
            "reached": [],
            "clamped": 0,
            "rows": [],
        }
        # The last field is an array, of which nothing but its end is there yet.
        head = _encode("rollup", told)[:-1]
        *parts, last = _parts(rows)
        for part in parts:
            yield b"".join([head, long(len(part)), *part, b"\0"])
        told["reached"] = [
            {"partition": partition, "event_time": time_us}
            for partition, time_us in sorted(progress.reached_us.items())
        ]
        told["clamped"] = progress.clamped
        head = _encode("rollup", told)[:-1]
        yield b"".join([head, long(len(last)), *last, b"\0"]) if last else head + b"\0"

    def rollup_rows(self, record: Mapping[str, Any]) -> tuple[NDArray[np.int64], list[Cell], NDArray[np.int64]]:
        """A decoded rollup record -> (minutes int64[r], r cells, values int64[r, width])."""
        rows = record["rows"]
        minutes = np.array([row["minute"] for row in rows], np.int64)
        cells = [(Group(row["model"], row["provider"], row["caller"]), STATUSES.index(row["status"])) for row in rows]
        values = np.array([self._row(row["counts"]) for row in rows], np.int64).reshape(len(rows), self._layout.width)
        return minutes, cells, values

    # -- one row of integers -----------------------------------------------------------------------------------------

    def _encoded(self, values: NDArray[np.int64]) -> Iterator[bytes]:
        """values: int64[t, width] -> each row as a record `Counts`. An array without observations is empty."""
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

    def _row(self, counts: Mapping[str, Any]) -> list[int]:
        width = self._layout.width
        row = [0] * width
        for column, name in enumerate(SUMS):
            row[column] = counts.get(name, 0)
        for name, histogram in self._layout.histograms.items():
            buckets = counts.get(f"{name}_buckets") or [0] * (len(histogram.bounds) + 1)
            row[histogram.buckets] = buckets
            if name in _OWN_SUMS:
                row[histogram.sum] = counts.get(_OWN_SUMS[name], 0)
        if len(row) != width:
            raise FatalError("A state record has another number of buckets than metrics.buckets.")
        return row


# -- single-object encoding --------------------------------------------------------------------------------------------

#: Schemas that this version writes. Earlier versions' files stay in `schemas/`, and are added to `_readers`.
_NAMES: Final = (
    "state-cell", "state-replica", "rollup", "seen-chunk",
    "alert", "alert-delivery", "alert-rule", "alert-evaluator", "alert-silence",
)  # fmt: skip


@cache
def _writer(name: str) -> tuple[Any, bytes]:
    schema = bundled_schema(name)
    # Parsed without logical types: timestamps stay the integers that they are.
    return parse_schema(schema), SINGLE_OBJECT_MARKER + fingerprint_of(schema)


@cache
def _readers() -> dict[bytes, Any]:
    return {header: schema for schema, header in map(_writer, _NAMES)}


def _parts(rows: Sequence[bytes]) -> list[Sequence[bytes]]:
    """The rows in order, in parts of ROLLUP_BYTES and at most one row more; where there are none, one empty part."""
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    cuts = (np.flatnonzero(np.diff(ends // ROLLUP_BYTES)) + 1).tolist()
    return [rows[first:last] for first, last in itertools.pairwise([0, *cuts, len(rows)])]


def _string(text: str) -> bytes:
    data = text.encode()
    return long(len(data)) + data


def _encode(name: str, record: Mapping[str, Any]) -> bytes:
    schema, header = _writer(name)
    out = io.BytesIO()
    out.write(header)
    fastavro.schemaless_writer(out, schema, record)
    return out.getvalue()


def encode_record(name: str, record: Mapping[str, Any]) -> bytes:
    """A record of one of the schemas that this version writes."""
    return _encode(name, record)


def encode_replica(record: Mapping[str, Any]) -> bytes:
    """A replica's own record, as `decode_record` gives it."""
    return _encode("state-replica", record)


def decode_record(value: bytes) -> Any:
    """A record of the state or rollups topic, timestamps as microseconds.

    Raises FatalError for what this version cannot read.
    """
    schema = _readers().get(value[:10])
    if schema is None:
        raise FatalError(
            "The state was written by a newer version of tokentrace, or is no state of tokentrace's; "
            "run at least the version that wrote it."
        )
    return fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)

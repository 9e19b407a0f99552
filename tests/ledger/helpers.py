"""A rollups topic in memory, and a recount of spans by hour that shares no code with the product."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from tests.harness import LAYOUT, Harness
from tests.oracle import FIELDS, cost_of, counted
from tests.spanfactory import message
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.ledger.database import Database
from tokentrace.ledger.follow import Follower
from tokentrace.model.stop import StopSignal
from tokentrace.state import StateCodec
from tokentrace.state.checksums import record_headers
from tokentrace.state.records import Progress

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
#: (hour, model, provider, caller, status) -> sum by name.
Hours = dict[tuple[int, str, str, str, str], Counter[str]]
STATUSES = ("ok", "error", "timeout")
COLUMN = {unit: field for field, unit in FIELDS.items()}
SOURCES = {"reported": "priced_reported", "computed": "priced_computed", "unpriced": "unpriced",
           "estimated": "priced_estimated"}  # fmt: skip


class RollupTopic:
    """The topic as a tail, and the commits of one replica that write it. Each commit is followed by a marker."""

    topic = "g.rollups"

    def __init__(self, **harness: Any) -> None:
        self._harness = Harness(**harness)
        self._codec = StateCodec(LAYOUT)
        self.records: list[PartitionRecord] = []
        self.first = self.end = 0
        self.id = "one"
        self._next = 0

    def commit(self, spans: Iterable[Mapping[str, Any]], at_us: int, replica: str = "r") -> None:
        """Write what a commit of these spans writes, at this Unix time."""
        harness = self._harness
        harness.clock.now_s = at_us / 1e6
        harness.count([message(dict(span)) for span in spans])
        rows, groups = harness.delta.by_minute(), harness.groups
        cells = [
            (groups.groups[group], status)
            for group, status in zip(
                groups.cell_group[rows.cells].tolist(), groups.cell_status[rows.cells].tolist(), strict=True
            )
        ]
        key = replica.encode()
        for value in self._codec.rollups(replica, at_us / 1e6, rows.minutes, cells, rows.values, Progress()):
            self.append(value, at_us, key)
        harness.delta.clear()
        self.end += 1

    def append(self, value: bytes, at_us: int, key: bytes = b"r") -> None:
        """Write one record."""
        self.records.append(PartitionRecord(self.end, value, record_headers(key, value), key, at_us / 1e6))
        self.end += 1

    def expire(self, first: int) -> None:
        """Remove the records before this offset."""
        self.records = [record for record in self.records if record.offset >= first]
        self.first = first

    # -- what a tail does --------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        return True

    def topic_id(self) -> str:
        return self.id

    def bounds(self) -> tuple[int, int]:
        return self.first, self.end

    def known_end(self) -> int:
        return self.end

    def seek(self, offset: int) -> None:
        assert self.first <= offset <= self.end
        self._next = offset

    def poll(self, max_records: int, timeout_s: float) -> list[PartitionRecord]:
        found = [record for record in self.records if record.offset >= self._next][:max_records]
        if found:
            self._next = found[-1].offset + 1
        if len(found) < max_records:
            self._next = self.end
            found.append(PartitionRecord(self.end, None))
        return found


def follower(topic: RollupTopic, url: str, **options: Any) -> Follower:
    return Follower(tail=topic, database=Database(url), layout=LAYOUT, stop=StopSignal(), **options)


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.db'}"


def recount(spans: Iterable[Mapping[str, Any]], counts: Iterable[int] = repeat(1)) -> Hours:
    """Count the spans one by one. counts: how often each was published."""
    hours: Hours = {}
    for one, count in zip(spans, counts, strict=False):
        span = dict(one)
        cell = (span["ended_at"] // HOUR_US, span["model"], span["provider"], span["caller"], span["status"])
        nano, source = cost_of(span)
        sums = hours.setdefault(cell, Counter())
        sums["spans"] += count
        sums["cost_nano_usd"] += count * nano
        sums[SOURCES[source]] += count
        for unit, quantity in counted(span).usage.items():
            sums[COLUMN.get(unit, unit)] += count * round(quantity * (1000 if "second" in unit else 1))
    return {cell: +sums for cell, sums in hours.items() if sums["spans"]}


def hours_of(connection: Any) -> Hours:
    """Read the tables by plain SQL. connection: of a driver, with `execute`."""
    hours: Hours = {}
    for table in ("ledger_hours", "ledger_units"):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT g.model, g.provider, g.caller, h.* FROM {table} h JOIN ledger_groups g USING (group_id)"
        )
        names = [column[0] for column in cursor.description]
        for values in cursor.fetchall():
            row = dict(zip(names, values, strict=True))
            cell = (row["hour"], row["model"], row["provider"], row["caller"], STATUSES[row["status"]])
            sums = hours.setdefault(cell, Counter())
            if "unit" in row:
                sums[row["unit"]] += row["quantity"]
                continue
            for name in names:
                if name not in ("hour", "model", "provider", "caller", "status", "group_id", "source", "booked"):
                    sums[name] += row[name]
    return {cell: +sums for cell, sums in hours.items()}


def sqlite_hours(path: Path) -> Hours:
    with sqlite3.connect(path if path.is_file() else path / "ledger.db") as connection:
        return hours_of(connection)


def position_of(folder: Path) -> Sequence[Any]:
    with sqlite3.connect(folder / "ledger.db") as connection:
        return connection.execute("SELECT * FROM ledger_position").fetchone()  # type: ignore[no-any-return]


def postgresql_hours(url: str) -> Hours:
    import psycopg

    with psycopg.connect(url) as connection:
        return hours_of(connection)

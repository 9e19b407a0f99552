"""A rollups topic in memory, and a recount of spans by hour that shares no code with the product."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from alembic import command

from tests.harness import LAYOUT, Harness
from tests.oracle import FIELDS, cost_of, counted
from tests.spanfactory import message
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.ledger import database as database_module
from tokentrace.ledger.database import Database
from tokentrace.ledger.follow import Follower
from tokentrace.model.stop import StopSignal
from tokentrace.state import StateCodec
from tokentrace.state.checksums import record_headers
from tokentrace.state.records import Progress

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
#: (hour, model, provider, caller, status) -> sum by name. In place of the hour: (hour, from_minute, until_minute).
Hours = dict[tuple[int | tuple[int, int, int], str, str, str, str], Counter[str]]
_KEYS = {"hour", "from_minute", "until_minute", "model", "provider", "caller", "status", "group_id", "source", "booked"}
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


def part_of(ended_us: int, zones: Iterable[str]) -> tuple[int, int, int]:
    """Return the hour of a call, and the minutes of it that the ledger keeps apart: quarters at the turns of months."""
    ended = datetime.fromtimestamp(ended_us // 1_000_000, UTC)
    hour = ended.replace(minute=0, second=0)
    turns = hour.replace(day=1, hour=0), (hour.replace(day=1, hour=0) + timedelta(days=31)).replace(day=1)
    cuts = {0, 60}
    if any(timedelta(hours=-14) <= hour - turn < timedelta(hours=12) for turn in turns):
        cuts |= {15, 30, 45}
    for zone in zones:
        clock = [(hour + timedelta(minutes=at)).astimezone(ZoneInfo(zone)).time() for at in range(60)]
        cuts |= {at for at in range(60) if (clock[at].hour, clock[at].minute) == (0, 0)}
    earlier, later = ([cut for cut in cuts if (cut > ended.minute) is after] for after in (False, True))
    return ended_us // HOUR_US, max(earlier), min(later)


def recount(
    spans: Iterable[Mapping[str, Any]], counts: Iterable[int] = repeat(1), zones: Sequence[str] | None = None
) -> Hours:
    """Count the spans one by one. counts: how often each was published. zones: count by parts of hours."""
    hours: Hours = {}
    for one, count in zip(spans, counts, strict=False):
        span = dict(one)
        when = span["ended_at"] // HOUR_US if zones is None else part_of(span["ended_at"], zones)
        cell = (when, span["model"], span["provider"], span["caller"], span["status"])
        nano, source = cost_of(span)
        sums = hours.setdefault(cell, Counter())
        sums["spans"] += count
        sums["cost_nano_usd"] += count * nano
        sums[SOURCES[source]] += count
        for unit, quantity in counted(span).usage.items():
            sums[COLUMN.get(unit, unit)] += count * round(quantity * (1000 if "second" in unit else 1))
    return {cell: +sums for cell, sums in hours.items() if sums["spans"]}


def hours_of(connection: Any, *, parts: bool = False) -> Hours:
    """Read the tables by plain SQL. connection: of a driver, with `execute`. parts: keep those of an hour apart."""
    hours: Hours = {}
    for table in ("ledger_hours", "ledger_units"):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT g.model, g.provider, g.caller, h.* FROM {table} h JOIN ledger_groups g USING (group_id)"
        )
        names = [column[0] for column in cursor.description]
        for values in cursor.fetchall():
            row = dict(zip(names, values, strict=True))
            when = (row["hour"], row["from_minute"], row["until_minute"]) if parts else row["hour"]
            cell = (when, row["model"], row["provider"], row["caller"], STATUSES[row["status"]])
            sums = hours.setdefault(cell, Counter())
            if "unit" in row:
                sums[row["unit"]] += row["quantity"]
                continue
            for name in names:
                if name not in _KEYS:
                    sums[name] += row[name]
    return {cell: +sums for cell, sums in hours.items()}


def sqlite_hours(path: Path, *, parts: bool = False) -> Hours:
    with sqlite3.connect(path if path.is_file() else path / "ledger.db") as connection:
        return hours_of(connection, parts=parts)


def fill_first_tables(database: Database, *more: str) -> list[Any]:
    """Make the tables of migration 0001, with rows. more: statements. Return what a later migration has to keep."""
    config = database_module._alembic()
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO ledger_groups VALUES (1, 'i', 'gpt-4o', 'openai', 'search', '{}')")
        for hour in range(4):
            sums = ", ".join(map(str, (hour + 100, 10, *range(15))))
            connection.exec_driver_sql(f"INSERT INTO ledger_hours VALUES ({hour}, 1, 0, 1, 20000, {sums})")
            connection.exec_driver_sql(f"INSERT INTO ledger_units VALUES ({hour}, 1, 0, 1, 20000, 'pages', {hour + 1})")
        connection.exec_driver_sql("INSERT INTO ledger_corrections VALUES (1, 86400000000, 2, 4, 'contract', 'p.yml')")
        connection.exec_driver_sql("INSERT INTO ledger_correction_cells VALUES (1, 3, 1, 0, 1, -50)")
        for statement in more:
            connection.exec_driver_sql(statement)
        costs = [tuple(row) for row in connection.exec_driver_sql("SELECT * FROM ledger_costs ORDER BY time, spans")]
    hours = [(hour, 0, 60, 10, hour + 1) for hour in range(4)]
    return [costs, hours, [(7_200_000_000, 14_400_000_000)], [(3, 0, 60, -50)]]


def what_is_kept(database: Database) -> list[Any]:
    """Read what `fill_first_tables` has written, as it is now."""
    with database.begin() as connection:
        return [
            [tuple(row) for row in connection.exec_driver_sql(query)]
            for query in (
                "SELECT * FROM ledger_costs ORDER BY time, spans",
                "SELECT h.hour, h.from_minute, h.until_minute, spans, quantity FROM ledger_hours h JOIN ledger_units u "
                "USING (hour, group_id, status, source, from_minute, until_minute, booked) ORDER BY h.hour",
                "SELECT from_us, until_us FROM ledger_corrections",
                "SELECT hour, from_minute, until_minute, cost_nano_usd FROM ledger_correction_cells",
            )
        ]


def position_of(folder: Path) -> Sequence[Any]:
    with sqlite3.connect(folder / "ledger.db") as connection:
        return connection.execute("SELECT * FROM ledger_position").fetchone()  # type: ignore[no-any-return]


def postgresql_hours(url: str, *, parts: bool = False) -> Hours:
    import psycopg

    with psycopg.connect(url) as connection:
        return hours_of(connection, parts=parts)

"""(l) The ledger: rollups into SQLite, hours of many groups, and what they take on disk.

The rollups are those of a worker that commits a minute at once: a row of each group, for every minute of an hour. The
baseline decodes them with fastavro and adds row by row.
"""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.services.kafka import KafkaBroker

from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.ledger.database import Database
from tokentrace.ledger.follow import Follower
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group
from tokentrace.model.stop import StopSignal
from tokentrace.state import StateCodec
from tokentrace.state.records import Progress, decode_rollup

from .effort import Effort
from .measure import Figure, Row, in_turns
from .workers import counting_beside

FIRST_MINUTE: Final = 29_000_000 // 60 * 60
#: Minutes of an hour that a group is active in.
MINUTES: Final = 60
_USED: Final = {
    "cost_nano_usd": 50_000_000, "spans": 40, "prompt_tokens": 60_000, "completion_tokens": 9_000,
    "cached_prompt_tokens": 20_000, "reasoning_tokens": 900,
}  # fmt: skip


class Rollups:
    """A topic in memory: hours of rollups of all groups."""

    topic = "bench.rollups"

    def __init__(self, groups: int, hours: int) -> None:
        layout = Layout.build()
        codec = StateCodec(layout)
        rng = np.random.default_rng(0)
        names = [Group(f"model-{n % 200}", f"provider-{n % 7}", f"caller-{n}") for n in range(groups)]
        cells = [(group, 0) for group in names]
        values = np.zeros((groups, layout.width), np.int64)
        self.records: list[PartitionRecord] = []
        self.rows = groups * hours * MINUTES
        for minute in range(hours * MINUTES):
            for name, most in _USED.items():
                values[:, layout.column(name)] = rng.integers(1, most, groups)
            values[:, layout.column("priced_computed")] = values[:, layout.column("spans")]
            minutes = np.full(groups, FIRST_MINUTE + minute)
            at_s = 60.0 * (FIRST_MINUTE + minute + 1)
            for value in codec.rollups("bench", at_s, minutes, cells, values, Progress(1, {0: round(at_s * 1e6)})):
                self.records.append(PartitionRecord(len(self.records), value, None, b"", at_s))
        self._next = 0

    def exists(self) -> bool:
        """Return True."""
        return True

    def topic_id(self) -> str:
        """Return nothing."""
        return ""

    def bounds(self) -> tuple[int, int]:
        """Return the offsets."""
        return 0, len(self.records)

    def known_end(self) -> int:
        """Return the offset behind the last record."""
        return len(self.records)

    def seek(self, offset: int) -> None:
        """Continue there."""
        self._next = offset

    def poll(self, max_records: int, timeout_s: float) -> list[PartitionRecord]:
        """Return the next records, and the end."""
        found = self.records[self._next : self._next + max_records]
        self._next += len(found)
        return found or [PartitionRecord(len(self.records), None)]


def run(effort: Effort, broker: KafkaBroker | None) -> Figure:
    """Measure cells a second against the baseline, bytes of a cell, and counting beside the ledger in a worker."""
    rollups = Rollups(effort.alert_groups, effort.ledger_hours)
    sizes: list[float] = []

    def ledger() -> float:
        with tempfile.TemporaryDirectory() as folder:
            database = Database(f"sqlite:///{folder}/ledger.db")
            follower = Follower(tail=rollups, database=database, layout=Layout.build(), stop=StopSignal())
            began = time.perf_counter()
            follower.run(until_end=True)
            seconds = time.perf_counter() - began
            database.close()
            sizes.append(_bytes_per_cell(Path(folder, "ledger.db")))
        return rollups.rows / seconds

    def row_by_row() -> float:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            rows = _row_by_row(rollups.records[:3], Path(folder))
            return rows / (time.perf_counter() - began)

    ours, plain = in_turns(max(effort.process_repeats, 1), ledger, row_by_row)
    ratio = ours.over(plain)
    year_gb = sizes[-1] * 10_000 * 8760 / 1e9
    case = f"{effort.alert_groups} groups, {effort.ledger_hours} h of minutes, SQLite"
    rows = [
        Row(case, ours.text(" M cells/s", 1e6), ratio.text(), "fastavro + row by row", ">= 0.1 M"),
        Row("size of an hour of a group", f"{sizes[-1]:.0f} bytes, {year_gb:.1f} GB a year of 10000 groups"),
    ]
    results = {"cells_per_s": ours.median, "vs_row_by_row": ratio.median, "bytes_per_cell": sizes[-1]}
    if broker is not None:
        row, results["counting_vs_without"] = _in_the_worker(effort, broker)
        rows.append(row)
    return Figure("l ledger", rows, {"ledger": results})


def _in_the_worker(effort: Effort, broker: KafkaBroker) -> tuple[Row, float]:
    with tempfile.TemporaryDirectory() as folder:

        def sections() -> dict[str, Any]:
            """Every turn is another group, whose ledger is another database."""
            return {"ledger": {"url": f"sqlite:///{folder}/{uuid.uuid4().hex}.db", "in_worker": True}}

        without, with_ = counting_beside(effort, broker, "bench-ledger", sections)
    ratio = with_.over(without)
    case = f"counting with the ledger in the worker, {effort.alert_groups} groups"
    return Row(case, with_.text(" M spans/s", 1e6), ratio.text(), "without the ledger"), ratio.median


def _bytes_per_cell(path: Path) -> float:
    """Return the size of a row of hours, without the names of the groups."""
    before = path.stat().st_size
    connection = sqlite3.connect(path, isolation_level=None)
    (cells,) = connection.execute("SELECT count(*) FROM ledger_hours").fetchone()
    for statement in ("DELETE FROM ledger_hours", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
        connection.execute(statement).fetchall()
    connection.close()
    return (before - path.stat().st_size) / float(cells)


def _row_by_row(records: list[PartitionRecord], folder: Path) -> int:
    names = list(_USED)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in names)
    with sqlite3.connect(folder / "plain.db") as connection:
        connection.execute(
            f"CREATE TABLE hours (hour, model, provider, caller, status, {', '.join(names)}, "
            "PRIMARY KEY (hour, model, provider, caller, status)) WITHOUT ROWID"
        )
        statement = (
            f"INSERT INTO hours VALUES ({', '.join('?' * (5 + len(names)))}) "
            f"ON CONFLICT (hour, model, provider, caller, status) DO UPDATE SET {sums}"
        )
        rows = list(itertools.chain.from_iterable(_rows(record.value or b"", names) for record in records))
        for row in rows:
            connection.execute(statement, row)
    return len(rows)


def _rows(value: bytes, names: list[str]) -> Iterator[tuple[Any, ...]]:
    for row in decode_rollup(value)["rows"]:
        counts = row["counts"]
        labels = (row["model"], row["provider"], row["caller"], row["status"])
        yield (row["minute"] // 60, *labels, *(counts[name] for name in names))

"""A rollups topic in memory, and a feed that follows it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tests.alerts.rollups import Topics
from tests.harness import LAYOUT, NOW_S, Clock
from tests.services.workers import wait_for
from tokentrace.errors import UsageError
from tokentrace.exposition.ui.feed import RollupFeed
from tokentrace.exposition.ui.inquiry import Inquiry
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.model.stop import StopSignal
from tokentrace.state.checksums import record_headers

NOW_MINUTE = int(NOW_S // 60)


def at(minute: int, **fields: Any) -> dict[str, Any]:
    """Times of a span that ended in a minute, counted from the present one."""
    ended_us = (NOW_MINUTE + minute) * 60_000_000 + 1_000_000
    return {"started_at": ended_us - 1000, "ended_at": ended_us, **fields}


class MemoryLog:
    """Rollups, as `RollupsLog` gives them. Every second offset is a transaction's marker."""

    def __init__(self) -> None:
        self._topics = Topics()
        self.first = 0
        self.available = True
        #: Offsets at which readers began, in order, and how many of them are open.
        self.begun: list[int] = []
        self.open = 0

    def write(self, *spans: dict[str, Any], written_s: float = NOW_S) -> None:
        """Write the rollups of a commit of these spans."""
        self._topics.commit(0, spans, written_s=written_s)

    def recreate(self) -> None:
        """Another, empty topic takes the name."""
        self._topics = Topics()

    def damage(self) -> None:
        """Write a record that is not a rollup."""
        self._topics.rollups.append((NOW_S, b"damaged"))

    def records(self, offset: int) -> list[PartitionRecord]:
        """Return the records from an offset on."""
        return [
            PartitionRecord(2 * number, value, record_headers(None, value), None, written_s)
            for number, (written_s, value) in enumerate(self._topics.rollups)
            if 2 * number >= max(offset, self.first)
        ]

    def offset_at(self, time_s: float) -> int | None:
        if not self.available:
            raise UsageError("No Kafka broker answers.")
        return next((record.offset for record in self.records(0) if record.written_s >= time_s), None)

    def end(self) -> int:
        return 2 * self._topics.end

    def read(self, offset: int) -> MemoryReader:
        self.begun.append(offset)
        self.open += 1
        return MemoryReader(self, offset)


class MemoryReader:
    """Gives at most two records at once."""

    def __init__(self, log: MemoryLog, offset: int) -> None:
        self._log, self._offset = log, offset

    def poll(self, max_records: int = 100, timeout_s: float = 0.0) -> Sequence[PartitionRecord]:
        found = self._log.records(self._offset)[: min(max_records, 2)]
        if not found:
            time.sleep(min(timeout_s, 0.02))
        if found:
            self._offset = found[-1].offset + 1
        elif self._offset > self._log.end():
            # As a consumer whose offset does not exist any more.
            self._offset = 0
        return found

    def close(self) -> None:
        self._log.open -= 1


class Following:
    """A feed over a log in memory."""

    def __init__(self, log: MemoryLog, *, inquiries: dict[str, Inquiry] | None = None) -> None:
        self.log = log
        self.stop = StopSignal()
        self.clock, self.monotonic = Clock(), Clock(0.0)
        self.feed = RollupFeed(
            open_log=lambda: self.log,  # type: ignore[arg-type,return-value]
            layout=LAYOUT,
            inquiries=inquiries or {},
            stop=self.stop,
            clock=self.clock,
            monotonic=self.monotonic,
        )

    def spans(self) -> int:
        """Spans that the feed has."""
        with self.feed.minutes() as (minutes, _):
            found = minutes.between(0, NOW_MINUTE + 60)
            return sum(int(minute.values[:, minutes.columns.spans].sum()) for minute in found)

    def wait_for(self, spans: int) -> bool:
        return wait_for(lambda: self.spans() == spans, 5.0)

    def end(self) -> None:
        self.stop.set()
        self.feed.join(5.0)

"""Backlog: the part of the rollups that was written before somebody began to look, read from its newest part on.

It is read beside the counting, whose time it takes: `share` of one core at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.log_bounds import TopicBounds
from tokentrace.kafka.single_partition import PartitionRecord, TailReader

#: Ages in seconds at which parts begin: recent minutes are there at once, and each part is an hour at most.
_AGES_S = (120.0, 900.0, *(3600.0 * hours for hours in range(1, 25)))


class RecordReader(Protocol):
    """Reads a partition onwards from an offset."""

    def poll(self, max_records: int = 100, timeout_s: float = 0.0) -> list[PartitionRecord]: ...

    def close(self) -> None: ...


class RollupsLog:
    """The rollups topic, as the feed reads it."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        """group_id: librdkafka requires one and ACLs apply to it; the feed never joins it."""
        self._clients, self._topic, self._group_id = clients, topic, group_id
        self._bounds = TopicBounds(clients, topic)

    def offset_at(self, time_s: float) -> int | None:
        """Return the offset of the first record that was written at this Unix time or later, None without one."""
        found = self._bounds.first_since({0: time_s}).get(0, -1)
        return found if found >= 0 else None

    def end(self) -> int:
        """Return the offset behind the last record. Raises UsageError if Kafka does not tell it."""
        found = self._bounds.bounds([0])
        return found[0].end if 0 in found else 0

    def read(self, offset: int) -> RecordReader:
        """Return a reader that begins at an offset; the caller closes it."""
        return TailReader(self._clients, topic=self._topic, group_id=self._group_id, offset=offset)


class Backlog:
    """The offset at which to begin to follow the log, and the records before it. Used by one thread."""

    def __init__(self, log: RollupsLog, now_s: float) -> None:
        self._log = log
        self._now_s = now_s
        self._ages = list(_AGES_S)
        self._reader: RecordReader | None = None
        self._part_from_s = now_s
        self._part_end = 0
        #: Unix time since which everything is read.
        self.from_s = now_s
        begin = None
        while begin is None and self._ages:
            self.from_s = now_s - self._ages.pop(0)
            begin = log.offset_at(self.from_s)
        #: The offset from which on the log is to be followed.
        self.begin = log.end() if begin is None else begin
        self._end = self.begin

    def read(self, depth_s: float, apply: Callable[[PartitionRecord], None], most: int) -> bool:
        """Read up to `most` records more, back to so many seconds before the present; return whether there were any."""
        if self._reader is None and not self._next_part(depth_s):
            return False
        assert self._reader is not None
        records = self._reader.poll(most, 0.05)
        for record in records:
            if record.offset >= self._part_end:
                self._finish_part()
                break
            apply(record)
        return bool(records)

    def needs(self, depth_s: float) -> bool:
        """Return whether there is more to read."""
        return self._reader is not None or (bool(self._ages) and self.from_s > self._now_s - depth_s)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _next_part(self, depth_s: float) -> bool:
        while self._ages and self.from_s > self._now_s - depth_s:
            self._part_from_s = self._now_s - self._ages.pop(0)
            first = self._log.offset_at(self._part_from_s)
            if first is not None and first < self._end:
                self._part_end, self._end = self._end, first
                self._reader = self._log.read(first)
                return True
            self.from_s = self._part_from_s
        return False

    def _finish_part(self) -> None:
        self.close()
        self.from_s = self._part_from_s

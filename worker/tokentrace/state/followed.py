"""Followed totals: what every replica has ever counted, read from the state topic and kept up to date.

It is for those who look: it waits for no transaction, and a record that cannot be read costs nobody but itself. A
commit writes a replica's own record behind its cells, so cells are taken over with it, and what expires, which follows,
once it comes to the record's tally: a commit that can be read only in part is not shown in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tokentrace.errors import UnreadableRecord
from tokentrace.kafka.batch import message_offset, message_partition
from tokentrace.kafka.reader import Message, TopicReader
from tokentrace.model.snapshot import ExpiredKey
from tokentrace.state.checksums import require_intact
from tokentrace.state.keys import Cell, parse_key
from tokentrace.state.records import decode_cell
from tokentrace.state.schemas import decode_record, record_schemas
from tokentrace.state.tally import COMPARED, Tally, tally_of
from tokentrace.state.unreadable import RecordPlace

#: Fields of `Counts`, each a number or a list of buckets.
Counts = Mapping[str, Any]
_Records = dict[Cell | ExpiredKey, Message | None]


@dataclass(slots=True)
class ReplicaCounts:
    """Counts of one replica, of all time.

    committed_at_s: Unix time of its last commit, 0 before the first. bounds: histogram -> the upper bounds with which
    it counts. rejected: reason -> messages. cells: group and status, or expired groups -> their counts.
    """

    committed_at_s: float = 0.0
    bounds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    cells: dict[Cell | ExpiredKey, Counts] = field(default_factory=dict)


class FollowedTotals:
    """The totals in one state topic. The first look reads the topic whole, later ones what is new."""

    def __init__(self, reader: TopicReader) -> None:
        self._reader = reader
        self._next: dict[int, int] = {}
        self._replicas: dict[str, ReplicaCounts] = {}
        #: Replica -> records of cells that its own is still to follow; None is a deletion.
        self._waiting: dict[str, _Records] = {}
        #: Replica -> what its last commit came to, None where its record does not say.
        self._tallies: dict[str, Tally | None] = {}
        #: Records that could not be read, each with the reason.
        self.unreadable: list[str] = []

    def refresh(self) -> Mapping[str, ReplicaCounts]:
        """Return replica -> what it has counted by now. Raises FatalError if the topic cannot be read."""
        if not self._next:
            self._next = dict.fromkeys(range(self._reader.partition_count()), 0)
        ends = self._reader.end_offsets(list(self._next))
        if any(end < self._next[partition] for partition, end in ends.items()):
            # The topic was created again.
            self._next = dict.fromkeys(self._next, 0)
            self._replicas, self._waiting, self._tallies, self.unreadable = {}, {}, {}, []
        for message in self._reader.read_to_end(self._next, await_open=False):
            self._next[message_partition(message)] = message_offset(message) + 1
            parsed = parse_key(message.key())
            if parsed is None:
                continue
            replica, key = parsed
            if key is None:
                self._take(replica, message)
                continue
            self._waiting.setdefault(replica, {})[key] = None if message.value() is None else message
        for replica, waiting in self._waiting.items():
            if waiting and replica in self._replicas:
                self._take_expiry(replica, waiting)
        return self._replicas

    def _take(self, replica: str, message: Message) -> None:
        """Take a replica's own record over, with the cells before it."""
        value, headers = message.value(), message.headers()
        waiting = self._waiting.setdefault(replica, {})
        if value is None:
            self._replicas.pop(replica, None)
            waiting.clear()
            return
        known = self._replicas.setdefault(replica, ReplicaCounts())
        self._tallies[replica] = None
        # It says how its cells are written, too.
        record_schemas().learn(headers)
        self._apply(known.cells, waiting)
        with self._noting(message):
            require_intact(message.key(), value, headers)
            self._tallies[replica] = tally_of(headers)
            record = decode_record(value, "state-replica")
            known.committed_at_s = record["committed_at"] / 1e6
            known.bounds = record["bounds"]
            known.rejected = {reject["reason"]: reject["count"] for reject in record["rejects"]}

    def _take_expiry(self, replica: str, waiting: _Records) -> None:
        """Take what expired, which alone is written behind the replica's own record, once that is there whole."""
        if not all(map(_of_expiry, waiting.items())):
            return
        known, tally = self._replicas[replica], self._tallies[replica]
        cells = dict(known.cells)
        self._apply(cells, dict(waiting))
        if tally is None or not any(tally.differences(_tally(cells))):
            known.cells = cells
            waiting.clear()

    def _apply(self, cells: dict[Cell | ExpiredKey, Counts], waiting: _Records) -> None:
        for key, message in waiting.items():
            if message is None:
                cells.pop(key, None)
                continue
            with self._noting(message):
                value = message.value() or b""
                require_intact(message.key(), value, message.headers())
                cells[key] = decode_cell(value)[0]
        waiting.clear()

    @contextmanager
    def _noting(self, message: Message) -> Iterator[None]:
        """Note that a record cannot be read."""
        try:
            yield
        except UnreadableRecord as error:
            problem = f"{RecordPlace.of(message)} cannot be read: {error}"
            if problem not in self.unreadable:
                self.unreadable.append(problem)


def _tally(cells: Mapping[Cell | ExpiredKey, Counts]) -> Tally:
    expired = sum(isinstance(key, ExpiredKey) for key in cells)
    sums = {name: sum(counts[name] for counts in cells.values()) for name in COMPARED}
    return Tally(len(cells) - expired, expired, sums)


def _of_expiry(item: tuple[Cell | ExpiredKey, Message | None]) -> bool:
    key, message = item
    return message is None or isinstance(key, ExpiredKey)

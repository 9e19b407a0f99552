"""Recent rollups: what all replicas have committed within a window that ends now, by group and status.

A rollup counts when it was committed, whatever the times of its spans are: so a rate is how fast spans are counted, as
it is between two scrapes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.errors import FatalError, UnreadableRecord
from tokentrace.kafka.batch import message_offset
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.log_bounds import TopicBounds
from tokentrace.kafka.reader import TopicReader
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group
from tokentrace.model.spans import STATUSES
from tokentrace.state.checksums import require_intact
from tokentrace.state.keys import Cell

#: Shortest time over which a rate is taken, in seconds.
SHORTEST_S: Final = 1.0


class _Commit(NamedTuple):
    """Increments of one commit. keys: int64[r], group * len(STATUSES) + status. values: int64[r, columns]."""

    at_s: float
    keys: Ints
    values: Ints


class RecentRollups:
    """The rollups of the last `window_s` seconds. The first look reads these, later ones what is new."""

    def __init__(
        self,
        clients: KafkaClients,
        topic: str,
        group_id: str,
        layout: Layout,
        columns: Ints,
        window_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """columns: int64[c], columns of the layout to sum. group_id: ACLs apply to it; it is not joined."""
        self._topic = TopicReader(clients, topic, group_id)
        self._bounds = TopicBounds(clients, topic)
        self._window_s, self._clock = window_s, clock
        self._columns = len(columns)
        self._groups: list[Group] = []
        self._numbers: dict[Group, int] = {}
        self._reader = RollupReader(layout, columns, self._number)
        self._commits: deque[_Commit] = deque()
        self._next = -1
        #: Unix time since which the group counts, where it began within the window.
        self._began_s = 0.0
        #: Records that could not be read, each with the reason.
        self.unreadable: list[str] = []

    def refresh(self) -> None:
        """Read what is new. Raises UsageError or FatalError if the topic cannot be read."""
        since_s = self._clock() - self._window_s
        first, whole = self._next < 0, False
        if first:
            self._next, whole = self._first(since_s)
        elif self._topic.end_offsets([0])[0] < self._next:
            raise FatalError("the rollups topic was created again; start this command again.")
        for message in self._topic.read_to_end({0: self._next}, await_open=False):
            self._next = message_offset(message) + 1
            value = message.value() or b""
            try:
                require_intact(message.key(), value, message.headers())
                rollup = self._reader.read(value, message.headers())
            except UnreadableRecord as error:
                self.unreadable.append(f"Offset {message_offset(message)}: {error}")
                continue
            at_s = rollup.committed_at_us / 1e6
            if first and whole and not self._began_s:
                self._began_s = at_s
            self._commits.append(_Commit(at_s, rollup.groups * len(STATUSES) + rollup.statuses, rollup.values))
        # The clocks of replicas differ, so the commits are not quite in order.
        self._commits = deque(commit for commit in self._commits if commit.at_s > since_s)

    @property
    def seconds(self) -> float:
        """Length of the window, in seconds; shorter where the group counts for less long."""
        return max(min(self._window_s, self._clock() - self._began_s), SHORTEST_S)

    def sums(self) -> dict[Cell, Ints]:
        """Return group and status -> the sums of the columns, int64[c]."""
        if not self._commits:
            return {}
        keys, rows = np.unique(np.concatenate([commit.keys for commit in self._commits]), return_inverse=True)
        sums = np.zeros((len(keys), self._columns), np.int64)
        np.add.at(sums, rows, np.concatenate([commit.values for commit in self._commits]))
        cells = [(self._groups[key // len(STATUSES)], key % len(STATUSES)) for key in keys.tolist()]
        return dict(zip(cells, sums, strict=True))

    def _first(self, since_s: float) -> tuple[int, bool]:
        """Return (the offset at which the window begins, whether that is the topic's first record)."""
        bounds = self._bounds.bounds([0])[0]
        found = self._bounds.first_since({0: since_s})[0]
        # Retention removes records from the beginning on: then the first one says nothing.
        return (bounds.end if found < 0 else found), found == bounds.first == 0

    def _number(self, group: Group) -> int:
        number = self._numbers.get(group)
        if number is None:
            number = self._numbers[group] = len(self._groups)
            self._groups.append(group)
        return number

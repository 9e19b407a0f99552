"""Recent rollups: what all replicas have committed within a window that ends now, by group and status.

A rollup counts when it was committed, whatever the times of its spans are: so a rate is how fast spans are counted, as
it is between two scrapes. The window is held in slices, each the sum of its commits: memory depends on the groups, and
not on how many replicas commit how often.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

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
#: Slices of a window.
SLICES: Final = 60
#: Rows of commits that are held until they are summed up, about.
UNSUMMED_ROWS: Final = 100_000

#: (keys, values) of rows. keys: int64[r], group * len(STATUSES) + status. values: int64[r, columns].
_Rows = tuple[Ints, Ints]


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
        self._slice_s = window_s / SLICES
        self._groups: list[Group] = []
        self._numbers: dict[Group, int] = {}
        self._reader = RollupReader(layout, columns, self._number)
        #: Number of a slice, Unix time divided by its length -> rows of its commits.
        self._slices: dict[int, list[_Rows]] = {}
        #: Rows that were added since all slices were summed up.
        self._unsummed = 0
        #: Unix times at which the window begins and ends: with a slice, and at the last look.
        self._since_s = self._until_s = 0.0
        self._next = -1
        #: Unix time since which the group counts, where it began within the window.
        self._began_s = 0.0
        #: Records that could not be read, each with the reason.
        self.unreadable: list[str] = []

    def refresh(self) -> None:
        """Read what is new. Raises UsageError or FatalError if the topic cannot be read."""
        self._until_s = self._clock()
        oldest = math.floor((self._until_s - self._window_s) / self._slice_s)
        self._since_s = oldest * self._slice_s
        first, whole = self._next < 0, False
        if first:
            self._next, whole = self._first(self._since_s)
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
            number = math.floor(at_s / self._slice_s)
            if number >= oldest:
                self._add(number, rollup.groups * len(STATUSES) + rollup.statuses, rollup.values)
        self._slices = {number: rows for number, rows in self._slices.items() if number >= oldest}
        self._sum_up()

    @property
    def seconds(self) -> float:
        """Length of the window at the last look, in seconds; shorter where the group counts for less long."""
        return max(self._until_s - max(self._since_s, self._began_s), SHORTEST_S)

    def sums(self) -> dict[Cell, Ints]:
        """Return group and status -> the sums of the columns, int64[c]."""
        if not self._slices:
            return {}
        keys, sums = _summed(rows for slice_ in self._slices.values() for rows in slice_)
        cells = [(self._groups[key // len(STATUSES)], key % len(STATUSES)) for key in keys.tolist()]
        return dict(zip(cells, sums, strict=True))

    def _add(self, number: int, keys: Ints, values: Ints) -> None:
        self._slices.setdefault(number, []).append((keys, values))
        self._unsummed += len(keys)
        if self._unsummed >= UNSUMMED_ROWS:
            self._sum_up()

    def _sum_up(self) -> None:
        self._slices = {number: [_summed(rows)] if len(rows) > 1 else rows for number, rows in self._slices.items()}
        self._unsummed = 0

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


def _summed(parts: Iterable[_Rows]) -> _Rows:
    """Return the distinct keys of all rows, ascending, and the sums of each."""
    all_keys, all_values = zip(*parts, strict=True)
    keys, values = np.concatenate(all_keys), np.concatenate(all_values)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.add.reduceat(values[order], starts, axis=0)

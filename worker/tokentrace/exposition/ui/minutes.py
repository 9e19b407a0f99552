"""Minutes: what the rollups of all replicas come to, by event minute, group and status, within a bounded memory.

All numbers are integers, so the sums do not depend on the order in which records are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import SUMS, Layout
from tokentrace.model.snapshot import Group
from tokentrace.model.spans import STATUSES
from tokentrace.model.wide import words

#: Minutes that are kept at most: a day.
MOST_MINUTES: Final = 24 * 60
#: Minutes beyond the present that are kept: clocks differ.
AHEAD_MINUTES: Final = 60
#: Memory of the sums. Beyond it the earliest minutes are dropped.
MOST_BYTES: Final = 64 << 20


class Columns:
    """The columns that are read of a rollup, and their places in a row of `Minutes`.

    A row has the plain sums, the buckets of each histogram of `DURATIONS`, the number and the sum of the scores, and
    the high word of the cost, whose low word is in the cost's own place.
    """

    DURATIONS: Final = ("latency_ms", "ttft_ms")

    def __init__(self, layout: Layout) -> None:
        histograms = [layout.histograms[name] for name in self.DURATIONS]
        scores = layout.histograms["eval_score"]
        buckets = [column for histogram in histograms for column in range(layout.width)[histogram.buckets]]
        score_columns = [*range(layout.width)[scores.buckets], scores.sum]
        #: int64[c]: columns of the layout.
        self.read: Ints = np.array([*range(len(SUMS)), *buckets, *score_columns], np.int64)
        self.bounds = {histogram.name: histogram.bounds for histogram in histograms}
        self.buckets: dict[str, slice] = {}
        end = len(SUMS)
        for histogram in histograms:
            self.buckets[histogram.name] = slice(end, end + len(histogram.bounds) + 1)
            end += len(histogram.bounds) + 1
        self._scores = end
        self.score_count, self.score_sum, self.cost_high = end, end + 1, end + 2
        self.width = end + 3
        self.spans, self.cost = layout.column("spans"), layout.column("cost_nano_usd")

    def rows(self, values: Ints) -> Ints:
        """Return rows of values that were read: int64[k, c] -> int64[k, width]."""
        rows = np.empty((len(values), self.width), np.int64)
        rows[:, : self._scores] = values[:, : self._scores]
        rows[:, self.score_count] = values[:, self._scores : -1].sum(axis=1)
        rows[:, self.score_sum] = values[:, -1]
        rows[:, self.cost], rows[:, self.cost_high] = words(values[:, self.cost])
        return rows


class Minute(NamedTuple):
    """Sums of one minute. keys: int64[k], distinct: group * len(STATUSES) + status. values: int64[k, width]."""

    minute: int
    keys: Ints
    values: Ints


class Minutes:
    """The sums of the last day. Used under the lock of its owner."""

    def __init__(self, layout: Layout, most_bytes: int = MOST_BYTES) -> None:
        self.columns = Columns(layout)
        self.groups: list[Group] = []
        #: Minutes before this one were dropped, because there were too many groups to keep them.
        self.dropped_before = 0
        self._numbers: dict[Group, int] = {}
        self._most_bytes = most_bytes
        #: Minute -> (keys, ascending; their values), as `Minute` has them.
        self._minutes: dict[int, tuple[Ints, Ints]] = {}

    def number(self, group: Group) -> int:
        """Return the number of a group, a new one for a group that is met for the first time."""
        found = self._numbers.get(group)
        if found is None:
            found = self._numbers[group] = len(self.groups)
            self.groups.append(group)
        return found

    def add(self, rollup: Rollup, now_minute: int) -> None:
        """Add a record. Minutes that are too old or too far ahead are left out."""
        first = max(now_minute - MOST_MINUTES, self.dropped_before)
        keys = rollup.groups * len(STATUSES) + rollup.statuses
        values = self.columns.rows(rollup.values)
        for minute in np.unique(rollup.minutes).tolist():
            if first <= minute <= now_minute + AHEAD_MINUTES:
                rows = rollup.minutes == minute
                self._add(minute, keys[rows], values[rows])
        for minute in [minute for minute in self._minutes if minute < first]:
            del self._minutes[minute]
        self._bound()

    def between(self, first: int, last: int) -> Iterator[Minute]:
        """Give the minutes from `first` to `last` that have spans, in order."""
        for minute in sorted(minute for minute in self._minutes if first <= minute <= last):
            yield Minute(minute, *self._minutes[minute])

    @property
    def bytes(self) -> int:
        """Memory of the sums."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._minutes.values())

    def _add(self, minute: int, keys: Ints, values: Ints) -> None:
        known = self._minutes.get(minute)
        old_keys, old = known if known is not None else (keys[:0], values[:0])
        merged = np.union1d(old_keys, keys)
        if len(merged) > len(old_keys):
            sums = np.zeros((len(merged), self.columns.width), np.int64)
            sums[np.searchsorted(merged, old_keys)] = old
        else:
            sums = old
        # Rows of a record that fold into the same group are few, and `add.at` is slow.
        if len(np.unique(keys)) == len(keys):
            sums[np.searchsorted(merged, keys)] += values
        else:
            np.add.at(sums, np.searchsorted(merged, keys), values)
        self._minutes[minute] = merged, sums

    def _bound(self) -> None:
        excess = self.bytes - self._most_bytes
        while excess > 0 and len(self._minutes) > 1:
            earliest = min(self._minutes)
            keys, values = self._minutes.pop(earliest)
            excess -= keys.nbytes + values.nbytes
            self.dropped_before = earliest + 1

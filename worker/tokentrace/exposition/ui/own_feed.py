"""Own feed: what this replica counts, for a worker whose guarantee writes no rollups.

It compares the committed totals of one look with those of the look before, so it knows only what is counted while
somebody looks, and puts a span into the minute in which it was committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.exposition.ui.feed import FeedState
from tokentrace.exposition.ui.minutes import Minutes
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.wide import LIMIT

#: Looks that are further apart begin again: nobody knows when the spans between them were counted.
LONGEST_GAP_S: Final = 60.0


class OwnFeed:
    """Gives what `RollupFeed` gives. The methods may be called from any thread."""

    def __init__(
        self, *, replica: str, snapshot: Callable[[], Snapshot], layout: Layout, clock: Callable[[], float] = time.time
    ) -> None:
        """snapshot: the committed totals."""
        self._replica = replica
        self._snapshot = snapshot
        self._layout = layout
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes = Minutes(layout)
        self._last = snapshot()
        self._from_s = self._looked_s = -LONGEST_GAP_S

    def look(self, depth_s: float) -> None:
        """Add what was counted since the last look."""
        with self._lock:
            snapshot, now_s = self._snapshot(), self._clock()
            if snapshot.epoch != self._last.epoch or now_s > self._looked_s + LONGEST_GAP_S:
                self._minutes, self._from_s = Minutes(self._layout), now_s
            elif snapshot is not self._last:
                self._add(snapshot, now_s)
            self._last, self._looked_s = snapshot, now_s

    def join(self, timeout_s: float) -> None:
        """Wait for nothing: this feed runs without a thread."""

    @contextmanager
    def minutes(self) -> Iterator[tuple[Minutes, FeedState]]:
        """Give the sums and the state, which do not change meanwhile."""
        with self._lock:
            state = FeedState(
                from_s=max(self._from_s, self._minutes.dropped_before * 60.0),
                reading=False,
                unreadable=0,
                replicas={self._replica: self._last.committed_at_s},
                problem="",
                fleet=False,
            )
            yield self._minutes, state

    @property
    def answers(self) -> dict[str, Any]:
        """Return nothing: this feed asks Kafka for nothing."""
        return {}

    def _add(self, snapshot: Snapshot, now_s: float) -> None:
        expired, columns = len(snapshot.expired), self._minutes.columns.read
        values = snapshot.values[expired:, columns].copy()
        # Within an epoch, cells are added behind the others.
        last = self._last.values[expired:, columns]
        values[: len(last)] -= last
        # What exceeds LIMIT is carried elsewhere.
        values[values < 0] += LIMIT
        rows = np.flatnonzero(values.any(axis=1))
        cells = snapshot.cell_group[rows].tolist()
        groups = np.array([self._minutes.number(snapshot.groups[group]) for group in cells], np.int64)
        minute = int(now_s // 60)
        rollup = Rollup(
            replica=self._replica,
            committed_at_us=int(snapshot.committed_at_s * 1e6),
            minutes=np.full(len(rows), minute, np.int64),
            groups=groups,
            statuses=snapshot.cell_status[rows].astype(np.int64),
            values=values[rows],
            source_partitions=0,
            reached_us={},
            clamped=0,
        )
        self._minutes.add(rollup, minute)

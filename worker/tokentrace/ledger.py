"""The ledger: committed totals, and the immutable snapshot of them that everyone else reads.

`committed + delta` is the whole state. `after(delta)` computes what the totals would be, so that a commit can write
them; `accept` makes them the committed ones. A commit that is given up accepts nothing, and nothing has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .delta import Changes, Delta, resized
from .errors import RuntimeFailure
from .groups import GroupIndex
from .measures import Layout
from .quality import QualityWindow
from .snapshot import PartitionAudit, Snapshot


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything that was ever counted by this replica; immutable.

    values: int64[k, width]. created_s: float64[k], Unix time of the cell's first commit, 0 where it has none yet.
    rejected: reason -> messages or parts; rejected_created_s: reason -> Unix time of its first.
    partitions: partition -> audit. positions: partition -> offset up to which this replica has counted.
    """

    values: NDArray[np.int64]
    created_s: NDArray[np.float64]
    rejected: Mapping[str, int]
    rejected_created_s: Mapping[str, float]
    partitions: Mapping[int, PartitionAudit]
    positions: Mapping[int, int]
    committed_at_s: float

    @classmethod
    def empty(cls, layout: Layout) -> Totals:
        return cls(np.zeros((0, layout.width), np.int64), np.zeros(0, np.float64), {}, {}, {}, {}, 0.0)

    def plus(self, delta: Delta, changes: Changes, now_s: float) -> Totals:
        """These totals and the delta's.

        Raises RuntimeFailure when a total leaves int64 (9.2 billion USD in one cell).
        """
        values, created_s = self.values, self.created_s
        cells = changes.cells
        if len(cells):
            size = max(len(values), int(cells[-1]) + 1)
            values, created_s = resized(values, size), resized(created_s, size)
            values[cells] += changes.values
            if (values[cells] < 0).any():
                raise RuntimeFailure("A total has outgrown 64 bits; give this replica a new worker.replica_id.")
            created_s[cells[created_s[cells] == 0.0]] = now_s
        rejected, rejected_created_s = dict(self.rejected), dict(self.rejected_created_s)
        for reason, count in delta.reasons.items():
            rejected[reason] = rejected.get(reason, 0) + count
            rejected_created_s.setdefault(reason, now_s)
        partitions = dict(self.partitions)
        for partition in delta.positions:
            before = partitions.get(partition, PartitionAudit(0, 0, 0))
            partitions[partition] = PartitionAudit(
                before.polled + delta.polled[partition],
                before.counted + delta.counted[partition],
                before.rejected + delta.rejected[partition],
                before.duplicates + delta.duplicates[partition],
            )
        positions = {**self.positions, **delta.positions}
        return Totals(values, created_s, rejected, rejected_created_s, partitions, positions, now_s)


class Ledger:
    """Holds the committed totals. `snapshot` may be read from any thread: it is replaced, never changed."""

    def __init__(
        self,
        layout: Layout,
        groups: GroupIndex,
        quality_window_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._layout = layout
        self._groups = groups
        self._quality = QualityWindow(layout, quality_window_s)
        self._clock = clock
        self.totals = Totals.empty(layout)
        self.snapshot = self._snapshot()

    def restore(self, totals: Totals) -> None:
        """Go on from what an earlier run has committed."""
        self.totals = totals
        self.snapshot = self._snapshot()

    def after(self, delta: Delta) -> tuple[Totals, Changes]:
        """What the totals are once `delta` is committed, and the cells that it changes."""
        changes = delta.changes()
        # To the microsecond, as the durable state keeps it: a restart must not move a creation time.
        return self.totals.plus(delta, changes, round(self._clock(), 6)), changes

    def accept(self, totals: Totals, changes: Changes) -> None:
        """`after` has become durable: publish it."""
        self.totals = totals
        self._quality.add(changes, totals.committed_at_s)
        self._quality.expire(totals.committed_at_s)
        self.snapshot = self._snapshot()

    def refresh(self) -> None:
        """Let scores leave the quality window while nothing is committed."""
        if self._quality.expire(self._clock()):
            self.snapshot = self._snapshot()

    def _snapshot(self) -> Snapshot:
        totals = self.totals
        cells = len(totals.values)
        cell_group = self._groups.cell_group[:cells]
        quality_sum, quality_count = self._quality.copy(cells)
        return Snapshot(
            epoch=self._groups.epoch,
            layout=self._layout,
            groups=self._groups.groups,
            cell_group=cell_group,
            cell_status=self._groups.cell_status[:cells],
            values=totals.values,
            created_s=totals.created_s,
            rejected=totals.rejected,
            rejected_created_s=totals.rejected_created_s,
            quality_sum=quality_sum,
            quality_count=quality_count,
            partitions=totals.partitions,
            groups_count=len(self._groups.groups) - 1,
            groups_limit=self._groups.max_groups,
            overflowed_spans=int(totals.values[cell_group == 0, Layout.column("spans")].sum()),
            committed_at_s=totals.committed_at_s,
        )

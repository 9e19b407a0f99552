"""The ledger: committed totals, and the immutable snapshot of them that everyone else reads.

`committed + delta` is the whole state. `after(delta)` computes what the totals would be, so that a commit can write
them; `accept` makes them the committed ones. A commit that is given up accepts nothing, and nothing has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import Changes, Delta, resized
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.errors import RuntimeFailure
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Folded, FoldedTotals, PartitionAudit, Snapshot
from tokentrace.state.expiry import NOTHING_EXPIRED, Expiry, expiry
from tokentrace.state.quality import QualityWindow

#: Idle groups are looked for so many times in the time after which they expire, and at most once in so long.
_LOOKS: Final = 20
_LOOK_AT_MOST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything that was ever counted by this replica; immutable.

    values: int64[k, width]. created_s: float64[k], Unix time of the cell's first commit, 0 where it has none yet.
    changed_s: float64[k], Unix time of the last commit that changed the cell.
    rejected: reason -> messages or parts; rejected_created_s: reason -> Unix time of its first.
    partitions: partition -> audit. positions: partition -> offset up to which this replica has counted.
    folded: what expired groups have counted, which are in no cell any more.
    """

    values: NDArray[np.int64]
    created_s: NDArray[np.float64]
    changed_s: NDArray[np.float64]
    rejected: Mapping[str, int]
    rejected_created_s: Mapping[str, float]
    partitions: Mapping[int, PartitionAudit]
    positions: Mapping[int, int]
    committed_at_s: float
    folded: Mapping[Folded, FoldedTotals] = field(default_factory=dict)

    @classmethod
    def empty(cls, layout: Layout) -> Totals:
        times_s = np.zeros(0, np.float64)
        return cls(np.zeros((0, layout.width), np.int64), times_s, times_s, {}, {}, {}, {}, 0.0)

    def plus(self, delta: Delta, changes: Changes, now_s: float) -> Totals:
        """These totals and the delta's.

        Raises RuntimeFailure when a total leaves int64 (9.2 billion USD in one cell).
        """
        values, created_s, changed_s = self.values, self.created_s, self.changed_s
        cells = changes.cells
        if len(cells):
            size = max(len(values), int(cells[-1]) + 1)
            values = resized(values, size)
            created_s, changed_s = resized(created_s, size), resized(changed_s, size)
            values[cells] += changes.values
            if (values[cells] < 0).any():
                raise RuntimeFailure("A total has outgrown 64 bits; give this replica a new worker.replica_id.")
            created_s[cells[created_s[cells] == 0.0]] = now_s
            changed_s[cells] = now_s
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
        return Totals(
            values, created_s, changed_s, rejected, rejected_created_s, partitions, positions, now_s, self.folded
        )

    def without(self, ended: Expiry, before: NDArray[np.int64], now: NDArray[np.int64]) -> Totals:
        """These totals when expired cells have gone. before, now: int64[c], numbers of the cells that are left."""
        size = int(now.max(initial=-1)) + 1
        columns = []
        for column in (self.values, self.created_s, self.changed_s):
            moved = np.zeros((size, *column.shape[1:]), column.dtype)
            moved[now] = column[before]
            columns.append(moved)
        values, created_s, changed_s = columns
        return replace(self, values=values, created_s=created_s, changed_s=changed_s, folded=ended.folded)


class Ledger:
    """Holds the committed totals. `snapshot` may be read from any thread: it is replaced, never changed."""

    def __init__(
        self,
        layout: Layout,
        groups: GroupIndex,
        quality_window_s: float,
        clock: Callable[[], float] = time.time,
        expire_after_s: float | None = None,
        label_sets: Sequence[frozenset[str]] = (),
    ) -> None:
        """expire_after_s: how long a group may be idle, None: for ever. label_sets: the exposed families' labels."""
        self._expire_after_s = expire_after_s
        self._label_sets = label_sets
        self._look_due_s = 0.0
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

    def expiry(self, totals: Totals) -> Expiry:
        """What ends with the commit that leads to `totals`; nothing where it was looked for a short time ago."""
        now_s = self._clock()
        if self._expire_after_s is None or now_s < self._look_due_s:
            return NOTHING_EXPIRED
        self._look_due_s = now_s + max(self._expire_after_s / _LOOKS, _LOOK_AT_MOST_S)
        return expiry(self._groups, totals, now_s - self._expire_after_s, self._label_sets)

    def accept(self, totals: Totals, changes: Changes, ended: Expiry = NOTHING_EXPIRED) -> None:
        """`after` has become durable, and what `expiry` gave: publish it. Where any ended, cells are renumbered."""
        self._quality.add(changes, totals.committed_at_s)
        if ended:
            before, now = self._groups.retain(ended.keep)
            totals = totals.without(ended, before, now)
            self._quality.renumber(before, now)
        self.totals = totals
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
        values, created_s = totals.values, totals.created_s
        folded = list(totals.folded)
        if folded:
            rows = totals.folded.values()
            values = np.concatenate([np.stack([each.values for each in rows]), values])
            created_s = np.concatenate([np.array([each.created_s for each in rows]), created_s])
            none = np.zeros(len(folded), np.int64)
            quality_sum, quality_count = np.concatenate([none, quality_sum]), np.concatenate([none, quality_count])
        return Snapshot(
            epoch=self._groups.epoch,
            layout=self._layout,
            groups=self._groups.groups,
            cell_group=cell_group,
            cell_status=self._groups.cell_status[:cells],
            values=values,
            created_s=created_s,
            rejected=totals.rejected,
            rejected_created_s=totals.rejected_created_s,
            quality_sum=quality_sum,
            quality_count=quality_count,
            partitions=totals.partitions,
            groups_count=len(self._groups.groups) - 1,
            groups_limit=self._groups.max_groups,
            overflowed_spans=int(totals.values[cell_group == 0, Layout.column("spans")].sum()),
            committed_at_s=totals.committed_at_s,
            folded=folded,
        )

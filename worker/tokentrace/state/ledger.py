"""The ledger: committed totals, and the immutable snapshot of them that every other thread reads.

`preview(delta)` computes the totals that a commit writes; `apply` makes them the committed ones. A commit that fails
applies nothing, so nothing has changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import Changes, Delta
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.model.arrays import widened
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import DimensionUse, Snapshot
from tokentrace.state.expiry import find_expired
from tokentrace.state.quality import QualityWindow
from tokentrace.state.totals import NOTHING_EXPIRED, Expiry, Totals

#: Searches for idle groups during the time after which they expire, and the shortest time between two searches.
_SEARCHES: Final = 20
_SEARCH_INTERVAL_S: Final = 1.0


class Ledger:
    """Holds the committed totals. `snapshot` may be read from any thread: it is replaced, never changed."""

    def __init__(
        self,
        *,
        layout: Layout,
        groups: GroupIndex,
        quality_window_s: float,
        clock: Callable[[], float] = time.time,
        expire_after_s: float | None = None,
        label_sets: Sequence[frozenset[str]] = (),
        seen_until_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """expire_after_s: longest idle time of a group, None: unlimited. label_sets: the exposed families' labels.

        seen_until_s: returns the Unix time until which series began that every scraper has seen.
        """
        self._seen_until_s = seen_until_s
        self._expire_after_s = expire_after_s
        self._label_sets = label_sets
        self._search_due_s = 0.0
        self._layout = layout
        self._groups = groups
        self._quality_window_s = quality_window_s
        self._quality = QualityWindow(layout, quality_window_s)
        self._clock = clock
        self.totals = Totals.empty(layout)
        self.snapshot = self._snapshot()

    def restore(self, totals: Totals) -> None:
        """Start from what an earlier run has committed."""
        if self._groups.budget is not None:
            self._groups.budget.add_revisions(totals.label_sets)
        self.totals = totals
        self.snapshot = self._snapshot()

    def restart(self, totals: Totals) -> None:
        """Replace the totals by those that were read again, whose cells have new numbers."""
        self._quality = QualityWindow(self._layout, self._quality_window_s)
        self.restore(totals)

    def preview(self, delta: Delta) -> tuple[Totals, Changes]:
        """Return the totals once `delta` is committed, and the cells that it changes."""
        changes = delta.changes()
        # To the microsecond, as the durable state keeps it: a restart must not move a creation time.
        now_s = round(self._clock(), 6)
        return self.totals.plus(self._layout, delta, changes, now_s, self._seen_until_s()), changes

    def find_expired(self, totals: Totals) -> Expiry:
        """Return the groups that expire with the commit of `totals`. Between two searches, nothing expires."""
        now_s = self._clock()
        if self._expire_after_s is None or now_s < self._search_due_s:
            return NOTHING_EXPIRED
        self._search_due_s = now_s + max(self._expire_after_s / _SEARCHES, _SEARCH_INTERVAL_S)
        return find_expired(self._groups, totals, now_s - self._expire_after_s, self._label_sets)

    def apply(self, totals: Totals, changes: Changes, expiry: Expiry = NOTHING_EXPIRED) -> None:
        """Publish totals that have become durable. Cells are renumbered when any group expires."""
        self._quality.add(changes, totals.committed_at_s)
        if expiry:
            before, now = self._groups.retain(expiry.keep)
            totals = totals.without(expiry, before, now)
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
        carried, appeared = totals.carried, totals.appeared
        expired = list(totals.expired)
        if expired:
            rows = totals.expired.values()
            carried = {len(expired) + cell: more for cell, more in carried.items()}
            appeared = {len(expired) + cell: fields for cell, fields in appeared.items()}
            carried.update((number, row.carried) for number, row in enumerate(rows) if row.carried)
            full = max(values.shape[1], *(len(row.values) for row in rows))
            values = np.concatenate([np.stack([widened(row.values, full) for row in rows]), widened(values, full)])
            created_s = np.concatenate([np.array([row.created_s for row in rows]), created_s])
            none = np.zeros(len(expired), np.int64)
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
            groups_count=self._groups.base_groups,
            groups_limit=self._groups.max_groups,
            overflowed_spans=int(totals.values[cell_group == 0, Layout.column("spans")].sum()),
            committed_at_s=totals.committed_at_s,
            expired=expired,
            carried=carried,
            newest_s=totals.newest_s,
            appeared=appeared,
            shown_until_s=totals.shown_until_s,
            label_sets=totals.label_sets,
            gaps=totals.gaps,
            dimensions=self._dimension_uses(cell_group),
            dimension_groups=self._groups.dimension_groups,
            dimension_groups_limit=self._groups.max_dimension_groups,
        )

    def _dimension_uses(self, cell_group: NDArray[np.int32]) -> dict[str, DimensionUse]:
        """cell_group: int32[k], of all cells of the totals."""
        spans, groups = self.totals.values[:, Layout.column("spans")], self._groups
        return {
            values.name: DimensionUse(
                values.count,
                values.limit,
                int(spans[np.isin(cell_group, groups.overflowed.get(values.name, []))].sum()),
            )
            for values in groups.dimensions.configured
        }

"""Totals: everything that a replica has ever counted, as one immutable value; and the part that a commit expires."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import Changes, Delta
from tokentrace.model.arrays import resized, widened
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import ExpiredKey, ExpiredTotals, Gap, GapKey, LabelSet, PartitionAudit
from tokentrace.model.wide import Carried, CarriedRows, carry, plus_carried
from tokentrace.state.appearance import Appeared, find_appeared, newest_s, not_yet_shown, presence
from tokentrace.state.inputs import Input, inputs_plus


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything that was ever counted by this replica; immutable.

    values: int64[k, layout.width or full]. carried: cell -> what exceeds its row, see `model.wide`.
    created_s: float64[k], Unix time of the cell's first commit, 0 before it.
    changed_s: float64[k], Unix time of the last commit that changed the cell.
    present: bool[k, a], see `appearance.presence`.
    rejected: reason -> messages or parts; rejected_created_s: reason -> Unix time of its first.
    partitions: partition -> audit. positions: partition -> offset up to which this replica has counted.
    expired: sums of expired groups, which no cell contains any more.
    generations: partition -> generation of the log that its position is in, 0 where there is none.
    appeared: what began after its cell and is not shown yet. shown_until_s: Unix time; see `state.appearance`.
    label_sets: family -> the labels that it is exposed with; see `state.label_sets`. gaps: see `state.gaps`.
    inputs: partition -> where its counting began, and its rejects by reason; see `state.inputs`.
    """

    values: NDArray[np.int64]
    created_s: NDArray[np.float64]
    changed_s: NDArray[np.float64]
    present: NDArray[np.bool_]
    rejected: Mapping[str, int]
    rejected_created_s: Mapping[str, float]
    partitions: Mapping[int, PartitionAudit]
    positions: Mapping[int, int]
    committed_at_s: float
    expired: Mapping[ExpiredKey, ExpiredTotals] = field(default_factory=dict)
    carried: CarriedRows = field(default_factory=dict)
    generations: Mapping[int, int] = field(default_factory=dict)
    appeared: Appeared = field(default_factory=dict)
    shown_until_s: float = 0.0
    label_sets: Mapping[str, LabelSet] = field(default_factory=dict)
    gaps: Mapping[GapKey, Gap] = field(default_factory=dict)
    inputs: Mapping[int, Input] = field(default_factory=dict)

    @classmethod
    def empty(cls, layout: Layout) -> Totals:
        times_s = np.zeros(0, np.float64)
        none = np.zeros((0, len(layout.appearing)), np.bool_)
        return cls(np.zeros((0, layout.width), np.int64), times_s, times_s, none, {}, {}, {}, {}, 0.0)

    def plus(
        self, layout: Layout, delta: Delta, changes: Changes, now_s: float, seen_until_s: float = math.inf
    ) -> Totals:
        """Return the sum of these totals and the delta's.

        seen_until_s: Unix time until which series began that may be shown in full once this is committed; infinite for
        all of them.
        """
        values, created_s, changed_s, present = self.values, self.created_s, self.changed_s, self.present
        carried = dict(self.carried)
        if math.isinf(seen_until_s):
            seen_until_s = max(self.newest_s, now_s)
        shown_until_s = max(self.shown_until_s, seen_until_s)
        appeared = not_yet_shown(self.appeared, shown_until_s)
        cells = changes.cells
        if len(cells):
            size = max(len(values), int(cells[-1]) + 1)
            values = resized(values, size)
            created_s, changed_s = resized(created_s, size), resized(changed_s, size)
            present = resized(present, size)
            values = widened(values, changes.values.shape[1])
            values[cells, : changes.values.shape[1]] += changes.values
            gained = presence(layout, changes.values, changes.carried)
            # What begins with its cell needs no beginning of its own.
            new = gained & ~present[cells] & (created_s[cells] > 0.0)[:, None]
            present[cells] |= gained
            if now_s > shown_until_s:
                for cell, fields in find_appeared(layout, cells, new, now_s).items():
                    appeared[cell] = {**appeared.get(cell, {}), **fields}
            carry(values, cells, carried)
            for index, more in changes.carried.items():
                cell = int(cells[index])
                carried[cell] = plus_carried(carried.get(cell, {}), more)
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
                before.ignored + delta.ignored[partition],
                before.surplus + delta.surplus[partition],
            )
        gaps = dict(self.gaps)
        for key, records in delta.gaps.items():
            known = gaps.get(key, Gap(0, now_s))
            gaps[key] = Gap(known.records + records, known.since_s)
        positions = {**self.positions, **delta.positions}
        generations = {**self.generations, **{p: delta.generations.get(p, 0) for p in delta.positions}}
        return replace(
            self,
            values=values,
            created_s=created_s,
            changed_s=changed_s,
            present=present,
            rejected=rejected,
            rejected_created_s=rejected_created_s,
            partitions=partitions,
            positions=positions,
            committed_at_s=now_s,
            carried=carried,
            generations=generations,
            appeared=appeared,
            shown_until_s=shown_until_s,
            gaps=gaps,
            inputs=inputs_plus(self.inputs, delta),
        )

    @property
    def newest_s(self) -> float:
        """Return the Unix time at which the newest series began."""
        return newest_s(self)

    @property
    def has_wide_sums(self) -> bool:
        """Return whether any record of these totals is wide."""
        return bool(self.carried) or any(sums.carried for sums in self.expired.values())

    def carried_by(self, cells: NDArray[np.int64]) -> dict[int, Carried]:
        """Return index in `cells` (int64[t]) -> what that cell carries."""
        if not self.carried:
            return {}
        return {index: self.carried[cell] for index, cell in enumerate(cells.tolist()) if cell in self.carried}

    def without(self, expiry: Expiry, before: NDArray[np.int64], now: NDArray[np.int64]) -> Totals:
        """Return these totals without expired cells. before, now: int64[c], old and new numbers of the other cells."""
        size = int(now.max(initial=-1)) + 1
        columns = []
        for column in (self.values, self.created_s, self.changed_s, self.present):
            moved = np.zeros((size, *column.shape[1:]), column.dtype)
            moved[now] = column[before]
            columns.append(moved)
        values, created_s, changed_s, present = columns
        carried = {int(now[index]): more for index, more in self.carried_by(before).items()}
        appeared = {}
        if self.appeared:
            numbers = zip(before.tolist(), now.tolist(), strict=True)
            appeared = {number: self.appeared[cell] for cell, number in numbers if cell in self.appeared}
        return replace(
            self,
            values=values,
            created_s=created_s,
            changed_s=changed_s,
            present=present,
            carried=carried,
            expired=expiry.expired,
            appeared=appeared,
        )


class Expiry(NamedTuple):
    """The groups that expire with a commit. False when none does.

    keep: bool[g], groups that stay. expired_cells: int64[c], cells of the others, which are deleted.
    expired: the totals of every expired group after the commit. upserts: keys of it that change.
    tombstones: keys that it no longer contains.
    """

    keep: NDArray[np.bool_]
    expired_cells: NDArray[np.int64]
    expired: Mapping[ExpiredKey, ExpiredTotals]
    upserts: Sequence[ExpiredKey] = ()
    tombstones: Sequence[ExpiredKey] = ()

    def __bool__(self) -> bool:
        return bool(len(self.expired_cells))


NOTHING_EXPIRED: Final = Expiry(np.zeros(0, np.bool_), np.zeros(0, np.int64), {})

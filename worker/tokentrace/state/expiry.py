"""Expiry: groups that are idle for so long that their series end, and the sums that replace them.

A series never decreases while it is shown. Most families have fewer labels than a group has, so the sums of an expired
group are kept: they are added to those of its model and provider and, with the last group of these, to one sum over
everything, which no series with a label shows. Every sum over a replica's state thus stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.groups import GroupIndex
from tokentrace.model.arrays import widened
from tokentrace.model.snapshot import BASE_LABELS, OVERFLOW_GROUP, ExpiredKey, ExpiredTotals, Group
from tokentrace.model.wide import Carried, carry, plus_carried
from tokentrace.state.totals import NOTHING_EXPIRED, Expiry

if TYPE_CHECKING:
    from tokentrace.state.totals import Totals

#: The labels by which expired sums are kept.
_KEPT: Final = frozenset({"model", "provider"})


def find_expired(
    groups: GroupIndex, totals: Totals, idle_since_s: float, label_sets: Iterable[frozenset[str]]
) -> Expiry:
    """Find the groups that have counted nothing since `idle_since_s` (Unix time).

    label_sets: the labels of the exposed families. A group is kept while any other group of a series that shows its
    caller, or a dimension of it, is kept.
    """
    everything = frozenset([*BASE_LABELS, *groups.dimensions.names])
    sets = {labels & everything for labels in label_sets}
    idle = _idle(groups, totals, idle_since_s)
    if not idle.any():
        return NOTHING_EXPIRED
    alone = frozenset() if groups.dimensions.former else everything
    _keep_sharing(idle, groups.groups, [labels for labels in sets if not labels <= _KEPT and labels != alone])
    expired_cells = np.flatnonzero(idle[groups.cell_group[: len(totals.values)]])
    if not len(expired_cells):
        return NOTHING_EXPIRED
    expired = dict(totals.expired)
    for cell in expired_cells.tolist():
        group = groups.groups[groups.cell_group[cell]]
        key = ExpiredKey(group.model, group.provider, int(groups.cell_status[cell]))
        sums = ExpiredTotals(totals.values[cell], float(totals.created_s[cell]), totals.carried.get(cell, {}))
        _add(expired, key, sums)
    kept = [groups.groups[number] for number in np.flatnonzero(~idle).tolist()]
    _merge_unshown(expired, kept, [labels for labels in sets if labels and labels <= _KEPT])
    return Expiry(
        keep=~idle,
        expired_cells=expired_cells,
        expired=expired,
        upserts=[key for key, sums in expired.items() if totals.expired.get(key) is not sums],
        tombstones=[key for key in totals.expired if key not in expired],
    )


def _idle(groups: GroupIndex, totals: Totals, idle_since_s: float) -> NDArray[np.bool_]:
    """Return bool[g], true for groups whose cells have not changed since."""
    committed = len(totals.values)
    last_s = np.full(len(groups.groups), -np.inf)
    np.maximum.at(last_s, groups.cell_group[:committed], totals.changed_s)
    # Groups with uncommitted counts are not idle, nor is the overflow, which any new group may need, nor that of a
    # dimension, of which a counter tells.
    last_s[groups.cell_group[committed:]] = np.inf
    last_s[OVERFLOW_GROUP] = np.inf
    for numbers in groups.overflowed.values():
        last_s[numbers] = np.inf
    return last_s <= idle_since_s


def _keep_sharing(idle: NDArray[np.bool_], groups: Sequence[Group], sets: Sequence[frozenset[str]]) -> None:
    """Keep idle groups that share a series of these families with a group that is kept; repeat until none is found."""
    found = bool(sets)
    while found:
        found = False
        for labels in sets:
            shown = {_labels(groups[number], labels) for number in np.flatnonzero(~idle).tolist()}
            sharing = [number for number in np.flatnonzero(idle).tolist() if _labels(groups[number], labels) in shown]
            idle[sharing] = False
            found = found or bool(sharing)


def _merge_unshown(
    expired: dict[ExpiredKey, ExpiredTotals], kept: Sequence[Group], sets: Sequence[frozenset[str]]
) -> None:
    """Add the sums of models and providers that no series shows any more to the sum over everything."""
    shown = {labels: {_labels(group, labels) for group in kept} for labels in sets}
    for key in [key for key in expired if key.model is not None]:
        if not any(_labels(key, labels) in series for labels, series in shown.items()):
            _add(expired, ExpiredKey(None, None, key.status), expired.pop(key))


def _labels(labelled: Group | ExpiredKey, labels: frozenset[str]) -> tuple[str, ...]:
    if isinstance(labelled, Group):
        return tuple(labelled.label(name) for name in sorted(labels))
    return tuple(getattr(labelled, name) for name in sorted(labels))


def _add(expired: dict[ExpiredKey, ExpiredTotals], key: ExpiredKey, more: ExpiredTotals) -> None:
    before = expired.get(key)
    if before is not None:
        full = max(len(before.values), len(more.values))
        values = (widened(before.values, full) + widened(more.values, full))[None]
        carried: dict[int, Carried] = {0: plus_carried(before.carried, more.carried)}
        carry(values, np.zeros(1, np.int64), carried)
        more = ExpiredTotals(values[0], min(before.created_s, more.created_s), carried[0])
    expired[key] = more

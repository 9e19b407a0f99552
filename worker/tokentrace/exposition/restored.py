"""Restored series: which series of a snapshot an earlier process of the replica may have exposed above 0.

A family whose labels were changed has new series. Prometheus has seen what they count under other names, so they begin
with what was restored, and not with 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.exposition.projection import Projection
from tokentrace.model import families
from tokentrace.model.families import CounterFamily, HistogramFamily
from tokentrace.model.snapshot import OVERFLOW, OVERFLOW_GROUP, Snapshot


class RestoredSeries:
    """Tells which series of a restored snapshot may have been exposed; the others have yet to begin at 0."""

    def __init__(self, snapshot: Snapshot, projections: Mapping[str, Projection]) -> None:
        """projections: family -> its projection, updated with this snapshot."""
        self._snapshot = snapshot
        self._projections = projections
        self._rows = (snapshot.created_s > 0.0) & (snapshot.created_s <= snapshot.shown_until_s)

    def find(self, family: tuple[str, str], series: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these series may have been exposed: (family, extra label value), int64[k] -> bool[k]."""
        snapshot = self._snapshot
        name, extra = family
        if is_relabelled(snapshot, name):
            return np.zeros(len(series), np.bool_)
        if name == families.REJECTED.name:
            shown = snapshot.rejected_created_s[extra] <= snapshot.shown_until_s
            return np.full(len(series), shown, np.bool_)
        if kind := _KINDS.get(name):
            gap = snapshot.gaps.get((kind, int(extra)))
            return np.full(len(series), gap is not None and gap.since_s <= snapshot.shown_until_s, np.bool_)
        if name == families.OVERFLOWED.name:
            overflow = self._rows[len(snapshot.expired) :] & (snapshot.cell_group == OVERFLOW_GROUP)
            return np.full(len(series), overflow.any(), np.bool_)
        if name == families.DIMENSION_OVERFLOWED.name:
            overflow = [
                (extra, OVERFLOW) in snapshot.groups[group].dimensions
                for group in snapshot.cell_group[self._rows[len(snapshot.expired) :]].tolist()
            ]
            return np.full(len(series), any(overflow), np.bool_)
        rows = self._rows
        if field := _FIELDS.get(family):
            columns = snapshot.layout.fields[field]
            rows = rows & snapshot.values[:, columns].any(axis=1)
            for row, carried in snapshot.carried.items():
                rows[row] |= self._rows[row] and columns.start in carried
            for row, began_s in snapshot.appeared.items():
                rows[row] &= began_s.get(field, 0.0) <= snapshot.shown_until_s
        shown_rows = self._projections[name].sums(rows.astype(np.int64))
        return shown_rows[series] > 0


def is_relabelled(snapshot: Snapshot, family: str) -> bool:
    """Return whether the labels of a family were changed, and nothing was shown with the new ones yet."""
    label_set = snapshot.label_sets.get(family.removeprefix("tokentrace_"))
    return label_set is not None and label_set.since_s > snapshot.shown_until_s


class FirstValues:
    """Values of series until Prometheus has seen them: what was restored where their family is relabelled, else 0."""

    def __init__(self) -> None:
        #: (family, extra label value) -> labels of a series as text -> its row of each array.
        self._rows: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {}

    def keep(self, family: tuple[str, str], labels: Sequence[str], arrays: Sequence[NDArray[Any]]) -> None:
        """Keep the values of a family's series. labels: of k series, as text. arrays: k rows each."""
        rows = zip(*(array.copy() for array in arrays), strict=True)
        self._rows[family] = dict(zip(labels, rows, strict=True))

    def fill(
        self,
        family: tuple[str, str],
        labels: Sequence[str],
        held: NDArray[np.bool_],
        arrays: Sequence[NDArray[Any]],
    ) -> None:
        """Write the first values of the series that are held (bool[k]) into the arrays, k rows each."""
        for array in arrays:
            array[held] = 0
        if family not in self._rows:
            return
        first = self._rows[family]
        begun = [index for index in np.flatnonzero(held).tolist() if labels[index] in first]
        for index in begun:
            for array, value in zip(arrays, first[labels[index]], strict=True):
                array[index] = value
        if not begun:
            # All of them were seen; a series that expires and comes back begins at 0.
            del self._rows[family]


def _fields() -> dict[tuple[str, str], str]:
    """Return (family, extra label value) -> field of the layout, for series that are left out while it is 0."""
    fields: dict[tuple[str, str], str] = {}
    for family in families.CELL_FAMILIES:
        if isinstance(family, HistogramFamily):
            fields[family.name, ""] = f"{family.measure}_buckets"
        elif isinstance(family, CounterFamily) and family.present_only:
            fields.update({(family.name, extra): column for extra, column in family.columns})
    return fields


_FIELDS: Final = _fields()
#: Name of a family of gaps -> their kind.
_KINDS: Final = {family.name: kind for kind, family in families.GAP_FAMILIES.items()}

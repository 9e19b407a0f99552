"""Restored series: which series of a snapshot an earlier process of the replica may have exposed above 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.exposition.projection import Projection
from tokentrace.model import families
from tokentrace.model.families import CounterFamily, HistogramFamily
from tokentrace.model.snapshot import Snapshot


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
        if name == families.REJECTED.name:
            shown = snapshot.rejected_created_s[extra] <= snapshot.shown_until_s
            return np.full(len(series), shown, np.bool_)
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

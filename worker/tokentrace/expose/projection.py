"""Projection: the cells of a snapshot as the series of a family, which has only some of the cells' labels.

Cells whose remaining labels are equal are one series. The numbering grows with the cells and is kept between
scrapes; sums over it are one sorted `reduceat`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..snapshot import Snapshot
from ..spans import STATUSES


class Projection:
    """Series of the label names `labels`, a subset of status, model, provider, caller.

    label_text: series -> `model="gpt-4o",provider="openai"`, escaped, or "" without labels.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.label_text: list[str] = []
        self._epoch = -1
        self._series_of: dict[tuple[str, ...], int] = {}
        self._series: NDArray[np.int64] = np.zeros(0, np.int64)
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._starts: NDArray[np.int64] = np.zeros(0, np.int64)

    def update(self, snapshot: Snapshot) -> None:
        """Number the cells that are new since the last snapshot."""
        if snapshot.epoch != self._epoch:
            self._epoch = snapshot.epoch
            self._series_of, self.label_text = {}, []
            self._series = np.zeros(0, np.int64)
        known, cells = len(self._series), len(snapshot.values)
        if known == cells:
            return
        fresh = [
            self._number(snapshot, group, status)
            for group, status in zip(
                snapshot.cell_group[known:].tolist(), snapshot.cell_status[known:].tolist(), strict=True
            )
        ]
        self._series = np.concatenate([self._series, np.array(fresh, np.int64)])
        self._order = np.argsort(self._series, kind="stable")
        ordered = self._series[self._order]
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))

    def sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """values: int64[k] or int64[k, c] over cells -> sums over series, int64[s] or int64[s, c]."""
        if not len(self._series):
            return values[:0]
        return np.add.reduceat(values[self._order], self._starts, axis=0)

    def earliest(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """times_s: float64[k], 0 for a cell that does not count -> the earliest of each series, float64[s]."""
        if not len(self._series):
            return times_s[:0]
        times_s = np.where(times_s > 0.0, times_s, np.inf)
        return np.minimum.reduceat(times_s[self._order], self._starts)

    def _number(self, snapshot: Snapshot, group: int, status: int) -> int:
        values = {**snapshot.groups[group]._asdict(), "status": STATUSES[status]}
        chosen = tuple(values[label] for label in self.labels)
        number = self._series_of.get(chosen)
        if number is None:
            number = self._series_of[chosen] = len(self.label_text)
            self.label_text.append(label_text(self.labels, chosen))
        return number


def label_text(names: Sequence[str], values: Sequence[str]) -> str:
    """`name="value",...` with values escaped as both exposition formats ask."""
    return ",".join(f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True))


def escaped(value: str) -> str:
    """A label value between quotes: backslash, quote and line feed are escaped."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

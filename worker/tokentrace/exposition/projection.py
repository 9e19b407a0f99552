"""Projection: the cells of a snapshot as the series of a family, which has only some of the cells' labels.

Cells whose remaining labels are equal are one series. The numbering grows with the cells and is kept between
scrapes; sums over it are one sorted `reduceat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.snapshot import ExpiredKey, Snapshot
from tokentrace.model.spans import STATUSES

_NO_SERIES: Final = -1


class Projection:
    """Series of the label names `labels`, a subset of status, model, provider, caller.

    label_text: series -> `model="gpt-4o",provider="openai"`, escaped, or "" without labels.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.label_text: list[str] = []
        self._epoch = -1
        self._series_of: dict[tuple[str, ...], int] = {}
        # A series a row of the snapshot, or none: what expired is part of no series that names it.
        self._series: NDArray[np.int64] = np.zeros(0, np.int64)
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._starts: NDArray[np.int64] = np.zeros(0, np.int64)

    def update(self, snapshot: Snapshot) -> NDArray[np.int64] | None:
        """Number the rows that are new since the last snapshot.

        int64[s] when all series were numbered anew: the number that each has now, -1 where it has ended.
        """
        before: dict[tuple[str, ...], int] | None = None
        if snapshot.epoch != self._epoch:
            before, self._epoch = self._series_of, snapshot.epoch
            self._series_of, self.label_text = {}, []
            folded = [self._folded(each) for each in snapshot.folded]
            self._series = np.array(folded, np.int64)
            self._arrange()
        known = len(self._series) - len(snapshot.folded)
        if known < len(snapshot.cell_group):
            fresh = [
                self._cell(snapshot, group, status)
                for group, status in zip(
                    snapshot.cell_group[known:].tolist(), snapshot.cell_status[known:].tolist(), strict=True
                )
            ]
            self._series = np.concatenate([self._series, np.array(fresh, np.int64)])
            self._arrange()
        if before is None:
            return None
        return np.array([self._series_of.get(chosen, _NO_SERIES) for chosen in before], np.int64)

    def _arrange(self) -> None:
        order = np.argsort(self._series, kind="stable")
        self._order = order[np.searchsorted(self._series[order], 0) :]
        ordered = self._series[self._order]
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))

    def sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """values: int64[r + k] or int64[r + k, c] over rows -> sums over series, int64[s] or int64[s, c]."""
        if not len(self._order):
            return values[:0]
        return np.add.reduceat(values[self._order], self._starts, axis=0)

    def earliest(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """times_s: float64[r + k], 0 for a row that does not count -> the earliest of each series, float64[s]."""
        if not len(self._order):
            return times_s[:0]
        times_s = np.where(times_s > 0.0, times_s, np.inf)
        return np.minimum.reduceat(times_s[self._order], self._starts)

    def _cell(self, snapshot: Snapshot, group: int, status: int) -> int:
        values = {**snapshot.groups[group]._asdict(), "status": STATUSES[status]}
        return self._number(tuple(values[label] for label in self.labels))

    def _folded(self, folded: ExpiredKey) -> int:
        values = {**folded._asdict(), "caller": None, "status": STATUSES[folded.status]}
        chosen = tuple(values[label] for label in self.labels)
        return _NO_SERIES if None in chosen else self._number(chosen)

    def _number(self, chosen: tuple[str, ...]) -> int:
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

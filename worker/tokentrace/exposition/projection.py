"""Projection: sums the rows of a snapshot to the series of a family, which has only some of the rows' labels.

Rows whose remaining labels are equal are one series. The numbering of series grows with the rows and is kept between
scrapes; a sum over the rows of each series is one sorted `reduceat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.snapshot import ExpiredKey, Snapshot
from tokentrace.model.spans import STATUSES
from tokentrace.model.wide import LIMIT, sum_runs

_NO_SERIES: Final = -1


class Projection:
    """Series of the label names `labels`, a subset of status, model, provider, caller and the dimensions.

    constant: a label of all of them, as text. label_text: series -> `model="gpt-4o",provider="openai"`, escaped, with
    the constant, or "" without labels.
    """

    def __init__(self, labels: Sequence[str], constant: str = "") -> None:
        self.labels = tuple(labels)
        self._constant = constant
        self.label_text: list[str] = []
        self._epoch = -1
        self._numbers: dict[tuple[str, ...], int] = {}
        # Row of the snapshot -> series. Expired rows have none where the family has a label that they lost.
        self._series: NDArray[np.int64] = np.zeros(0, np.int64)
        self._order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._starts: NDArray[np.int64] = np.zeros(0, np.int64)

    def update(self, snapshot: Snapshot) -> NDArray[np.int64] | None:
        """Give the rows that are new since the last snapshot their series.

        Return None, or where a new epoch renumbered all series: old number -> new number, -1 for a series that has
        ended, int64[s].
        """
        before: dict[tuple[str, ...], int] | None = None
        if snapshot.epoch != self._epoch:
            before, self._epoch = self._numbers, snapshot.epoch
            self._numbers, self.label_text = {}, []
            expired = [self._series_of_expired(key) for key in snapshot.expired]
            self._series = np.array(expired, np.int64)
            self._arrange()
        known = len(self._series) - len(snapshot.expired)
        if known < len(snapshot.cell_group):
            added = [
                self._series_of_row(snapshot, group, status)
                for group, status in zip(
                    snapshot.cell_group[known:].tolist(), snapshot.cell_status[known:].tolist(), strict=True
                )
            ]
            self._series = np.concatenate([self._series, np.array(added, np.int64)])
            self._arrange()
        if before is None:
            return None
        return np.array([self._numbers.get(chosen, _NO_SERIES) for chosen in before], np.int64)

    def _arrange(self) -> None:
        """Sort the rows by series, for `reduceat`; rows without a series are left out."""
        order = np.argsort(self._series, kind="stable")
        self._order = order[np.searchsorted(self._series[order], 0) :]
        ordered = self._series[self._order]
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))

    def sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum values over the rows of each series: int64[r + k] or int64[r + k, c] -> int64[s] or int64[s, c]."""
        if not len(self._order):
            return values[:0]
        return np.add.reduceat(values[self._order], self._starts, axis=0)

    def totals(self, snapshot: Snapshot, column: int) -> NDArray[np.int64] | NDArray[np.object_]:
        """Sum a column of the snapshot by series, exactly: int64[s], or Python's integers where any sum is wide."""
        values = snapshot.values[:, column]
        if not len(self._order):
            return values[:0]
        sums = sum_runs(values[self._order], self._starts)
        for row, carried in snapshot.carried.items():
            series = int(self._series[row])
            if column in carried and series != _NO_SERIES:
                if sums.dtype != object:
                    sums = sums.astype(object)
                sums[series] += LIMIT * carried[column]
        return sums

    def earliest(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the earliest time of each series, float64[s]. times_s: float64[r + k], 0: not counted yet."""
        if not len(self._order):
            return times_s[:0]
        times_s = np.where(times_s > 0.0, times_s, np.inf)
        return np.minimum.reduceat(times_s[self._order], self._starts)

    def _series_of_row(self, snapshot: Snapshot, group: int, status: int) -> int:
        values = {**snapshot.groups[group].labels(), "status": STATUSES[status]}
        return self._number(tuple(values.get(label, "") for label in self.labels))

    def _series_of_expired(self, key: ExpiredKey) -> int:
        values = {"model": key.model, "provider": key.provider, "status": STATUSES[key.status]}
        chosen = [value for label in self.labels if (value := values.get(label)) is not None]
        return self._number(tuple(chosen)) if len(chosen) == len(self.labels) else _NO_SERIES

    def _number(self, chosen: tuple[str, ...]) -> int:
        number = self._numbers.get(chosen)
        if number is None:
            number = self._numbers[chosen] = len(self.label_text)
            self.label_text.append(",".join(filter(None, [format_labels(self.labels, chosen), self._constant])))
        return number


def format_labels(names: Sequence[str], values: Sequence[str]) -> str:
    """Return `name="value",...` with values escaped as both exposition formats require."""
    return ",".join(f'{name}="{escape_label_value(value)}"' for name, value in zip(names, values, strict=True))


def escape_label_value(value: str) -> str:
    """Escape backslash, quote and line feed."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

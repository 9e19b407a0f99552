"""The quality window: eval scores that were committed within the last few minutes, by cell.

A gauge, not a ledger: it starts empty after a restart, and is not part of the durable state.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.delta import Changes
from tokentrace.model.arrays import grown, resized
from tokentrace.model.measures import Layout


class _Scores(NamedTuple):
    """Scores of one commit: cells int64[s], sums int64[s] in millionths, counts int64[s]."""

    committed_at_s: float
    cells: NDArray[np.int64]
    sums: NDArray[np.int64]
    counts: NDArray[np.int64]


class QualityWindow:
    """Running sums over the scores of the last `window_s` seconds."""

    def __init__(self, layout: Layout, window_s: float) -> None:
        self._histogram = layout.histograms["eval_score"]
        self._window_s = window_s
        self._recent: deque[_Scores] = deque()
        self._sums: NDArray[np.int64] = np.zeros(0, np.int64)
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, changes: Changes, now_s: float) -> None:
        """Add the scores of a commit."""
        counts = changes.values[:, self._histogram.buckets].sum(axis=1)
        scored = np.flatnonzero(counts)
        if not len(scored):
            return
        scores = _Scores(now_s, changes.cells[scored], changes.values[scored, self._histogram.sum], counts[scored])
        size = int(scores.cells.max()) + 1
        self._sums, self._counts = grown(self._sums, size), grown(self._counts, size)
        self._sums[scores.cells] += scores.sums
        self._counts[scores.cells] += scores.counts
        self._recent.append(scores)

    def expire(self, now_s: float) -> bool:
        """Remove scores that have left the window. Return whether there were any."""
        expired = False
        while self._recent and self._recent[0].committed_at_s <= now_s - self._window_s:
            scores = self._recent.popleft()
            self._sums[scores.cells] -= scores.sums
            self._counts[scores.cells] -= scores.counts
            expired = True
        return expired

    def renumber(self, before: NDArray[np.int64], now: NDArray[np.int64]) -> None:
        """Take over new numbers of the cells. before, now: int64[c], the numbers of the cells that are left."""
        number_of = np.full(max(len(self._sums), int(before.max(initial=-1)) + 1), -1, np.int64)
        number_of[before] = now
        size = int(now.max(initial=-1)) + 1
        sums, counts = np.zeros(size, np.int64), np.zeros(size, np.int64)
        known = before < len(self._sums)
        sums[now[known]], counts[now[known]] = self._sums[before[known]], self._counts[before[known]]
        self._sums, self._counts = sums, counts
        recent = self._recent
        self._recent = deque()
        for scores in recent:
            cells = number_of[scores.cells]
            left = cells >= 0
            self._recent.append(_Scores(scores.committed_at_s, cells[left], scores.sums[left], scores.counts[left]))

    def copy(self, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sums (millionths) and counts over the first `cells` cells, as arrays of the caller's own."""
        return resized(self._sums, cells), resized(self._counts, cells)

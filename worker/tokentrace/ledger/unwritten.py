"""Unwritten: rollups that were read and are not in the database yet, as the cells that they add up to.

Commits that follow each other have the same groups and hours. Ten of them added up are as many rows for the database
as one, and take no more memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokentrace.alerts.rollup_reader import Rollup
from tokentrace.ledger.cells import Cells, add_up


class Unwritten:
    """Content of the next transaction. records, rows: of the rollups in it."""

    def __init__(self, sum_up: Callable[[Sequence[Rollup]], Cells], most_rows: int) -> None:
        """sum_up: makes cells of rollups. most_rows: rows of rollups, and cells, that are held at once, about."""
        self._sum_up = sum_up
        self._most_rows = most_rows
        self.clear()

    def clear(self) -> None:
        """Forget all of it: it was added, or is read again."""
        self._rollups: list[Rollup] = []
        self._rollup_rows = 0
        self._cells: Cells | None = None
        self.records = self.rows = 0

    def add(self, rollup: Rollup) -> bool:
        """Add a rollup. Return whether there are so many cells that they should be written."""
        self._rollups.append(rollup)
        self._rollup_rows += len(rollup.minutes)
        self.records += 1
        self.rows += len(rollup.minutes)
        if self._rollup_rows < self._most_rows:
            return False
        cells = self.cells()
        return cells is not None and len(cells.keys) >= self._most_rows

    def cells(self) -> Cells | None:
        """Return the sums, None where nothing was added."""
        if self._rollups:
            summed = self._sum_up(self._rollups)
            self._cells = summed if self._cells is None else add_up([self._cells, summed])
            self._rollups, self._rollup_rows = [], 0
        return self._cells

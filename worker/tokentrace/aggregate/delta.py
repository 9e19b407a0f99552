"""The delta: what was counted since the last commit, and not yet shown to anyone.

Rows are kept by (event minute, cell), as the rollups want them; a total is their sum over the minutes. Only the
consumer thread touches a delta. A commit takes all of it or, when it is given up, none.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import grown
from tokentrace.model.measures import Layout
from tokentrace.model.messages import DeadLetter

#: A table of a minute's cells has at most so many entries for each row that it leads to, and is free up to a size.
_TABLE_PER_ROW: Final = 32
_SMALL_TABLE: Final = 1024


class Changes(NamedTuple):
    """cells: int64[t], ascending and distinct. values: int64[t, width], what each gains."""

    cells: NDArray[np.int64]
    values: NDArray[np.int64]


class CountedIds(NamedTuple):
    """Spans counted of one partition in one batch. first_s, last_s: when it was published, whole Unix seconds.

    keys: uint64[n]; see `dedup`.
    """

    first_s: int
    last_s: int
    keys: NDArray[np.uint64]


class MinuteRows(NamedTuple):
    """minutes: int64[r], minutes since the epoch. cells: int64[r]. values: int64[r, width]. Pairs are distinct."""

    minutes: NDArray[np.int64]
    cells: NDArray[np.int64]
    values: NDArray[np.int64]


class _Rows:
    """The rows of one minute's cells: a table while the cells lie close, a dict while they are few among many.

    A day that is read again has many minutes, and each has few of all the cells.
    """

    def __init__(self) -> None:
        self._table: NDArray[np.int32] = np.zeros(0, np.int32)
        self._sparse: dict[int, int] = {}
        self._count = 0

    def find(self, cells: NDArray[np.int64], top: int) -> NDArray[np.int64]:
        """int64[t], each cell's row, -1 where it has none. top: above every cell."""
        if top > len(self._table):
            if top > _TABLE_PER_ROW * (self._count + len(cells)) + _SMALL_TABLE:
                return np.array([self._row(cell) for cell in cells.tolist()], np.int64)
            self._spread(top)
        return self._table[cells].astype(np.int64)

    def enter(self, cells: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Give new cells their rows, after they were looked for."""
        self._count += len(cells)
        within = cells < len(self._table)
        self._table[cells[within]] = rows[within]
        self._sparse.update(zip(cells[~within].tolist(), rows[~within].tolist(), strict=True))

    def _row(self, cell: int) -> int:
        return int(self._table[cell]) if cell < len(self._table) else self._sparse.get(cell, -1)

    def _spread(self, top: int) -> None:
        """Make the table cover `top` cells."""
        table = np.full(max(top, 64) * 2, -1, np.int32)
        table[: len(self._table)] = self._table
        for cell in [cell for cell in self._sparse if cell < len(table)]:
            table[cell] = self._sparse.pop(cell)
        self._table = table


class Delta:
    """Counts since the last commit; the next commit makes them durable.

    positions: partition -> next offset to read, the offsets that a commit of this delta stands for.
    polled, counted, rejected, duplicates: partition -> records. reasons: reason -> messages or parts.
    event_times_us: partition -> the latest event time of it, Unix time: all before it is counted, more or less.
    clamped: spans whose event time could not be true, and was taken from the broker's.
    counted_ids: partition -> ids of the spans counted in it, where repeated spans are looked for.
    dead_letters: messages to hand to the dead-letter topic before the offsets are committed.
    """

    def __init__(self, layout: Layout) -> None:
        self.positions: dict[int, int] = {}
        self.polled: Counter[int] = Counter()
        self.counted: Counter[int] = Counter()
        self.rejected: Counter[int] = Counter()
        self.duplicates: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.dead_letters: list[DeadLetter] = []
        self.counted_ids: dict[int, list[CountedIds]] = {}
        self.event_times_us: dict[int, int] = {}
        self.clamped = 0
        self._rows_of: dict[int, _Rows] = {}
        self._rows = 0
        self._minutes: NDArray[np.int64] = np.zeros(0, np.int64)
        self._cells: NDArray[np.int64] = np.zeros(0, np.int64)
        self._values: NDArray[np.int64] = np.zeros((0, layout.width), np.int64)

    def __bool__(self) -> bool:
        return bool(self.positions)

    def add(self, minute: int, cells: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Add values (int64[t, width]) to cells (int64[t], distinct) of one event minute."""
        if not len(cells):
            return
        known = self._rows_of.setdefault(minute, _Rows())
        rows = known.find(cells, int(cells.max()) + 1)
        fresh = np.flatnonzero(rows < 0)
        if len(fresh):
            end = self._rows + len(fresh)
            self._reserve(end)
            rows[fresh] = np.arange(self._rows, end)
            known.enter(cells[fresh], rows[fresh])
            self._minutes[self._rows : end] = minute
            self._cells[self._rows : end] = cells[fresh]
            self._values[self._rows : end] = 0
            self._rows = end
        self._values[rows] += values

    def _reserve(self, rows: int) -> None:
        self._minutes = grown(self._minutes, rows)
        self._cells = grown(self._cells, rows)
        self._values = grown(self._values, rows)

    def advance_event_time(self, partition: int, event_time_us: int) -> None:
        """Everything of a partition up to this event time is counted, as far as can be known."""
        self.event_times_us[partition] = max(event_time_us, self.event_times_us.get(partition, 0))

    def by_minute(self) -> MinuteRows:
        """The increments by event minute and cell, in no particular order. Views: copy what must outlive `clear`."""
        rows = MinuteRows(self._minutes[: self._rows], self._cells[: self._rows], self._values[: self._rows])
        for column in rows:
            column.flags.writeable = False
        return rows

    def changes(self) -> Changes:
        """The increments by cell, over all minutes."""
        cells, values = self._cells[: self._rows], self._values[: self._rows]
        if not len(cells):
            return Changes(cells, values)
        order = np.argsort(cells, kind="stable")
        ordered = cells[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        return Changes(ordered[starts], np.add.reduceat(values[order], starts, axis=0))

    def clear(self) -> None:
        """Forget everything: it was committed, or it must not be."""
        self._rows_of.clear()
        self._rows = 0
        for tally in (
            self.positions,
            self.polled,
            self.counted,
            self.rejected,
            self.duplicates,
            self.reasons,
            self.counted_ids,
            self.event_times_us,
        ):
            tally.clear()
        self.clamped = 0
        self.dead_letters = []

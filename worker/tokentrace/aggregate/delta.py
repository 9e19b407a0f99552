"""The delta: counts since the last commit, which nothing shows yet.

Rows are kept by (event minute, cell), as the rollups need them; a total is their sum over the minutes. Before any sum
could reach `wide.LIMIT`, a new part of rows begins, so no number of a row overflows. Only the consumer thread uses a
delta. A commit takes all of it or, when it fails, none.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import grown, widened
from tokentrace.model.measures import Layout
from tokentrace.model.messages import DeadLetter
from tokentrace.model.snapshot import GapKey
from tokentrace.model.wide import LIMIT, NOTHING_CARRIED, Carried, CarriedRows, carry

#: Most entries of a minute's table for each row that it refers to, and the size up to which it may have any number.
_TABLE_PER_ROW: Final = 32
_SMALL_TABLE: Final = 1024


class Changes(NamedTuple):
    """cells: int64[t], ascending and distinct. values: int64[t, width], what each gains. carried: by index in cells."""

    cells: NDArray[np.int64]
    values: NDArray[np.int64]
    carried: CarriedRows = NOTHING_CARRIED


class CountedIds(NamedTuple):
    """Ids of the spans counted of one partition in one batch.

    bulk_s, last_s: when the messages in the middle and at the end of the batch were published, whole Unix seconds.
    keys: uint64[n], from `span_keys`.
    """

    bulk_s: int
    last_s: int
    keys: NDArray[np.uint64]


class MinuteRows(NamedTuple):
    """minutes: int64[r], minutes since the epoch. cells: int64[r]. values: int64[r, width].

    starts: the first row of each part. The pairs of minute and cell are distinct within a part.
    """

    minutes: NDArray[np.int64]
    cells: NDArray[np.int64]
    values: NDArray[np.int64]
    starts: Sequence[int] = (0,)

    def parts(self) -> Iterator[MinuteRows]:
        """Return each part by itself."""
        for first, last in itertools.pairwise([*self.starts, len(self.minutes)]):
            yield MinuteRows(self.minutes[first:last], self.cells[first:last], self.values[first:last])


class _Rows:
    """Maps the cells of one minute to rows: by a table while they are dense, by a dict while they are sparse.

    A day that is read again has many minutes, and each of them has few of all the cells.
    """

    def __init__(self) -> None:
        self._table: NDArray[np.int32] = np.zeros(0, np.int32)
        self._sparse: dict[int, int] = {}
        self._count = 0

    def find(self, cells: NDArray[np.int64], top: int) -> NDArray[np.int64]:
        """Return int64[t], each cell's row, -1 for a cell without one. top: greater than every cell."""
        if top > len(self._table):
            if top > _TABLE_PER_ROW * (self._count + len(cells)) + _SMALL_TABLE:
                return np.array([self._row(cell) for cell in cells.tolist()], np.int64)
            self._grow(top)
        return self._table[cells].astype(np.int64)

    def add(self, cells: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Map new cells, which `find` has not found, to their rows."""
        self._count += len(cells)
        within = cells < len(self._table)
        self._table[cells[within]] = rows[within]
        self._sparse.update(zip(cells[~within].tolist(), rows[~within].tolist(), strict=True))

    def _row(self, cell: int) -> int:
        return int(self._table[cell]) if cell < len(self._table) else self._sparse.get(cell, -1)

    def _grow(self, top: int) -> None:
        """Grow the table to `top` cells or more."""
        table = np.full(max(top, 64) * 2, -1, np.int32)
        table[: len(self._table)] = self._table
        for cell in [cell for cell in self._sparse if cell < len(table)]:
            table[cell] = self._sparse.pop(cell)
        self._table = table


class Delta:
    """Counts that the next commit makes durable. False while there are none.

    positions: partition -> next offset to read, the offsets that a commit of this delta writes.
    generations: partition -> generation of its log, how often that has lost counted records. `clear` keeps it.
    polled: partition -> records. counted, rejected, duplicates, ignored: partition -> spans, or records that are one.
    surplus: partition -> spans in its records beyond one each. reasons: reason -> messages, spans or parts.
    rejects: (partition, reason) -> what `rejected` has, by reason.
    begins: partition -> (generation, offset) at which it was assigned. `clear` keeps it.
    event_times_us: partition -> its latest event time, Unix time: spans before it are counted, with few exceptions.
    clamped: spans whose event time was implausible and was replaced by the broker's.
    gaps: (kind, partition) -> records that were passed over or lost; see `state.gaps`.
    counted_ids: partition -> ids of the spans counted in it, where repeated spans are looked for.
    dead_letters: messages that must be in the dead-letter topic before the offsets are committed.
    dead_letter_bytes: of their keys and values.
    """

    def __init__(self, layout: Layout) -> None:
        self.positions: dict[int, int] = {}
        self.generations: dict[int, int] = {}
        self.polled: Counter[int] = Counter()
        self.counted: Counter[int] = Counter()
        self.rejected: Counter[int] = Counter()
        self.duplicates: Counter[int] = Counter()
        self.ignored: Counter[int] = Counter()
        self.surplus: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.rejects: Counter[tuple[int, str]] = Counter()
        self.begins: dict[int, tuple[int, int]] = {}
        self.gaps: Counter[GapKey] = Counter()
        self.dead_letters: list[DeadLetter] = []
        self.dead_letter_bytes = 0
        self.counted_ids: dict[int, list[CountedIds]] = {}
        self.event_times_us: dict[int, int] = {}
        self.clamped = 0
        self._rows_of: dict[int, _Rows] = {}
        self._rows = 0
        #: The first row of each part, and a number that no sum over rows of the last part exceeds.
        self._starts = [0]
        self._largest = 0
        self._minutes: NDArray[np.int64] = np.zeros(0, np.int64)
        self._cells: NDArray[np.int64] = np.zeros(0, np.int64)
        self._values: NDArray[np.int64] = np.zeros((0, layout.width), np.int64)

    def __bool__(self) -> bool:
        return bool(self.positions)

    def reserve(self, largest: int) -> None:
        """Prepare for values of which no sum exceeds `largest`, which is below `wide.LIMIT`: call it before `add`."""
        self._largest += largest
        if self._largest >= LIMIT:
            self._largest = largest
            self._rows_of.clear()
            self._starts.append(self._rows)

    def add(self, minute: int, cells: NDArray[np.int64], values: NDArray[np.int64]) -> None:
        """Add values (int64[t, layout.width or full]) to cells (int64[t], distinct) of one event minute."""
        if not len(cells):
            return
        self._values = widened(self._values, values.shape[1])
        known = self._rows_of.setdefault(minute, _Rows())
        rows = known.find(cells, int(cells.max()) + 1)
        new = np.flatnonzero(rows < 0)
        if len(new):
            end = self._rows + len(new)
            self._reserve(end)
            rows[new] = np.arange(self._rows, end)
            known.add(cells[new], rows[new])
            self._minutes[self._rows : end] = minute
            self._cells[self._rows : end] = cells[new]
            self._values[self._rows : end] = 0
            self._rows = end
        if values.shape[1] < self._values.shape[1]:
            self._values[rows, : values.shape[1]] += values
        else:
            self._values[rows] += values

    def _reserve(self, rows: int) -> None:
        self._minutes = grown(self._minutes, rows)
        self._cells = grown(self._cells, rows)
        self._values = grown(self._values, rows)

    def read_spans(self, partitions: Iterable[int]) -> int:
        """Return the spans of partitions that were read whole, ignored ones left out."""
        return sum(self.counted[p] + self.rejected[p] + self.duplicates[p] for p in partitions)

    def advance_event_time(self, partition: int, event_time_us: int) -> None:
        """Record that the spans of a partition are counted up to this event time. It never goes back."""
        self.event_times_us[partition] = max(event_time_us, self.event_times_us.get(partition, 0))

    def by_minute(self) -> MinuteRows:
        """Return the increments by event minute and cell, in no order, as read-only views that `clear` invalidates."""
        columns = self._minutes[: self._rows], self._cells[: self._rows], self._values[: self._rows]
        for column in columns:
            column.flags.writeable = False
        return MinuteRows(*columns, tuple(self._starts))

    def changes(self) -> Changes:
        """Return the increments by cell, over all minutes."""
        parts = [_by_cell(part.cells, part.values) for part in self.by_minute().parts()]
        if len(parts) == 1:
            return parts[0]
        cells = np.unique(np.concatenate([part.cells for part in parts]))
        values = np.zeros((len(cells), self._values.shape[1]), np.int64)
        carried: dict[int, Carried] = {}
        for part in parts:
            at = np.searchsorted(cells, part.cells)
            values[at] += part.values
            carry(values, at, carried)
        return Changes(cells, values, carried)

    def clear(self) -> None:
        """Remove everything, after it was committed or because it must not be."""
        self._rows_of.clear()
        self._rows = 0
        self._starts = [0]
        self._largest = 0
        for tally in (
            self.positions,
            self.polled,
            self.counted,
            self.rejected,
            self.duplicates,
            self.ignored,
            self.surplus,
            self.reasons,
            self.rejects,
            self.gaps,
            self.counted_ids,
            self.event_times_us,
        ):
            tally.clear()
        self.clamped = 0
        self.dead_letters = []
        self.dead_letter_bytes = 0


def _by_cell(cells: NDArray[np.int64], values: NDArray[np.int64]) -> Changes:
    """Sum the rows of one part by cell. cells: int64[r]. values: int64[r, width]."""
    if not len(cells):
        return Changes(cells, values)
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return Changes(ordered[starts], np.add.reduceat(values[order], starts, axis=0))

"""Windows: sums over the last minutes of event time, by group, for every length that a rule needs.

Increments are kept by minute for as long as the longest window; a window's sums gain the minute that ends and lose the
minute that leaves. All numbers are integers, so the sums stay exact however long the windows slide. Before a cost or a
number of tokens could exceed int64, both become two words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.alerts.rules import (
    COST,
    COST_HIGH,
    ERRORS,
    NARROW,
    SPANS,
    TIMEOUTS,
    TOKENS,
    TOKENS_HIGH,
    WIDE,
    Rule,
)
from tokentrace.model.arrays import Ints, grown
from tokentrace.model.measures import Layout
from tokentrace.model.spans import STATUSES
from tokentrace.model.wide import LOW_WORD, WORD_BITS, words

SUMS: Final = "sums"
#: The first columns that `MetricColumns.needed` has.
NEEDED_SPANS, NEEDED_COST = range(2)
#: Sums become two words when more than this was added. It was added up as floats, so it is less than int64 holds.
_WIDE_FROM: Final = float(1 << 61)


class MetricColumns:
    """Maps columns of a cell's row to the blocks of metrics. `needed`: the columns' numbers in the layout."""

    def __init__(self, layout: Layout, blocks: Iterable[str]) -> None:
        needed = [layout.column(name) for name in ("spans", "cost_nano_usd", "prompt_tokens", "completion_tokens")]
        self._places: dict[str, slice] = {}
        for block in sorted(blocks):
            histogram = layout.histograms[block]
            first = len(needed)
            needed += range(layout.width)[histogram.buckets]
            if block == "eval_score":
                needed.append(histogram.sum)
            self._places[block] = slice(first, len(needed))
        self.needed: Ints = np.array(needed, np.int64)

    def widths(self) -> dict[str, int]:
        """Block -> its columns."""
        return {SUMS: NARROW} | {
            block: 2 if block == "eval_score" else place.stop - place.start for block, place in self._places.items()
        }

    def blocks(self, values: Ints, status: int) -> dict[str, Ints]:
        """values: int64[k, len(needed)] of cells with this status -> block -> int64[k, its columns]."""
        sums = np.zeros((len(values), NARROW), np.int64)
        sums[:, SPANS] = values[:, 0]
        failed = {"error": ERRORS, "timeout": TIMEOUTS}.get(STATUSES[status])
        if failed is not None:
            sums[:, failed] = values[:, 0]
        sums[:, COST] = values[:, 1]
        sums[:, TOKENS] = values[:, 2] + values[:, 3]
        found = {SUMS: sums}
        for block, place in self._places.items():
            part = values[:, place]
            if block == "eval_score":
                part = np.stack([part[:, :-1].sum(axis=1), part[:, -1]], axis=1)
            found[block] = part
        return found


def _widened(sums: Ints) -> Ints:
    """Split cost and tokens into words: int64[k, NARROW] -> int64[k, WIDE]."""
    return np.hstack([sums[:, :COST], *words(sums[:, COST:])])


class _Minute:
    """Sums of one minute by group."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._count = 0
        self._groups: Ints = np.zeros(0, np.int64)
        self._rows: NDArray[np.int32] = np.zeros(0, np.int32)
        self._values = {block: np.zeros((0, width), np.int64) for block, width in widths.items()}

    def add(self, groups: Ints, blocks: Mapping[str, Ints]) -> None:
        """groups: int64[k], distinct."""
        top = int(groups.max()) + 1
        if len(self._rows) < top:
            rows = np.full(max(top, 2 * len(self._rows)), -1, np.int32)
            rows[: len(self._rows)] = self._rows
            self._rows = rows
        rows = self._rows[groups]
        new = np.flatnonzero(rows < 0)
        if len(new):
            end = self._count + len(new)
            rows[new] = np.arange(self._count, end)
            self._rows[groups[new]] = rows[new]
            self._groups = grown(self._groups, end)
            self._groups[self._count : end] = groups[new]
            self._count = end
        for block, values in self._values.items():
            self._values[block] = values = grown(values, self._count)
            values[rows] += blocks[block]

    def retain(self, blocks: Iterable[str]) -> None:
        """Keep these blocks; drop those that no window needs at this age."""
        for block in self._values.keys() - set(blocks):
            del self._values[block]

    def widen(self) -> None:
        """Make the sums two words."""
        self._values[SUMS] = _widened(self._values[SUMS])

    @property
    def bytes(self) -> int:
        """Memory of the sums, in bytes."""
        return sum(values.nbytes for values in self._values.values())

    @property
    def groups(self) -> Ints:
        return self._groups[: self._count]

    def values(self, block: str) -> Ints:
        return self._values[block][: self._count]


class Windows:
    """Sums over windows ending at the complete minute `now` (None until `begin`)."""

    def __init__(self, layout: Layout, rules: Iterable[Rule]) -> None:
        #: Window, minutes -> blocks that its rules need.
        self._needs: dict[int, set[str]] = {}
        for rule in rules:
            self._needs.setdefault(rule.window, {SUMS}).update({rule.measure.block} - {""})
        self._retention = {
            block: max(window for window, blocks in self._needs.items() if block in blocks)
            for blocks in self._needs.values()
            for block in blocks
        }
        self.columns = MetricColumns(layout, self._retention.keys() - {SUMS})
        self._widths = self.columns.widths()
        self._minutes: dict[int, _Minute] = {}
        self._sums = {
            (window, block): np.zeros((0, self._widths[block]), np.int64)
            for window, blocks in self._needs.items()
            for block in blocks
        }
        #: All cost and tokens that were ever added: no sum exceeds it.
        self._added = 0.0
        self.longest = max(self._needs, default=0)
        self.now: int | None = None
        #: Window -> the last `now` at which its sums changed.
        self.changed: dict[int, int] = {}

    @property
    def first_minute(self) -> int | None:
        """The earliest minute with increments, None without any."""
        return min(self._minutes, default=None)

    def sums(self, window: int, block: str, groups: int) -> Ints:
        """int64[groups, columns of the block]. Low words are below 2 ** WORD_BITS, so they add up over groups."""
        self._grow(window, block, groups)
        sums = self._sums[window, block][:groups]
        if block == SUMS and sums.shape[1] == WIDE:
            for low, high in ((COST, COST_HIGH), (TOKENS, TOKENS_HIGH)):
                sums[:, high] += sums[:, low] >> WORD_BITS
                sums[:, low] &= LOW_WORD
        return sums

    def _grow(self, window: int, block: str, groups: int) -> None:
        self._sums[window, block] = grown(self._sums[window, block], groups)

    def _widen(self) -> None:
        """Make the sums two words."""
        self._widths[SUMS] = WIDE
        for minute in self._minutes.values():
            minute.widen()
        for window in self._needs:
            self._sums[window, SUMS] = _widened(self._sums[window, SUMS])

    def add(self, minute: int, groups: Ints, status: int, values: Ints) -> int:
        """Add increments of one minute and status, and return how many of their spans are late.

        groups: int64[k], distinct. values: int64[k, columns.needed]. Late spans, whose minute is complete already,
        count in the windows that still hold it.
        """
        blocks = self.columns.blocks(values, status)
        self._added += float(blocks[SUMS][:, COST:].sum(dtype=np.float64))
        if self._added >= _WIDE_FROM:
            if self._widths[SUMS] == NARROW:
                self._widen()
            blocks[SUMS] = _widened(blocks[SUMS])
        late = int(blocks[SUMS][:, SPANS].sum()) if self.now is not None and minute <= self.now else 0
        if self.now is not None and minute <= self.now - self.longest:
            return late
        bucket = self._minutes.get(minute)
        if bucket is None:
            age = 0 if self.now is None else self.now - minute
            bucket = self._minutes[minute] = _Minute(
                {block: width for block, width in self._widths.items() if self._retention[block] > age}
            )
        bucket.add(groups, blocks)
        if self.now is not None and minute <= self.now:
            top = int(groups.max()) + 1
            for window, names in self._needs.items():
                if minute > self.now - window:
                    for block in names:
                        self._grow(window, block, top)
                        self._sums[window, block][groups] += blocks[block]
                    self.changed[window] = self.now
        return late

    def begin(self, now: int) -> None:
        """Set the last complete minute; increments added earlier count in the windows that hold their minute."""
        self.now = now
        for minute in list(self._minutes):
            if minute <= now - self.longest:
                del self._minutes[minute]
            else:
                self._minutes[minute].retain(block for block, age in self._retention.items() if age > now - minute)
        for window, names in self._needs.items():
            for block in names:
                self._sums[window, block][:] = 0
            for minute in self._minutes:
                if now - window < minute <= now:
                    self._shift(window, minute, 1)
            self.changed[window] = now

    def advance(self) -> int:
        """Complete one more minute, and return it."""
        assert self.now is not None
        self.now += 1
        for window in self._needs:
            self._shift(window, self.now, 1)
            self._shift(window, self.now - window, -1)
        for age in {*self._retention.values()}:
            leaving = self._minutes.get(self.now - age)
            if leaving is not None:
                leaving.retain(block for block, minutes in self._retention.items() if minutes > age)
        self._minutes.pop(self.now - self.longest, None)
        return self.now

    def _shift(self, window: int, minute: int, sign: int) -> None:
        bucket = self._minutes.get(minute)
        if bucket is None or not len(bucket.groups):
            return
        assert self.now is not None
        top = int(bucket.groups.max()) + 1
        for block in self._needs[window]:
            self._grow(window, block, top)
            self._sums[window, block][bucket.groups] += sign * bucket.values(block)
        self.changed[window] = self.now

    def bytes(self) -> int:
        """Memory of the sums, in bytes."""
        held = sum(values.nbytes for values in self._sums.values())
        return held + sum(minute.bytes for minute in self._minutes.values())

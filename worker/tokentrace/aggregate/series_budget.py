"""Series budget: how many series, and how many bytes of exposition, the groups can come to.

Both follow from the families by arithmetic, as upper bounds: every status and every histogram of a group is taken to
occur, every value to have all its digits, and OpenMetrics, which is longer, to be asked for. Families with the same
labels share the label sets that are counted, so a histogram by model costs once per model, not once per caller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from tokentrace.model.families import FAMILIES_BY_NAME, GROUP_LABELS, CounterFamily, HistogramFamily, revision_label
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group, LabelSet
from tokentrace.model.spans import STATUSES

#: Characters of the longest value: an integer of 64 bits, its point, and digits for sums that exceed it.
_VALUE: Final = 24
#: Braces, the blank before the value, and the line feed.
_PUNCTUATION: Final = 4
#: `le="1.048576e+06",` at most.
_LE: Final = 20
_BUCKET: Final = len("_bucket")
#: Most units that a group is taken to have. Providers bill text in four; the rest is for calls of other kinds.
UNITS_OF_A_GROUP: Final = 8
#: `_created` in place of `_total`, and a Unix time to the microsecond.
_CREATED: Final = len("_created")
_STATUS_BYTES: Final = len('status="",') + max(map(len, STATUSES))


class Cost(NamedTuple):
    """series: of the text format. size: bytes, upper bound."""

    series: int
    size: int


class _Lines(NamedTuple):
    """Cost of one label set: series, lines, and the bytes of these lines without the labels' text."""

    series: int
    lines: int
    size: int


class SeriesBudget:
    """Adds up the cost of groups as they are added.

    used: their cost so far. use, limit: the same and the most, by unit (series, bytes), for a thread that shows them.
    """

    def __init__(
        self, *, max_series: int, max_bytes: int, layout: Layout, labels: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """labels: family name without `tokentrace_` -> its labels, where they are not the default."""
        self.max_series, self.max_bytes = max_series, max_bytes
        self.limit: Final = {"series": max_series, "bytes": max_bytes}
        self.use: Final = {"series": 0, "bytes": 0}
        self._lines = _lines_by_labels(layout, labels or {})
        #: Family -> (its labels, its lines of a label set).
        self._lines_of = {
            name: (key, lines.lines)
            for name in FAMILIES_BY_NAME
            for key, lines in _lines_by_labels(layout, labels or {}, {name}).items()
        }
        self._revised: set[str] = set()
        self.clear()

    def clear(self) -> None:
        """Forget all groups."""
        self._spend(Cost(0, 0))
        self._seen: dict[tuple[str, ...], set[tuple[str, ...]]] = {labels: set() for labels in self._lines}

    def add_revisions(self, label_sets: Mapping[str, LabelSet]) -> None:
        """Count the label that tells the series of families whose labels were changed; a family counts once."""
        series, size = self.used
        for name, label_set in label_sets.items():
            if label_set.revision and name in self._lines_of and name not in self._revised:
                self._revised.add(name)
                key, lines = self._lines_of[name]
                more = lines * (len(revision_label(label_set.revision)) + 1)
                self._lines[key] = self._lines[key]._replace(size=self._lines[key].size + more)
                size += more * len(self._seen[key])
        self._spend(Cost(series, size))

    def add(self, group: Group, *, always: bool) -> bool:
        """Add a group that was not added before; return False, and add nothing, where it does not fit.

        always: add it whether or not it fits.
        """
        new = [
            (labels, values)
            for labels in self._lines
            if (values := tuple(group.label(label) for label in labels)) not in self._seen[labels]
        ]
        series, size = self.used
        shown = {label for labels, _ in new for label in labels}
        sizes = {label: len(label) + 4 + _escaped_bytes(group.label(label)) for label in shown}
        for labels, _ in new:
            per_set = self._lines[labels]
            series += per_set.series
            size += per_set.size + per_set.lines * sum(sizes[label] for label in labels)
        if not always and (series > self.max_series or size > self.max_bytes):
            return False
        for labels, values in new:
            self._seen[labels].add(values)
        self._spend(Cost(series, size))
        return True

    def _spend(self, cost: Cost) -> None:
        self.used = cost
        self.use.update(series=cost.series, bytes=cost.size)


def _escaped_bytes(value: str) -> int:
    """Return the bytes of a label value as both formats escape it."""
    return len(value.encode()) + value.count("\\") + value.count('"') + value.count("\n")


def _lines_by_labels(
    layout: Layout, chosen: Mapping[str, Sequence[str]], names: Collection[str] = FAMILIES_BY_NAME
) -> dict[tuple[str, ...], _Lines]:
    """Return what each set of labels costs, over these families with these labels; status is counted in, not named."""
    found: dict[tuple[str, ...], _Lines] = {}
    for family in (FAMILIES_BY_NAME[name] for name in names):
        defaults = [label for label in family.labels if label in GROUP_LABELS]
        labels = chosen.get(family.name.removeprefix("tokentrace_"), defaults)
        sets = len(STATUSES) if "status" in labels else 1
        line = len(family.name) + _VALUE + _PUNCTUATION + (_STATUS_BYTES if "status" in labels else 0)
        if isinstance(family, HistogramFamily):
            series, extra = len(layout.histograms[family.measure].bounds) + 3, _LE + _BUCKET
        elif isinstance(family, CounterFamily):
            # Few calls have more than some of the units.
            series = min(len(family.columns), UNITS_OF_A_GROUP)
            extra = len(family.extra_label) + 4 + max(len(value) for value, _ in family.columns)
        else:
            series, extra = 1, 0
        # A histogram has one line of its creation, a counter one for each series.
        created = 1 if isinstance(family, HistogramFamily) else series
        lines = sets * (series + created)
        key = tuple(sorted(label for label in labels if label != "status"))
        before = found.get(key, _Lines(0, 0, 0))
        found[key] = _Lines(
            before.series + sets * series,
            before.lines + lines,
            before.size + lines * (line + extra + _CREATED),
        )
    return found

"""Renderer: writes a snapshot as Prometheus text 0.0.4 or OpenMetrics 1.0, straight from its arrays.

A family is summed over its projection at once, then each series fills a line template: no sample objects are built.
Sums are integers in the smallest unit, so they are written as exact decimals.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from tokentrace.exposition.projection import Projection, format_labels
from tokentrace.exposition.restored import FirstValues, RestoredSeries, is_relabelled
from tokentrace.exposition.text import (
    Format,
    created,
    head,
    library_text,
    number_template,
    sample,
    split_decimals,
    with_extra_label,
)
from tokentrace.exposition.zero_init import ClientAddress, ZeroInit
from tokentrace.model import families
from tokentrace.model.families import CounterFamily, GaugeFamily, HistogramFamily, UnlabelledCounter
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import LabelSet, Snapshot

#: Stands for a series' labels in a template; no escaped label value contains it.
_LABELS: Final = "\x00"


#: (family, extra label value).
SeriesKey = tuple[str, str]
#: (family, extra label value), series (int64[k]), their labels as text, arrays of k rows: what the series are exposed
#: as. The rows of those that Prometheus has yet to see are replaced by what they begin with.
Hold = Callable[[SeriesKey, NDArray[np.int64], Sequence[str], Sequence[NDArray[Any]]], None]


class Scrape(NamedTuple):
    """One exposition, of a snapshot where it has any totals.

    number: of a scrape that exposes new series as 0 first, else 0. complete: no series was exposed as 0 for that.
    """

    body: bytes
    snapshot: Snapshot | None = None
    number: int = 0
    complete: bool = True


class Renderer:
    """Renders snapshots. Several threads may call it; they take turns.

    labels: family name without `tokentrace_` -> label names, where they are not the default.
    zero_first: whether Prometheus servers see new series as 0 first. created: whether OpenMetrics has the time at which
    each series began, in a line of its own.
    """

    def __init__(
        self, labels: Mapping[str, Sequence[str]] | None = None, zero_first: bool = False, created: bool = False
    ) -> None:
        self._created = created
        self._zero_init = ZeroInit() if zero_first else None
        self._first_values = FirstValues()
        chosen = labels or {}
        #: Family without `tokentrace_` -> its labels.
        self.labels: Final = {
            name: tuple(chosen.get(name, _group_labels(family))) for name, family in families.FAMILIES_BY_NAME.items()
        }
        self._arrange({})
        self._lock = threading.Lock()

    def _arrange(self, label_sets: Mapping[str, LabelSet]) -> None:
        """Give each family its projection; those with the same labels share one. A gauge needs no revision."""
        projections: dict[tuple[tuple[str, ...], int], Projection] = {}
        self._families = []
        for name, family in families.FAMILIES_BY_NAME.items():
            labels = self.labels[name]
            gauge = isinstance(family, GaugeFamily)
            revision = 0 if gauge or name not in label_sets else label_sets[name].revision
            constant = families.revision_label(revision)
            projection = projections.setdefault((labels, revision), Projection(labels, constant))
            self._families.append((family, projection))
        self._projections = list(projections.values())

    def render(self, snapshot: Snapshot, others: Iterable[Metric], form: Format) -> bytes:
        """Return the exposition of a snapshot, followed by `others`, which the client library writes.

        A snapshot must not be older than the one before it: series are numbered as rows are added.
        """
        with self._lock:
            lines = self._lines(snapshot, form, _hold_none)
        return "".join(lines).encode() + library_text(others, form, self._created)

    def scrape(
        self,
        latest: Callable[[], Snapshot],
        form: Format,
        by_prometheus: bool,
        others: Callable[[Snapshot], Iterable[Metric]] = lambda _: (),
    ) -> Scrape:
        """Render the latest snapshot for a client, to be followed by `record_scrape` when it has received all of it.

        The snapshot is taken under the lock: taken before, it could be older than the one that a concurrent scrape
        renders first.
        """
        zero_init = self._zero_init if by_prometheus else None
        with self._lock:
            snapshot = latest()
            number = zero_init.begin(snapshot.newest_s, snapshot.shown_until_s) if zero_init is not None else 0
            lines = self._lines(snapshot, form, self._hold_new if zero_init is not None else _hold_none)
            complete = zero_init is None or not zero_init.any_zero
        body = "".join(lines).encode() + library_text(others(snapshot), form, self._created)
        return Scrape(body, snapshot, number, complete)

    def record_scrape(self, client: ClientAddress, number: int, connected: Collection[ClientAddress]) -> None:
        """A client has received the whole scrape `number`. connected: clients whose connections are open now."""
        if self._zero_init is not None and number:
            with self._lock:
                self._zero_init.finish(client, number, connected)

    def active_servers(self) -> frozenset[ClientAddress]:
        """Return the Prometheus servers that are expected to scrape again."""
        if self._zero_init is None:
            return frozenset()
        with self._lock:
            return self._zero_init.active()

    def restore(self, publish: Callable[[], Snapshot]) -> None:
        """Publish what an earlier process has counted, and record which of its series are not new.

        publish: makes the snapshot that it returns the latest. It runs under the lock: a scrape that came in between
        would show the restored series as new, at 0, and a counter would fall.
        """
        with self._lock:
            snapshot = publish()
            self._arrange(snapshot.label_sets)
            if self._zero_init is None:
                return
            for projection in self._projections:
                projection.update(snapshot)
            restored = RestoredSeries(snapshot, {family.name: projection for family, projection in self._families})
            mark, keep = self._zero_init.mark_restored, self._first_values.keep

            def mark_exposed(
                family: tuple[str, str],
                series: NDArray[np.int64],
                labels: Sequence[str],
                arrays: Sequence[NDArray[Any]],
            ) -> None:
                mark(family, series, restored.find(family, series))
                if is_relabelled(snapshot, family[0]):
                    keep(family, labels, arrays)

            self._lines(snapshot, "text", mark_exposed)

    def _hold_new(
        self, family: SeriesKey, series: NDArray[np.int64], labels: Sequence[str], arrays: Sequence[NDArray[Any]]
    ) -> None:
        assert self._zero_init is not None
        self._first_values.fill(family, labels, self._zero_init.zeros(family, series), arrays)

    def seen_until_s(self) -> float:
        """Return the Unix time until which series began that may be shown in full; see `ZeroInit`."""
        return math.inf if self._zero_init is None else self._zero_init.seen_until_s

    @property
    def label_sets(self) -> list[frozenset[str]]:
        """The labels of each family over groups."""
        return [frozenset(labels) for labels in self.labels.values()]

    def _lines(self, snapshot: Snapshot, form: Format, hold: Hold) -> list[str]:
        new_numbers = {projection: projection.update(snapshot) for projection in self._projections}
        if self._zero_init is not None:
            for family, projection in self._families:
                if (numbers := new_numbers[projection]) is not None:
                    self._zero_init.renumber(family.name, numbers)
        lines: list[str] = []
        created = self._created and form == "openmetrics"
        for family, projection in self._families:
            counted = projection.sums(snapshot.values[:, Layout.column("spans")]) > 0
            if isinstance(family, HistogramFamily):
                lines += _histogram(family, projection, snapshot, form, created, hold)
            elif isinstance(family, CounterFamily):
                lines += _counter(family, projection, snapshot, counted, form, created, hold)
            else:
                lines += _quality(projection, snapshot, form)
        return lines + _global_families(snapshot, form, created, hold)


def _hold_none(
    family: SeriesKey, series: NDArray[np.int64], labels: Sequence[str], arrays: Sequence[NDArray[Any]]
) -> None:
    """Expose all series as they are."""


def _group_labels(family: CounterFamily | HistogramFamily | GaugeFamily) -> tuple[str, ...]:
    """Return the default labels that `metrics.labels` can replace: all but a counter's extra label."""
    return tuple(label for label in family.labels if label in families.GROUP_LABELS)


def _counter(
    family: CounterFamily,
    projection: Projection,
    snapshot: Snapshot,
    counted: NDArray[np.bool_],
    form: Format,
    with_created: bool,
    hold: Hold,
) -> list[str]:
    lines = [head(family.name, family.type, family.help, form)]
    created_s = projection.earliest(snapshot.created_s).tolist() if with_created else []
    base = family.name.removesuffix("_total")
    for extra, column in family.columns:
        place = snapshot.layout.fields[column].start
        # Rows that are not full have none of the rare sums.
        if place >= snapshot.values.shape[1]:
            continue
        units = projection.totals(snapshot, place)
        shown = np.flatnonzero(units > 0) if family.present_only else np.flatnonzero(counted)
        decimals = family.decimals_of.get(column, family.decimals)
        number = number_template(decimals)
        values = units[shown]
        texts = [projection.label_text[series] for series in shown.tolist()]
        hold((family.name, extra), shown, texts, [values])
        for series, text, *value in zip(shown.tolist(), texts, *split_decimals(values, decimals), strict=True):
            labels = with_extra_label(text, family.extra_label, extra)
            lines.append(sample(family.name, labels, number % tuple(value)))
            if created_s:
                lines.append(created(base, labels, created_s[series]))
    return lines


def _histogram(
    family: HistogramFamily,
    projection: Projection,
    snapshot: Snapshot,
    form: Format,
    with_created: bool,
    hold: Hold,
) -> list[str]:
    histogram = snapshot.layout.histograms[family.measure]
    counts = np.cumsum(projection.sums(snapshot.values[:, histogram.buckets]), axis=1)
    sums = projection.totals(snapshot, histogram.sum)
    observed = np.flatnonzero(counts[:, -1])
    counts, sums = counts[observed], sums[observed]
    texts = [projection.label_text[series] for series in observed.tolist()]
    hold((family.name, ""), observed, texts, [counts, sums])
    columns = [*counts.T.tolist(), counts[:, -1].tolist(), *split_decimals(sums, family.decimals)]
    created_s = projection.earliest(snapshot.created_s).tolist() if with_created else []
    labelled = _histogram_template(family, histogram.bounds, "{" + _LABELS, "{" + _LABELS + "}")
    bare = _histogram_template(family, histogram.bounds, "{", "")
    lines = [head(family.name, family.type, family.help, form)]
    for series, labels, *values in zip(observed.tolist(), texts, *columns, strict=True):
        template = labelled.replace(_LABELS, labels.replace("%", "%%")) if labels else bare
        lines.append(template % tuple(values))
        if created_s:
            lines.append(created(family.name, labels, created_s[series]))
    return lines


def _histogram_template(family: HistogramFamily, bounds: Sequence[float], before_le: str, alone: str) -> str:
    """Return the template of all lines of a series: buckets, count, sum."""
    comma = "," if alone else ""
    buckets = "".join(
        f'{family.name}_bucket{before_le}{comma}le="{bound}"}} %d\n'
        for bound in (*map(floatToGoString, bounds), "+Inf")
    )
    return f"{buckets}{family.name}_count{alone} %d\n{family.name}_sum{alone} {number_template(family.decimals)}\n"


def _quality(projection: Projection, snapshot: Snapshot, form: Format) -> list[str]:
    family = families.QUALITY
    sums, counts = projection.sums(snapshot.quality_sum), projection.sums(snapshot.quality_count)
    scored = np.flatnonzero(counts)
    means = (sums[scored] / counts[scored] / 1e6).tolist()
    lines = [head(family.name, family.type, family.help, form)]
    for series, mean in zip(scored.tolist(), means, strict=True):
        lines.append(sample(family.name, projection.label_text[series], repr(mean)))
    return lines


def _global_families(snapshot: Snapshot, form: Format, with_created: bool, hold: Hold) -> list[str]:
    """The families that are not over groups."""
    lines = _unlabelled(
        families.REJECTED, snapshot.rejected, snapshot.rejected_created_s if with_created else {}, form, hold
    )
    for kind, family in families.GAP_FAMILIES.items():
        # increase() does not see a series that begins above 0.
        records = dict.fromkeys(snapshot.partitions, 0)
        records |= {partition: gap.records for (found, partition), gap in snapshot.gaps.items() if found == kind}
        created_s = {partition: gap.since_s for (found, partition), gap in snapshot.gaps.items() if found == kind}
        lines += _unlabelled(family, records, created_s if with_created else {}, form, hold)
    for gauge, number in ((families.GROUPS, snapshot.groups_count), (families.GROUPS_LIMIT, snapshot.groups_limit)):
        lines += [head(gauge.name, gauge.type, gauge.help, form), sample(gauge.name, "", str(number))]
    lines += _unlabelled(families.OVERFLOWED, {"": snapshot.overflowed_spans}, {}, form, hold)
    return lines + _dimension_families(snapshot, form, hold) if snapshot.dimensions else lines


def _dimension_families(snapshot: Snapshot, form: Format, hold: Hold) -> list[str]:
    """The families that tell how far the dimensions are used."""
    uses = snapshot.dimensions
    lines = []
    for gauge, number in (
        (families.DIMENSION_GROUPS, snapshot.dimension_groups),
        (families.DIMENSION_GROUPS_LIMIT, snapshot.dimension_groups_limit),
    ):
        lines += [head(gauge.name, gauge.type, gauge.help, form), sample(gauge.name, "", str(number))]
    for gauge, numbers in (
        (families.DIMENSION_VALUES, {name: use.values for name, use in uses.items()}),
        (families.DIMENSION_VALUES_LIMIT, {name: use.limit for name, use in uses.items()}),
    ):
        lines.append(head(gauge.name, gauge.type, gauge.help, form))
        lines += [
            sample(gauge.name, format_labels(gauge.labels, (name,)), str(count)) for name, count in numbers.items()
        ]
    spans = {name: use.overflowed_spans for name, use in uses.items()}
    return lines + _unlabelled(families.DIMENSION_OVERFLOWED, spans, {}, form, hold)


def _unlabelled(
    family: UnlabelledCounter, values: Mapping[Any, int], created_s: Mapping[Any, float], form: Format, hold: Hold
) -> list[str]:
    """Return a counter that is not over groups. values: value of its label, or "" -> count. created_s: -> Unix time."""
    lines = [head(family.name, family.type, family.help, form)]
    for key, count in sorted(values.items()):
        labels = format_labels(family.labels, (str(key),)) if family.labels else ""
        value = np.array([count])
        hold((family.name, str(key)), np.zeros(1, np.int64), [labels], [value])
        lines.append(sample(family.name, labels, str(value[0])))
        if key in created_s:
            lines.append(created(family.name.removesuffix("_total"), labels, created_s[key]))
    return lines

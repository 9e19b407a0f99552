"""Renderer: writes a snapshot as Prometheus text 0.0.4 or OpenMetrics 1.0, straight from its arrays.

A family is summed over its projection at once, then each series fills a line template: no sample objects are built.
Sums are integers in the smallest unit, so they are written as exact decimals.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tokentrace.exposition.projection import Projection, format_labels
from tokentrace.exposition.restored import RestoredSeries
from tokentrace.exposition.zero_init import ClientAddress, ZeroInit
from tokentrace.model import families
from tokentrace.model.families import CounterFamily, GaugeFamily, HistogramFamily
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Snapshot

Format = Literal["text", "openmetrics"]

#: Stands for a series' labels in a template; no escaped label value contains it.
_LABELS: Final = "\x00"
_EOF: Final = b"# EOF\n"


#: (family, extra label value), series (int64[k]) -> bool[k], which of them are exposed as 0.
Zeros = Callable[[tuple[str, str], NDArray[np.int64]], NDArray[np.bool_]]


class Scrape(NamedTuple):
    """One exposition of a snapshot.

    number: of a scrape that exposes new series as 0 first, else 0. complete: no series was exposed as 0 for that.
    """

    body: bytes
    snapshot: Snapshot
    number: int = 0
    complete: bool = True


class Renderer:
    """Renders snapshots. Several threads may call it; they take turns.

    labels: family name without `tokentrace_` -> label names, where they are not the default.
    zero_first: whether Prometheus servers see new series as 0 first.
    """

    def __init__(self, labels: Mapping[str, Sequence[str]] | None = None, zero_first: bool = False) -> None:
        self._zero_init = ZeroInit() if zero_first else None
        chosen = labels or {}
        self._families = [
            (family, tuple(chosen.get(name, _group_labels(family))))
            for name, family in families.FAMILIES_BY_NAME.items()
        ]
        self._projections = {labels: Projection(labels) for _, labels in self._families}
        self._lock = threading.Lock()

    def render(self, snapshot: Snapshot, others: Iterable[Metric], form: Format) -> bytes:
        """Return the exposition of a snapshot, followed by `others`, which the client library writes.

        A snapshot must not be older than the one before it: series are numbered as rows are added.
        """
        with self._lock:
            lines = self._lines(snapshot, form, _no_zeros)
        return "".join(lines).encode() + _library_text(others, form)

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
            lines = self._lines(snapshot, form, zero_init.zeros if zero_init is not None else _no_zeros)
            complete = zero_init is None or not zero_init.any_zero
        body = "".join(lines).encode() + _library_text(others(snapshot), form)
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
            if self._zero_init is not None:
                mark = self._zero_init.mark_restored
                projections = {family.name: self._projections[labels] for family, labels in self._families}
                for labels in self._projections:
                    self._projections[labels].update(snapshot)
                restored = RestoredSeries(snapshot, projections)
                self._lines(
                    snapshot, "text", lambda family, series: mark(family, series, restored.find(family, series))
                )

    def seen_until_s(self) -> float:
        """Return the Unix time until which series began that may be shown in full; see `ZeroInit`."""
        return math.inf if self._zero_init is None else self._zero_init.seen_until_s

    @property
    def label_sets(self) -> list[frozenset[str]]:
        """The labels of each family over groups."""
        return [frozenset(labels) for _, labels in self._families]

    def _lines(self, snapshot: Snapshot, form: Format, zeros: Zeros) -> list[str]:
        new_numbers = {labels: projection.update(snapshot) for labels, projection in self._projections.items()}
        if self._zero_init is not None:
            for family, labels in self._families:
                if (numbers := new_numbers[labels]) is not None:
                    self._zero_init.renumber(family.name, numbers)
        lines: list[str] = []
        for family, labels in self._families:
            projection = self._projections[labels]
            counted = projection.sums(snapshot.values[:, Layout.column("spans")]) > 0
            if isinstance(family, HistogramFamily):
                lines += _histogram(family, projection, snapshot, form, zeros)
            elif isinstance(family, CounterFamily):
                lines += _counter(family, projection, snapshot, counted, form, zeros)
            else:
                lines += _quality(projection, snapshot, form)
        return lines + _global_families(snapshot, form, zeros)


def _no_zeros(_: tuple[str, str], series: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.zeros(len(series), np.bool_)


def _group_labels(family: CounterFamily | HistogramFamily | GaugeFamily) -> tuple[str, ...]:
    """Return the default labels that `metrics.labels` can replace: all but a counter's extra label."""
    return tuple(label for label in family.labels if label in families.GROUP_LABELS)


def _head(name: str, type_: str, help_: str, form: Format) -> str:
    if form == "openmetrics" and type_ == "counter":
        name = name.removesuffix("_total")
    return f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"


def _created(name: str, labels: str, created_s: float) -> str:
    return f"{name}_created{{{labels}}} {created_s!r}\n" if labels else f"{name}_created {created_s!r}\n"


def _number(decimals: int) -> str:
    """Return the template of a number: whole units, and the decimals after the point."""
    return f"%d.%0{decimals}d" if decimals else "%d"


def _split(units: NDArray[np.int64] | NDArray[np.object_], decimals: int) -> list[list[int]]:
    """Return the columns that fill the template of `_number`."""
    if not decimals:
        return [units.tolist()]
    # Not by divmod, which takes no array of Python's integers.
    whole = units // 10**decimals
    return [whole.tolist(), (units - whole * 10**decimals).tolist()]


def _counter(
    family: CounterFamily,
    projection: Projection,
    snapshot: Snapshot,
    counted: NDArray[np.bool_],
    form: Format,
    zeros: Zeros,
) -> list[str]:
    lines = [_head(family.name, family.type, family.help, form)]
    created_s = projection.earliest(snapshot.created_s).tolist() if form == "openmetrics" else []
    base = family.name.removesuffix("_total")
    for extra, column in family.columns:
        units = projection.totals(snapshot, Layout.column(column))
        shown = np.flatnonzero(units > 0) if family.present_only else np.flatnonzero(counted)
        number = _number(family.decimals)
        values = units[shown]
        values[zeros((family.name, extra), shown)] = 0
        for series, *value in zip(shown.tolist(), *_split(values, family.decimals), strict=True):
            labels = _with_extra(projection.label_text[series], family.extra_label, extra)
            lines.append(_sample(family.name, labels, number % tuple(value)))
            if created_s:
                lines.append(_created(base, labels, created_s[series]))
    return lines


def _with_extra(labels: str, name: str, value: str) -> str:
    if not name:
        return labels
    return f'{labels},{name}="{value}"' if labels else f'{name}="{value}"'


def _sample(name: str, labels: str, value: str) -> str:
    return f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"


def _histogram(
    family: HistogramFamily,
    projection: Projection,
    snapshot: Snapshot,
    form: Format,
    zeros: Zeros,
) -> list[str]:
    histogram = snapshot.layout.histograms[family.measure]
    counts = np.cumsum(projection.sums(snapshot.values[:, histogram.buckets]), axis=1)
    sums = projection.totals(snapshot, histogram.sum)
    observed = np.flatnonzero(counts[:, -1])
    counts, sums = counts[observed], sums[observed]
    held = zeros((family.name, ""), observed)
    counts[held], sums[held] = 0, 0
    columns = [*counts.T.tolist(), counts[:, -1].tolist(), *_split(sums, family.decimals)]
    created_s = projection.earliest(snapshot.created_s).tolist() if form == "openmetrics" else []
    labelled = _histogram_template(family, histogram.bounds, "{" + _LABELS, "{" + _LABELS + "}")
    bare = _histogram_template(family, histogram.bounds, "{", "")
    lines = [_head(family.name, family.type, family.help, form)]
    for series, *values in zip(observed.tolist(), *columns, strict=True):
        labels = projection.label_text[series]
        template = labelled.replace(_LABELS, labels.replace("%", "%%")) if labels else bare
        lines.append(template % tuple(values))
        if created_s:
            lines.append(_created(family.name, labels, created_s[series]))
    return lines


def _histogram_template(family: HistogramFamily, bounds: Sequence[float], before_le: str, alone: str) -> str:
    """Return the template of all lines of a series: buckets, count, sum."""
    comma = "," if alone else ""
    buckets = "".join(
        f'{family.name}_bucket{before_le}{comma}le="{bound}"}} %d\n'
        for bound in (*map(floatToGoString, bounds), "+Inf")
    )
    return f"{buckets}{family.name}_count{alone} %d\n{family.name}_sum{alone} {_number(family.decimals)}\n"


def _quality(projection: Projection, snapshot: Snapshot, form: Format) -> list[str]:
    family = families.QUALITY
    sums, counts = projection.sums(snapshot.quality_sum), projection.sums(snapshot.quality_count)
    scored = np.flatnonzero(counts)
    means = (sums[scored] / counts[scored] / 1e6).tolist()
    lines = [_head(family.name, family.type, family.help, form)]
    for series, mean in zip(scored.tolist(), means, strict=True):
        lines.append(_sample(family.name, projection.label_text[series], repr(mean)))
    return lines


def _global_families(snapshot: Snapshot, form: Format, zeros: Zeros) -> list[str]:
    """The families that are not over groups."""
    rejected = families.REJECTED
    lines = [_head(rejected.name, rejected.type, rejected.help, form)]
    for reason, count in sorted(snapshot.rejected.items()):
        if zeros((rejected.name, reason), np.zeros(1, np.int64))[0]:
            count = 0
        labels = format_labels(rejected.labels, (reason,))
        lines.append(_sample(rejected.name, labels, str(count)))
        if form == "openmetrics":
            lines.append(_created(rejected.name.removesuffix("_total"), labels, snapshot.rejected_created_s[reason]))
    for family, value in (
        (families.GROUPS, snapshot.groups_count),
        (families.GROUPS_LIMIT, snapshot.groups_limit),
        (families.OVERFLOWED, snapshot.overflowed_spans),
    ):
        lines += [_head(family.name, family.type, family.help, form), _sample(family.name, "", str(value))]
    return lines


class _CollectedMetrics(Collector):
    """A collector of metrics that were collected before."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _library_text(metrics: Iterable[Metric], form: Format) -> bytes:
    """Return metrics as the client library writes them. In OpenMetrics, its `# EOF` ends the exposition."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CollectedMetrics(list(metrics)))
    return generate_openmetrics(registry) if form == "openmetrics" else generate_latest(registry)

"""Metrics of a ledger: how far it is where it is kept, and failures there and on every other replica."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from tokentrace import __version__
from tokentrace.exposition.render import Scrape
from tokentrace.exposition.text import Format, library_text
from tokentrace.model import families

if TYPE_CHECKING:
    from tokentrace.ledger.follow import Progress

_PREFIX: Final = "tokentrace_ledger"
_process = ProcessCollector(namespace=_PREFIX, registry=None)


def collect_ledger_metrics(progress: Progress | None, failures: int) -> Iterator[Metric]:
    """Yield the families. progress: None on a replica that does not keep the ledger, which has no gauges."""
    if progress is not None:
        for family, value in (
            (families.LEDGER_LAG, progress.lag_records),
            (families.LEDGER_COMMITTED, progress.committed_at_us / 1e6),
            (families.LEDGER_GAPS, progress.gaps),
            (families.LEDGER_READY, not progress.problem),
        ):
            yield GaugeMetricFamily(family.name, family.help, value=float(value))
    yield CounterMetricFamily(families.LEDGER_FAILURES.name, families.LEDGER_FAILURES.help, value=failures)


def scrape_ledger(progress: Progress | None, failures: int, form: Format) -> Scrape:
    """Return the exposition of a ledger in a process of its own."""
    build = InfoMetricFamily(f"{_PREFIX}_build", "Version of the ledger.", {"version": __version__})
    metrics = chain(collect_ledger_metrics(progress, failures), [build], _process.collect())
    return Scrape(library_text(metrics, form))


def own_process_families() -> Iterator[tuple[str, str, str]]:
    """Yield name as exposed, type and help of what a ledger in a process of its own has besides."""
    yield f"{_PREFIX}_build_info", "gauge", "Version of the ledger."
    for metric in _process.collect():
        yield metric.name + "_total" * (metric.type == "counter"), metric.type, metric.documentation

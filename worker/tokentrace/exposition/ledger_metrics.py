"""Metrics of a ledger in the workers: how far it is on the replica that keeps it, and failures on each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from tokentrace.model import families

if TYPE_CHECKING:
    from tokentrace.ledger.follow import Progress


def collect_ledger_metrics(progress: Progress | None, failures: int) -> Iterator[Metric]:
    """Yield the families. progress: None on a replica that does not keep the ledger, which has no gauges."""
    if progress is not None:
        for family, value in (
            (families.LEDGER_LAG, progress.lag_records),
            (families.LEDGER_COMMITTED, progress.committed_at_us / 1e6),
            (families.LEDGER_GAPS, progress.gaps),
        ):
            yield GaugeMetricFamily(family.name, family.help, value=value)
    yield CounterMetricFamily(families.LEDGER_FAILURES.name, families.LEDGER_FAILURES.help, value=failures)

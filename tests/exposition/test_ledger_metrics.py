"""Metrics of a ledger in the workers."""

from __future__ import annotations

from prometheus_client.metrics_core import CounterMetricFamily

from tokentrace.exposition import collect_ledger_metrics
from tokentrace.ledger.follow import Progress
from tokentrace.model.families import LEDGER_FAMILIES


def test_the_keeper_shows_how_far_the_ledger_is() -> None:
    served = list(collect_ledger_metrics(Progress(7, 1_790_000_000_250_000, 2), 3))
    assert [sample.value for metric in served for sample in metric.samples] == [7, 1_790_000_000.25, 2, 3]
    names = [metric.name + "_total" * isinstance(metric, CounterMetricFamily) for metric in served]
    assert names == [family.name for family in LEDGER_FAMILIES]
    assert [metric.documentation for metric in served] == [family.help for family in LEDGER_FAMILIES]


def test_another_replica_shows_its_failures_alone() -> None:
    (metric,) = collect_ledger_metrics(None, 0)
    assert [(sample.name, sample.value) for sample in metric.samples] == [("tokentrace_ledger_failures_total", 0)]

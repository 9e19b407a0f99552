"""Metrics of a ledger, in the workers and in a process of its own."""

from __future__ import annotations

from prometheus_client.metrics_core import CounterMetricFamily

from tokentrace.exposition import collect_ledger_metrics, scrape_ledger
from tokentrace.exposition.ledger_metrics import own_process_families
from tokentrace.ledger.follow import Progress
from tokentrace.model.families import LEDGER_FAMILIES


def test_the_keeper_shows_how_far_the_ledger_is() -> None:
    served = list(collect_ledger_metrics(Progress(7, 1_790_000_000_250_000, 2), 3))
    assert [sample.value for metric in served for sample in metric.samples] == [7, 1_790_000_000.25, 2, 1, 3]
    names = [metric.name + "_total" * isinstance(metric, CounterMetricFamily) for metric in served]
    assert names == [family.name for family in LEDGER_FAMILIES]
    assert [metric.documentation for metric in served] == [family.help for family in LEDGER_FAMILIES]


def test_another_replica_shows_its_failures_alone() -> None:
    (metric,) = collect_ledger_metrics(None, 0)
    assert [(sample.name, sample.value) for sample in metric.samples] == [("tokentrace_ledger_failures_total", 0)]


def test_a_ledger_that_waits_for_its_database_is_not_ready() -> None:
    served = {metric.name: metric for metric in collect_ledger_metrics(Progress(7, 0, 0, "it is away"), 1)}
    assert [sample.value for sample in served["tokentrace_ledger_ready"].samples] == [0]


def test_a_process_of_its_own_exposes_what_is_documented() -> None:
    declared = [family.name for family in LEDGER_FAMILIES] + [name for name, _, _ in own_process_families()]
    lines = scrape_ledger(Progress(7, 0, 0), 0, "text").body.decode().splitlines()
    assert [line.split()[2] for line in lines if line.startswith("# TYPE")] == declared
    assert scrape_ledger(None, 2, "openmetrics").body.decode().endswith("# EOF\n")

"""Metrics of the budgets: the labels of each budget's groups, amounts in USD, and counters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily

from tokentrace.budgets.book import BudgetView
from tokentrace.budgets.spending import BudgetLine, Counters
from tokentrace.exposition import collect_budget_metrics
from tokentrace.model.families import BUDGET_FAMILIES


def view(*budgets: BudgetView) -> Any:
    return SimpleNamespace(budgets=budgets)


ALL = BudgetView("all", (), [BudgetLine((), 12_000_000_001, 10_000_000_000, None)], Counters())
TEAMS = BudgetView(
    "teams",
    ("caller", "team"),
    [BudgetLine(("search", ""), 1_500_000_000, 4_000_000_000, 3_000_000_000)],
    Counters(firings=1, delivery_failed=2, expired_spans=3, overflowed_spans=4),
)


def test_each_budget_has_the_labels_of_its_groups() -> None:
    samples = {
        (sample.name.removeprefix("tokentrace_budget_"), *sample.labels.values()): sample.value
        for metric in collect_budget_metrics(view(ALL, TEAMS))
        for sample in metric.samples
    }
    assert samples == {
        ("spent_usd", "all"): 12.000000001, ("limit_usd", "all"): 10.0, ("remaining_usd", "all"): -2.000000001,
        ("spent_usd", "teams", "search", ""): 1.5, ("limit_usd", "teams", "search", ""): 4.0,
        ("remaining_usd", "teams", "search", ""): 2.5, ("forecast_usd", "teams", "search", ""): 3.0,
        ("groups", "all"): 1, ("groups", "teams"): 1,
        ("thresholds_reached_total", "all"): 0, ("thresholds_reached_total", "teams"): 1,
        ("delivery_failed_total", "all"): 0, ("delivery_failed_total", "teams"): 2,
        ("expired_spans_total", "all"): 0, ("expired_spans_total", "teams"): 3,
        ("overflowed_spans_total", "all"): 0, ("overflowed_spans_total", "teams"): 4,
    }  # fmt: skip


def test_every_declared_family_is_served_and_no_other() -> None:
    served = list(collect_budget_metrics(view(TEAMS)))
    names = [metric.name + "_total" * isinstance(metric, CounterMetricFamily) for metric in served]
    assert names == [family.name for family in BUDGET_FAMILIES]
    assert [metric.documentation for metric in served] == [family.help for family in BUDGET_FAMILIES]


def test_replicas_that_do_not_evaluate_and_fleets_without_budgets_serve_nothing() -> None:
    assert list(collect_budget_metrics(None)) == list(collect_budget_metrics(view())) == []

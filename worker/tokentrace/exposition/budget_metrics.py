"""Metrics of the budgets, from the evaluator's view. Only the evaluating replica exposes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from tokentrace.model import families

if TYPE_CHECKING:
    from tokentrace.alerts.snapshot import EvaluatorSnapshot
    from tokentrace.budgets.spending import BudgetLine

_NANO = 1e9


def collect_budget_metrics(view: EvaluatorSnapshot | None) -> Iterator[Metric]:
    """Yield every family of the budgets; none without a view or budgets."""
    if view is None or not view.budgets:
        return
    amounts: list[tuple[families.GaugeFamily, Callable[[BudgetLine], int | None]]] = [
        (families.BUDGET_SPENT, lambda line: line.spent_nano_usd),
        (families.BUDGET_LIMIT, lambda line: line.limit_nano_usd),
        (families.BUDGET_REMAINING, lambda line: line.limit_nano_usd - line.spent_nano_usd),
        (families.BUDGET_FORECAST, lambda line: line.forecast_nano_usd),
    ]
    for family, amount in amounts:
        metric: Metric = GaugeMetricFamily(family.name, family.help)
        for budget in view.budgets:
            for line in budget.lines:
                nano_usd = amount(line)
                if nano_usd is not None:
                    labels = {"budget": budget.name, **dict(zip(budget.group_by, line.labels, strict=True))}
                    metric.add_sample(family.name, labels, nano_usd / _NANO)
        yield metric
    groups = GaugeMetricFamily(families.BUDGET_GROUPS.name, families.BUDGET_GROUPS.help, labels=["budget"])
    for budget in view.budgets:
        groups.add_metric([budget.name], len(budget.lines))
    yield groups
    for counter, name in (
        (families.BUDGET_FIRINGS, "firings"),
        (families.BUDGET_DELIVERY_FAILED, "delivery_failed"),
        (families.BUDGET_EXPIRED, "expired_spans"),
        (families.BUDGET_OVERFLOWED, "overflowed_spans"),
    ):
        counted = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
        for budget in view.budgets:
            counted.add_metric([budget.name], getattr(budget.counters, name))
        yield counted

"""Evaluator snapshot: what the evaluator has committed, as an immutable value that other threads read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokentrace.alerts.evaluation import RuleState
from tokentrace.alerts.rules import Rule
from tokentrace.budgets.book import BudgetView


@dataclass(frozen=True, slots=True)
class EvaluatorSnapshot:
    """Committed state of the evaluator. states, delivery_failed, silenced: by rule.

    delivery_failed: failed rounds of tries. silenced: event time until which nothing is delivered, Unix time. late:
    spans that arrived after their minute was evaluated. clamped: spans with an impossible time. unreadable: records of
    the rollups and alerts topics that this evaluator met and could not read. time_s: event time up to which everything
    is evaluated, Unix time, 0 before the first minute. pending: alerts that are neither delivered nor given up.
    evaluation_seconds: duration of the last evaluation. bytes: memory of the windows. budgets: in the configured order.
    """

    replica: str
    rules: Sequence[Rule]
    states: Mapping[str, RuleState]
    delivery_failed: Mapping[str, int]
    silenced: Mapping[str, float]
    late: int
    clamped: int
    unreadable: int
    time_s: float
    pending: int
    evaluation_seconds: float
    bytes: int
    budgets: Sequence[BudgetView] = ()

"""(i) Alerts: 1 000 rules over 10 000 groups, evaluated at once; and what they take from counting in the same worker.

Every group has spans in every minute of the longest window, an hour. The rules are of every metric, with windows of
5, 15 and 60 minutes, with and without a filter, and one in ten by model, provider or caller.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from tests.services.kafka import KafkaBroker

from tokentrace.alerts.evaluation import Evaluation
from tokentrace.alerts.rules import Rule
from tokentrace.config.alerts import AlertRule, Metric
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group

from .effort import Effort
from .measure import Figure, Row, in_turns
from .workers import counting_beside

METRICS: tuple[str, ...] = Metric.__args__  # type: ignore[attr-defined]
WINDOWS_MIN = (5, 15, 60)
LABELS = ("model", "provider", "caller")


def rules(count: int) -> list[dict[str, Any]]:
    """Rules that evaluate everything and hardly ever fire."""
    made = []
    for index in range(count):
        rule: dict[str, Any] = {
            "name": f"rule-{index}",
            "metric": METRICS[index % len(METRICS)],
            "op": "gt",
            "threshold": 1e15,
            "window": f"{WINDOWS_MIN[index // len(METRICS) % len(WINDOWS_MIN)]}m",
        }
        if index % 4:
            rule["filter"] = {"model": f"*{index % 100}*"}
        if index % 10 == 0:
            rule["group_by"] = [LABELS[index // 10 % len(LABELS)]]
        made.append(rule)
    return made


def run(effort: Effort, broker: KafkaBroker | None) -> Figure:
    rows, results = _evaluated(effort)
    if broker is not None:
        row, found = _beside_counting(effort, broker)
        rows.append(row)
        results |= found
    return Figure("i alerts", rows, {"alerts": results})


def _evaluated(effort: Effort) -> tuple[list[Row], dict[str, Any]]:
    layout = Layout.build()
    every = [Rule.of(AlertRule.model_validate(rule)) for rule in rules(effort.rules)]
    evaluation = Evaluation(layout, every)
    groups = effort.alert_groups
    numbers = np.array(
        [evaluation.number(Group(f"model-{n % 200}", f"provider-{n % 7}", f"caller-{n}")) for n in range(groups)]
    )
    rng = np.random.default_rng(0)
    width = len(evaluation.windows.columns.needed)
    minute = 29_000_000

    def give() -> None:
        values = rng.integers(0, 1_000, (groups, width))
        evaluation.add(np.full(groups, minute + 1), numbers, np.zeros(groups, np.int64), values)

    for _ in range(max(WINDOWS_MIN) + 1):
        give()
        minute += 1
        evaluation.advance(minute)

    def one() -> float:
        """A minute in which every rule is due, and the windows move."""
        nonlocal minute
        give()
        began = time.perf_counter()
        evaluation.windows.advance()
        evaluation.evaluate(evaluation.rules)
        minute += 1
        return time.perf_counter() - began

    (seconds,) = in_turns(effort.repeats, one)
    megabytes = evaluation.windows.bytes() / 1e6
    case = f"{effort.rules} rules, {groups} groups, a minute in which all are due"
    return [
        Row(case, seconds.text(" s"), target="< 1 s"),
        Row("memory of the windows, an hour", f"{megabytes:.0f} MB"),
    ], {"evaluate_s": seconds.median, "windows_mb": megabytes}


def _beside_counting(effort: Effort, broker: KafkaBroker) -> tuple[Row, dict[str, Any]]:
    without, with_ = counting_beside(effort, broker, "bench-alerts", lambda: {"alerts": rules(effort.rules)})
    ratio = with_.over(without)
    row = Row(
        f"counting beside {effort.rules} rules, {effort.alert_groups} groups",
        with_.text(" M spans/s", 1e6), ratio.text(), "without alerts", ">= 0.95",
    )  # fmt: skip
    return row, {"counting_vs_without": ratio.median, "counting_spans_per_s": with_.median}

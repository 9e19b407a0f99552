"""Rules, and spans on their way to an evaluation, without Kafka."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tests.harness import LAYOUT, Harness
from tests.spanfactory import NOW_US, message, random_span
from tokentrace.alerts.evaluation import Evaluation
from tokentrace.alerts.rules import Rule
from tokentrace.config.alerts import AlertRule
from tokentrace.model.dimensions import Dimension

#: A whole minute, and not a multiple of ten.
FIRST = NOW_US // 60_000_000 // 10 * 10 - 57
Record = dict[str, Any]


def rule(name: str = "r", **fields: Any) -> Rule:
    fields = {"metric": "total_cost", "op": "gt", "threshold": 1.0, "window": "5m", **fields}
    return Rule.of(AlertRule.model_validate({"name": name, **fields}))


def spans_of(seed: int, count: int, minutes: int) -> list[Record]:
    """Spans that ended in any order within these minutes from FIRST."""
    rng = random.Random(seed)
    spans = []
    for _ in range(count):
        ended_us = FIRST * 60_000_000 + rng.randrange(minutes * 60_000_000)
        spans.append({**random_span(rng), "started_at": ended_us - 1_000, "ended_at": ended_us})
    return spans


class Feed:
    """Counts spans as a worker does, and hands the increments to an evaluation."""

    def __init__(self, evaluation: Evaluation, dimensions: Sequence[Dimension] = ()) -> None:
        self._evaluation = evaluation
        self._rig = Harness(dimensions=dimensions)

    def give(self, spans: Iterable[Record]) -> int:
        """Late spans among them."""
        rig, evaluation = self._rig, self._evaluation
        values = [message(span) for span in spans]
        if not values:
            return 0
        rig.count(values)
        groups = rig.groups
        late = 0
        for rows in rig.delta.by_minute().parts():
            numbers = [evaluation.number(groups.groups[group]) for group in groups.cell_group[rows.cells].tolist()]
            late += evaluation.add(
                rows.minutes.copy(),
                np.array(numbers, np.int64),
                groups.cell_status[rows.cells].astype(np.int64),
                rows.values[:, evaluation.windows.columns.needed].copy(),
            )
        rig.delta.clear()
        return late


def evaluation_of(*rules: Rule) -> Evaluation:
    return Evaluation(LAYOUT, rules)

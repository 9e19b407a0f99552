"""(g) What exactness costs: the real worker, exactly once against at least once, by commit interval."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.services.kafka import KafkaBroker

from .broker import fill
from .effort import Effort
from .measure import Figure, Measure, Row, in_turns
from .workers import counting_speed, write_config
from .workload import BATCH, Workload, workload

GROUPS = 1_000
TARGETS = {"1s": ">= 0.9"}


def run(effort: Effort, broker: KafkaBroker) -> Figure:
    load = workload("default", effort.distinct, GROUPS)
    for count in sorted(set(effort.guarantee_spans.values())):
        fill(broker, _topic(count), load.messages, count)
    rows: list[Row] = []
    results: dict[str, Any] = {}
    for interval, count in effort.guarantee_spans.items():
        once, least = _speeds(effort, broker, load, interval, count)
        ratio = once.over(least)
        case = f"commits every {interval}, {GROUPS} groups, {count / 1e6:.1f} M spans"
        rows.append(Row(case, once.text(" M spans/s", 1e6), ratio.text(), "at least once", TARGETS.get(interval, "")))
        results[f"vs_at_least_once_{interval}"] = ratio.median
    return Figure("g guarantees", rows, {"guarantees": results})


def _topic(count: int) -> str:
    return f"bench-guarantees-{count}"


def _speeds(effort: Effort, broker: KafkaBroker, load: Workload, interval: str, count: int) -> list[Measure]:
    """Exactly once and at least once, in turns."""
    with tempfile.TemporaryDirectory() as folder:

        def measured(guarantee: str) -> float:
            settings = {"guarantee": guarantee, "commit_interval": interval, "batch_size": BATCH}
            return counting_speed(write_config(Path(folder), broker, _topic(count), load, **settings), count)

        return in_turns(
            max(effort.process_repeats, 1), lambda: measured("exactly_once"), lambda: measured("at_least_once")
        )

"""(g) What exactness costs: the real worker, exactly once against at least once, by commit interval."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.services.kafka import KafkaBroker

from .broker import fill
from .effort import Effort
from .measure import Figure, Row, in_turns
from .workers import counting_speed, write_config
from .workload import BATCH, workload

GROUPS = 1_000
TARGETS = {"1s": ">= 0.9"}


def run(effort: Effort, broker: KafkaBroker) -> Figure:
    load = workload("default", 200_000, GROUPS)
    # The rate is taken between commits, so a run needs some of the longest interval.
    count = effort.guarantee_spans
    fill(broker, "bench-guarantees", load.messages, count)
    rows: list[Row] = []
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def worker(guarantee: str, interval: str) -> Callable[[], float]:
            def measured() -> float:
                settings = {"guarantee": guarantee, "commit_interval": interval, "batch_size": BATCH}
                config = write_config(Path(folder), broker, "bench-guarantees", load, **settings)
                return counting_speed(config, count)

            return measured

        for interval in effort.guarantee_intervals:
            once, least = in_turns(
                max(effort.process_repeats, 1), worker("exactly_once", interval), worker("at_least_once", interval)
            )
            ratio = once.over(least)
            case = f"commits every {interval}, {GROUPS} groups, {count / 1e6:.1f} M spans"
            rows.append(
                Row(case, once.text(" M spans/s", 1e6), ratio.text(), "at least once", TARGETS.get(interval, ""))
            )
            results[f"vs_at_least_once_{interval}"] = ratio.median
    return Figure("g guarantees", rows, {"guarantees": results})

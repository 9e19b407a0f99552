"""(h) Restore: the time that a replica with many groups takes to read its totals back when it starts.

The figure is the replica's `tokentrace_worker_restore_duration_seconds`.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from tests.services.kafka import KafkaBroker

from .broker import fill
from .effort import Effort
from .measure import Figure, Row, in_turns
from .workers import counting_speed, running_worker, scrape, url_of, write_config
from .workload import BATCH, workload

TARGETS_S = {10_000: 2.0, 100_000: 10.0}


def run(effort: Effort, broker: KafkaBroker) -> Figure:
    rows: list[Row] = []
    results: dict[str, Any] = {}
    for groups in effort.restored_groups:
        load = workload("default", groups, groups)
        topic = f"bench-restore-{groups}"
        fill(broker, topic, load.messages, groups)
        with tempfile.TemporaryDirectory() as folder:
            config = write_config(Path(folder), broker, topic, load, batch_size=BATCH)
            counting_speed(config, groups)

            def restored(config: Path = config, groups: int = groups) -> float:
                with running_worker(config, timeout_s=120.0):
                    text = scrape(url_of(config)).decode()
                found = {
                    name: float(value) for name, value in re.findall(r"^(tokentrace_\w+) ([\d.e+-]+)$", text, re.M)
                }
                assert found["tokentrace_groups"] == groups, found["tokentrace_groups"]
                return found["tokentrace_worker_restore_duration_seconds"]

            (seconds,) = in_turns(max(effort.process_repeats, 1), restored)
        target = f"< {TARGETS_S[groups]:.0f} s" if groups in TARGETS_S else ""
        rows.append(Row(f"restore of {groups} groups", seconds.text(" s"), target=target))
        results[f"restore_s_{groups}_groups"] = seconds.median
    return Figure("h restore", rows, {"restore": results})

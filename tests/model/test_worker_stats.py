"""WorkerStats: what the loop writes, copied for the threads that read it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from prometheus_client import Histogram

from tokentrace.model.worker_stats import STAGES, Lag, WorkerStats


def new_stats() -> WorkerStats:
    return WorkerStats(replica_id="replica-0", guarantee="exactly_once", started_at_s=5.0)


def values(stats: WorkerStats) -> dict[str, Any]:
    """All fields but the histograms, which copies share."""
    return {
        column.name: getattr(stats, column.name)
        for column in fields(stats)
        if not isinstance(getattr(stats, column.name), Histogram)
    }


def test_worker_stats_start_with_every_stage_and_outcome_at_zero() -> None:
    stats = new_stats()
    assert stats.stage_seconds == dict.fromkeys(STAGES, 0.0)
    assert stats.commits == {"ok": 0, "dropped": 0, "failed": 0}
    assert stats.rebalances == {"assign": 0, "revoke": 0, "lost": 0}
    assert (stats.replica_id, stats.guarantee, stats.started_at_s) == ("replica-0", "exactly_once", 5.0)
    assert (stats.not_ready, stats.unreachable) == ("starting", "")


def test_a_copy_of_worker_stats_does_not_change_with_the_original() -> None:
    stats = new_stats()
    stats.lag[1] = Lag(10, 2.5)
    published = stats.copy()
    before = values(published)
    assert before == values(stats)
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in before.items()}
    for name, value in values(stats).items():
        if isinstance(value, dict):
            value["new"] = 1
        else:
            setattr(stats, name, f"another {name}")
    assert values(published) == before
    assert all(value != before[name] for name, value in values(stats).items())


@pytest.mark.parametrize(
    ("changes", "waiting_for"),
    [
        ({}, ""),
        ({"not_ready": "joining"}, "joining"),
        ({"unreachable": "No broker answers.", "not_ready": "joining"}, "No broker answers."),
        ({"pending_partitions": {3: "no leader", 1: "unknown"}}, "partition 1: unknown; partition 3: no leader"),
        (
            {"refused_partitions": (1, 2), "lag": dict.fromkeys((1, 2), Lag(5, 1.0))},
            "all partitions are refused, [1, 2]: the log says why",
        ),
        ({"refused_partitions": (1, 2), "lag": dict.fromkeys((0, 1, 2), Lag(5, 1.0))}, ""),
        ({"max_commit_age_s": 30.0, "lag": {0: Lag(5, 1.0, 70.0), 1: Lag(0, 0.0)}}, ""),
        (
            {"max_commit_age_s": 30.0, "lag": {2: Lag(5, 1.0, 50.0), 0: Lag(5, 1.0, 69.9), 1: Lag(5, 1.0, 71.0)}},
            "records of the partitions [0, 2] wait, and none was committed for 50 s",
        ),
    ],
)
def test_worker_stats_say_what_the_replica_waits_for(changes: dict[str, Any], waiting_for: str) -> None:
    assert replace(new_stats(), **{"not_ready": "", **changes}).waiting_for(100.0) == waiting_for

"""Changes of `metrics.labels` on a worker with history: no query over the counters takes one for traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chaos.fleet import Replica
from tests.integration.test_group import produce
from tests.integration.test_increase import rises
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus
from tests.services.workers import wait_for
from tests.spanfactory import span

pytestmark = pytest.mark.long

MODEL, CALLER = ["model", "provider"], ["model", "provider", "caller"]
#: Counters, and what one span of the test adds to them.
COUNTED = {"tokentrace_cost_total": 1, "tokentrace_spans_total": 1, "tokentrace_latency_ms_count": 1}
#: Spans of a round, by caller. To Prometheus, a series whose caller is empty is one without that label.
ROUND = {"": 1, "checkout": 9, "search": 4}


@pytest.mark.parametrize(
    "changes", [[CALLER, MODEL, CALLER], [MODEL, CALLER, MODEL]], ids=["dropped and added", "added and dropped"]
)
def test_changes_of_labels_are_no_traffic_to_prometheus(
    kafka: KafkaBroker, tmp_path: Path, start_prometheus: Callable[[list[str]], Prometheus], changes: list[list[str]]
) -> None:
    topic = kafka.create_topic(f"labels-{len(changes[0])}", 4)
    sections: dict[str, Any] = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"drain_timeout": "20s", "session_timeout": "3s"},
        "metrics": {"labels": labels(changes[0])},
    }
    replica = Replica(tmp_path, "worker-0", sections)
    try:
        replica.wait_until_ready()
        prometheus = start_prometheus([replica.target])
        assert wait_for(lambda: len(prometheus.query("up == 1")) == 1)
        rounds = 0
        for number, chosen in enumerate(changes):
            if number:
                # As a rolling update does it; what is published meanwhile is counted by the next process.
                replica.terminate()
                configure(replica, chosen)
                rounds += publish(kafka, topic, 2)
                replica.restart()
                replica.wait_until_ready()
            for _ in range(3):
                rounds += publish(kafka, topic, 1)
                time.sleep(1.0)
            spans = rounds * sum(ROUND.values())
            assert wait_for(lambda: total(prometheus, "tokentrace_spans_total") == spans)  # noqa: B023
            for family, amount in COUNTED.items():
                # A scrape that a busy machine misses leaves a replica out for a moment.
                assert wait_for(lambda: total(prometheus, family) == amount * spans), family  # noqa: B023
                assert rises(prometheus, family, "instance").total() == amount * spans, (number, family)
            expected = set(chosen) | ({"labels_revision"} if number else set())
            assert wait_for(lambda: names(prometheus) == expected), names(prometheus)  # noqa: B023
    finally:
        replica.end()


def labels(chosen: Sequence[str]) -> dict[str, list[str]]:
    return {"cost_total": list(chosen), "spans_total": ["status", *chosen], "latency_ms": list(chosen)}


def configure(replica: Replica, chosen: Sequence[str]) -> None:
    """Change the configuration for the replica's next process."""
    path = replica._config
    config = yaml.safe_load(path.read_text())
    config["metrics"] = {"labels": labels(chosen)}
    path.write_text(yaml.safe_dump(config))


def publish(kafka: KafkaBroker, topic: str, rounds: int) -> int:
    for caller, count in ROUND.items():
        produce(kafka, topic, [span(caller=caller, cost_usd=1.0, latency_ms=70.0)] * count * rounds)
    return rounds


def total(prometheus: Prometheus, family: str) -> float:
    return sum(value for _, value in prometheus.query(f"sum({family})"))


def names(prometheus: Prometheus) -> set[str]:
    """Return the labels of the cost, of all series that have one."""
    found: set[str] = set()
    for series, _ in prometheus.query("tokentrace_cost_total"):
        found |= set(series)
    return found - {"__name__", "instance", "job"}

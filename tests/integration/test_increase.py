"""`increase()` over restarts deviates no more than without restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.fleet import Replica
from tests.integration.test_group import produce
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus
from tests.services.workers import wait_for
from tests.spanfactory import span

pytestmark = [pytest.mark.long, pytest.mark.timeout(200)]

#: Rounds of a second; in each, these models get so many spans. The last model appears in the middle.
ROUNDS = 16
SPANS = {"steady": 40, "late": 25}


def relative_error(
    kafka: KafkaBroker, folder: Path, start_prometheus: Callable[[list[str]], Prometheus], restarts: bool
) -> dict[str, float]:
    """Model -> (increase over everything - truth) / truth, seen by a real Prometheus that scrapes every second."""
    folder.mkdir()
    topic = kafka.create_topic(f"increase-{restarts}", 4)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"drain_timeout": "10s", "session_timeout": "3s"},
    }
    replicas = [Replica(folder, f"{folder.name}-{index}", sections) for index in range(2)]
    try:
        for replica in replicas:
            replica.wait_until_ready()
        prometheus = start_prometheus([replica.target for replica in replicas])
        assert wait_for(lambda: len(prometheus.query("up == 1")) == 2)
        truth = dict.fromkeys(SPANS, 0)
        for number in range(ROUNDS):
            for model, count in SPANS.items():
                if model == "steady" or number >= ROUNDS // 2:
                    produce(kafka, topic, [span(model=model)] * count)
                    truth[model] += count
            if restarts and number in (3, 11):
                threading.Thread(target=drain_and_restart, args=(replicas[0],)).start()
            if restarts and number == 7:
                replicas[1].kill()
                replicas[1].restart()
            time.sleep(1.0)
        query = "sum by (model) (tokentrace_spans_total)"
        assert wait_for(lambda: {m["model"]: v for m, v in prometheus.query(query)} == truth), prometheus.query(query)
        time.sleep(2.0)
        found = prometheus.query("sum by (model) (increase(tokentrace_spans_total[2m]))")
        return {labels["model"]: value / truth[labels["model"]] - 1 for labels, value in found}
    finally:
        for replica in replicas:
            replica.end()


def drain_and_restart(replica: Replica) -> None:
    """As a rolling update does."""
    replica.terminate()
    replica.restart()


def test_increase_over_restarts_is_as_near_as_over_none(
    kafka: KafkaBroker, tmp_path: Path, start_prometheus: Callable[[list[str]], Prometheus]
) -> None:
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(relative_error, kafka, tmp_path / name, start_prometheus, restarts=name == "rough")
            for name in ("calm", "rough")
        ]
        calm, rough = [run.result() for run in runs]
    print(f"increase() against the truth: {calm} without restarts, {rough} with three")
    assert calm.keys() == rough.keys() == SPANS.keys()
    for model in SPANS:
        # Prometheus extrapolates a series to both edges of the range by about a scrape, of the twenty there are; a
        # replica that is away longer widens that. What a restart counted again would be an eighth or more.
        assert abs(calm[model]) < 0.15
        assert abs(rough[model] - calm[model]) < 0.1

"""The increments that a real Prometheus sees are exact, over restarts and kills too."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.fleet import Replica
from tests.integration.test_group import produce
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus
from tests.services.workers import wait_for
from tests.spanfactory import span

pytestmark = pytest.mark.long

#: Rounds of a second; in each, these models get so many spans. The last model appears in the middle.
ROUNDS = 16
SPANS = {"steady": 40, "late": 25}


@pytest.mark.parametrize("restarts", [False, True], ids=["calm", "restarts"])
def test_increments_that_prometheus_sees_are_what_was_published(
    kafka: KafkaBroker, tmp_path: Path, start_prometheus: Callable[[list[str]], Prometheus], restarts: bool
) -> None:
    """It scrapes every second. What increase() gives is these increments, extrapolated to the edges of its range."""
    topic = kafka.create_topic(f"increase-{restarts}", 4)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"drain_timeout": "10s", "session_timeout": "3s"},
    }
    replicas = [Replica(tmp_path, f"worker-{index}", sections) for index in range(2)]
    update: threading.Thread | None = None
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
                if update is not None:
                    update.join()
                update = threading.Thread(target=drain_and_restart, args=(replicas[0],))
                update.start()
            if restarts and number == 7:
                replicas[1].kill()
                replicas[1].restart()
            time.sleep(1.0)
        query = "sum by (model) (tokentrace_spans_total)"
        assert wait_for(lambda: {m["model"]: v for m, v in prometheus.query(query)} == truth), prometheus.query(query)
        time.sleep(2.0)
        estimated = prometheus.query("sum by (model) (increase(tokentrace_spans_total[2m]))")
        print(f"increase(), which extrapolates, {'with' if restarts else 'without'} restarts: {estimated}, of {truth}")
        assert rises(prometheus, "tokentrace_spans_total", "model") == truth
    finally:
        if update is not None:
            update.join()
        for replica in replicas:
            replica.end()


def rises(prometheus: Prometheus, selector: str, by: str) -> Counter[str]:
    """Return value of a label -> what increase() adds up over all samples, without its extrapolation."""
    found: Counter[str] = Counter()
    for labels, samples in prometheus.samples(selector, "10m"):
        # NaN marks where VictoriaMetrics could not scrape.
        values = [value for value in samples if not math.isnan(value)]
        found[labels.get(by, "")] += sum(map(rise, values, values[1:]))
    return found


def rise(before: float, after: float) -> int:
    """Return what increase() adds for two samples: a counter that falls has been reset."""
    return int(after - before if after >= before else after)


def drain_and_restart(replica: Replica) -> None:
    """As a rolling update does."""
    replica.terminate()
    replica.restart()

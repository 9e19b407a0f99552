"""`tokentrace doctor` beside a real Kafka, worker and Prometheus: all is well, until a replica is not scraped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, span


def test_doctor_finds_a_replica_that_prometheus_does_not_scrape(
    kafka: KafkaBroker,
    topic: str,
    start_worker: Callable[..., WorkerProcess],
    start_prometheus: Callable[..., Prometheus],
    tmp_path: Path,
) -> None:
    sections: dict[str, Any] = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}}
    worker = start_worker(**sections, worker={"replica_id": "first"})
    worker.wait_until_ready()
    prometheus = start_prometheus([worker.target])
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for row in range(50):
        producer.produce(topic, value=message(span(span_id=str(row))))
    assert producer.flush(30) == 0
    (tmp_path / "mine.yml").write_text(json.dumps({**sections, "http_server": {"addr": worker.target}}))

    def examined() -> dict[str, dict[str, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "tokentrace", "doctor", "--json", "--config", "mine.yml",
             "--prometheus", prometheus.url],
            capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
        )  # fmt: skip
        assert done.stderr == ""
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == any(one["level"] == "fail" for one in found)
        return {one["area"]: one for one in found}

    found: dict[str, dict[str, str]] = {}

    def healthy() -> bool:
        found.clear()
        found.update(examined())
        return {one["level"] for one in found.values()} == {"ok"} and {"prometheus", "clock", "spans"} <= found.keys()

    assert wait_for(healthy), found
    assert found["spans"]["what"] == "50 of the newest 50 messages are counted"
    assert found["http_server.addr"]["what"] == f"a worker answers at {worker.target}"
    assert found["replicas"]["what"] == "each of the 1 members of the group is scraped"

    prometheus.scrape([])
    missing = "fail", "in the group, and not scraped: first"
    assert wait_for(lambda: (examined()["replicas"]["level"], examined()["replicas"]["what"]) == missing), examined()

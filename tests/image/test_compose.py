"""deploy/compose.yaml, run: what a newcomer is told works from the host, counts exactly, fires, and leaves nothing.

Kafka and Prometheus are pulled, or stand-ins of the same layout. Grafana cannot be built from any registry of packages:
without its image, its queries and its alert run on the Prometheus of the stack, and its data source is reached.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
import yaml
from confluent_kafka import Consumer, TopicPartition

from tests.conftest import unavailable
from tests.deploy.expressions import filled, of_dashboard, of_rules
from tests.image.engine import Engine
from tests.image.stack import WORKERS, Stack
from tests.integration.test_publishing import program
from tests.oracle import recount
from tests.services import ROOT, Unavailable
from tests.services.workers import span_totals, wait_for

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(2400)]

GRAFANA = ROOT / "deploy" / "grafana"
#: Times as the integers that they are on the wire.
SCHEMA = fastavro.parse_schema(
    json.loads((ROOT / "schemas" / "span.avsc").read_text(), object_hook=lambda part: part | {"logicalType": ""})
)
#: Marker and fingerprint of a single-object encoding.
HEADER_BYTES = 10
#: Panels of what this traffic does not have.
WITHOUT_DATA = {
    "Estimated, repaired and clamped spans", "Spent of the budgets", "Forecast of the budgets", "Rejects by reason",
}  # fmt: skip
#: Of an alert with `for: 5m`: ten minutes of a rate may have to fill first.
FIRES_WITHIN_S = 720.0


@pytest.fixture(scope="module")
def stack(engine: Engine, base: str) -> Iterator[Stack]:
    """Everything up, healthy and counting."""
    try:
        stack = Stack(engine)
    except Unavailable as error:
        unavailable(str(error))
    try:
        began = time.monotonic()
        stack.up()
        for service in ("kafka", *WORKERS):
            assert wait_for(lambda service=service: stack.healthy(service), 300.0), service
        print(f"healthy after {time.monotonic() - began:.0f} s")
        yield stack
    finally:
        stack.down()


def spans_of(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """Every span of a topic, read from this machine with nothing of tokentrace."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "recount", "enable.auto.commit": False})
    partitions = sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    left = {}
    for partition in partitions:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        if end:
            left[partition] = end
    consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
    spans: list[Any] = []
    while left:
        message = consumer.poll(10.0)
        assert message is not None
        assert message.error() is None
        value, partition, offset = message.value(), message.partition(), message.offset()
        assert value is not None
        assert partition is not None
        assert offset is not None
        spans.append(fastavro.schemaless_reader(io.BytesIO(value[HEADER_BYTES:]), SCHEMA, None))
        if offset + 1 >= left[partition]:
            del left[partition]
    consumer.close()
    return spans


def test_a_newcomer_sees_counts_alerts_and_pages_from_the_host(stack: Stack, tmp_path: Path) -> None:
    replicas, prometheus = stack.replicas(), stack.prometheus
    path = program("publisher", tmp_path)
    for _ in range(2):
        environment = {**os.environ, "KAFKA": stack.kafka}
        subprocess.run([sys.executable, str(path)], env=environment, check=True, timeout=60)
    for replica in replicas:
        assert replica.get("/ui")[0] == 200
    assert wait_for(lambda: len(prometheus.query('up{job="tokentrace"} == 1')) == len(WORKERS), 90.0)
    # The sample alert of tokentrace.yml: once in the fleet, and its line in a log.
    assert wait_for(lambda: max(replica.firings("slow-model") for replica in replicas) >= 1, 300.0)
    logs = "".join(stack.compose("logs", worker) for worker in WORKERS)
    assert '"slow-model"' in logs
    # The same latency, seen by Prometheus and by Grafana's rule.
    assert prometheus.wait_until_firing("TokentraceLatencyRegression", FIRES_WITHIN_S)
    assert [rule for rule in prometheus.rules() if rule["health"] == "err"] == []
    now_s = time.time()
    ((rule,),) = [
        group["rules"]
        for group in yaml.safe_load((GRAFANA / "provisioning" / "alerting" / "tokentrace.yml").read_text())["groups"]
    ]
    query, threshold = rule["data"]
    ((limit,),) = [part["evaluator"]["params"] for part in threshold["model"]["conditions"]]
    seen = prometheus.query_range(query["model"]["expr"], now_s - 300, now_s, 60)
    assert any(len(values) == 6 and all(value > limit for _, value in values) for _, values in seen), seen
    # Every panel's query, and where the data source of the provisioned dashboard points.
    empty = [found.place for found in of_dashboard() if not prometheus.query(filled(found.text))]
    print(f"{len(of_dashboard())} queries of the dashboard, without data: {empty}")
    assert {place.rpartition(",")[0] for place in empty} <= WITHOUT_DATA
    assert len(of_rules()) == len(prometheus.rules())
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert stack.inside("worker-0", f"{source['url']}/-/ready") == 200

    # What is published from here, too, is counted exactly.
    stack.compose("stop", "traffic")
    spans = spans_of(stack.kafka, "llm-spans")
    truth = {key: value for key, value in recount(spans).items() if value}
    from_here = [span for span in spans if (span["prompt_tokens"], span["completion_tokens"]) == (1200, 180)]
    assert sum(span["attributes"].get("eval.score") == 0.92 for span in from_here) == 2

    def counted() -> dict[Any, int]:
        return {key: value for key, value in span_totals(list(replicas)).items() if value}

    wait_for(lambda: counted() == truth)
    assert counted() == truth
    done = subprocess.run(
        [sys.executable, "-m", "tokentrace", "top", *(replica.target for replica in replicas), "--once", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = json.loads(done.stdout)
    assert shown["total"]["spans"] == len(spans)
    print(f"{len(spans)} spans, {len(truth)} series, all equal to the recount")


def test_grafana_has_its_source_its_dashboard_and_an_alert_that_fires(stack: Stack) -> None:
    if reason := stack.left_out.get("grafana"):
        pytest.skip(reason)

    def get(path: str) -> Any:
        login = base64.b64encode(b"admin:admin").decode()
        address = f"http://127.0.0.1:{stack.ports['GRAFANA_PORT']}{path}"
        with urllib.request.urlopen(
            urllib.request.Request(address, headers={"Authorization": f"Basic {login}"})
        ) as found:
            return json.load(found)

    assert get("/api/datasources/uid/prometheus/health")["status"] == "OK"
    board = json.loads((GRAFANA / "dashboards" / "tokentrace.json").read_text())
    assert get(f"/api/dashboards/uid/{board['uid']}")["meta"]["provisioned"] is True
    groups = get("/api/prometheus/grafana/api/v1/rules")["data"]["groups"]
    assert [rule["state"] for group in groups for rule in group["rules"]] == ["firing"]


def test_down_leaves_nothing(stack: Stack) -> None:
    """Runs last in this module: the fixture then has nothing to remove."""
    assert stack.left()
    stack.down()
    assert stack.left() == []
    for port in stack.ports.values():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))

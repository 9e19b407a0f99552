"""Groups that expire, on a real Kafka: idle over a restart, gone from the topic, and still in every sum."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.test_state import tokentrace
from tests.oracle import recount
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for, write_config
from tests.spanfactory import message, span
from tokentrace.config import load_config
from tokentrace.exposition import Renderer
from tokentrace.kafka.clients import KafkaClients
from tokentrace.runtime.service import Service
from tokentrace.state import StateReader

MINUTE_S = 60.0


class Clock:
    """The wall clock, and time that is taken to have passed."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@contextmanager
def running(config: Path, clock: Clock) -> Iterator[Service]:
    service = Service(load_config(config), clock)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        yield service
    finally:
        service.stop(drain=False)
        thread.join(30.0)
        assert not thread.is_alive()


def costs(service: Service) -> dict[str, float]:
    """Caller -> tokentrace_cost_total."""
    text = Renderer({}).render(service.snapshot, [], "text").decode()
    return {
        sample.labels["caller"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tokentrace_cost_total"
    }


def call(caller: str, **fields: Any) -> dict[str, Any]:
    return span(model="house-llm", provider="vllm", caller=caller, cost_usd=0.5, **fields)


def test_idle_groups_end_over_a_restart_and_nothing_is_lost(kafka: KafkaBroker, topic: str, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "tokentrace.yml",
        {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            "worker": {"session_timeout": "6s"},
            "metrics": {"expire_after": "10m"},
        },
        "one",
    )
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    spans: list[dict[str, Any]] = []

    def publish(*calls: dict[str, Any]) -> None:
        for call in calls:
            spans.append(call)
            producer.produce(topic, message(call), partition=0)
        assert producer.flush(60) == 0

    def stored() -> set[tuple[Any, ...]]:
        reader = StateReader(KafkaClients(bootstrap_servers=kafka.bootstrap), f"{topic}.state", topic)
        one = reader.read(range(reader.partitions()))["one"]
        return {(*group.base, status) for group, status in one.cells} | {tuple(cell) for cell in one.expired}

    def exact() -> None:
        found = json.loads(tokentrace(config, "state", "show", "--json"))
        truth = recount(spans)
        assert found["totals"]["spans"] == len(spans)
        assert found["totals"]["cost_nano_usd"] == sum(
            value for (name, _), value in truth.items() if name == "tokentrace_cost_total"
        )

    clock = Clock()
    publish(call("busy"), call("idle"), call("idle", status="error"), call("busy"))
    with running(config, clock) as service:
        assert wait_for(lambda: costs(service) == {"busy": 1.0, "idle": 1.0})

    # How long a group has been idle is in the topic.
    clock.ahead_s = 6 * MINUTE_S
    with running(config, clock) as service:
        assert wait_for(lambda: costs(service) == {"busy": 1.0, "idle": 1.0})
        publish(call("busy"))
        assert wait_for(lambda: costs(service) == {"busy": 1.5, "idle": 1.0})
        # Nothing is published meanwhile: what expires is a commit of its own.
        clock.ahead_s = 11 * MINUTE_S
        assert wait_for(lambda: costs(service) == {"busy": 1.5}), costs(service)
        assert service.snapshot.groups_count == 1
    assert stored() == {("house-llm", "vllm", "busy", 0), ("house-llm", "vllm", 0), ("house-llm", "vllm", 1)}
    exact()
    by_caller = json.loads(tokentrace(config, "state", "show", "--by", "caller", "--json"))["rows"]
    assert {row["caller"]: row["spans"] for row in by_caller} == {"busy": 3, "__expired__": 2}

    # It comes back as a new series; the model's series have all of it, over one more restart. (What the topic has from
    # now on was written at the wall clock's time.)
    clock.ahead_s = 5 * MINUTE_S
    with running(config, clock) as service:
        publish(call("idle"))
        assert wait_for(lambda: costs(service) == {"busy": 1.5, "idle": 0.5})
        text = Renderer({}).render(service.snapshot, [], "text").decode()
        assert 'tokentrace_spans_total{status="ok",model="house-llm",provider="vllm"} 5\n' in text
        assert 'tokentrace_spans_total{status="error",model="house-llm",provider="vllm"} 1\n' in text
    exact()

    clock.ahead_s = 60 * MINUTE_S
    with running(config, clock) as service:
        assert wait_for(lambda: service.snapshot.groups_count == 0 and bool(service.snapshot.expired))
        assert costs(service) == {}
    assert stored() == {(None, None, 0), (None, None, 1)}
    exact()

"""Built-in alerts of a real fleet, on the real Kafka, delivered to a real webhook."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.alerts.recount import METRICS, in_window, matching
from tests.services.kafka import KafkaBroker
from tests.services.webhook import Webhook
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, random_span

Start = Callable[..., WorkerProcess]
MINUTE_US = 60_000_000


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    yield receiver
    receiver.close()


def traffic(seed: str, minutes: int, spans_a_minute: int, end_s: float | None = None) -> list[dict[str, Any]]:
    """Spans in the order in which they ended, in whole minutes up to end_s, now unless set."""
    rng = random.Random(seed)
    last_us = int((end_s or time.time()) * 1e6) // MINUTE_US * MINUTE_US
    spans = []
    for minute in range(minutes):
        first_us = last_us - (minutes - minute) * MINUTE_US
        for ended_us in sorted(first_us + rng.randrange(MINUTE_US) for _ in range(spans_a_minute)):
            each = random_span(rng)
            spans.append({**each, "started_at": ended_us - 1_000_000, "ended_at": ended_us})
    return spans


def produce(kafka: KafkaBroker, topic: str, spans: list[dict[str, Any]], partitions: int = 4) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for index, each in enumerate(spans):
        producer.produce(topic, message(each), partition=index % partitions, timestamp=each["ended_at"] // 1000)
        producer.poll(0)
    assert producer.flush(30) == 0


def rule(name: str, metric: str, op: str, threshold: float, webhook: Webhook, **fields: Any) -> dict[str, Any]:
    delivery = {"type": "http", "url": webhook.url, "headers": {"Authorization": "Bearer hook-secret"}}
    return {
        "name": name, "metric": metric, "op": op, "threshold": threshold, "window": "10m", "delivery": delivery,
        **fields,
    }  # fmt: skip


def seconds(moment: str) -> int:
    return int(datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def check(payload: dict[str, Any], spans: list[dict[str, Any]], window_s: int = 600) -> None:
    """The payload says what the recount says, about the moment at which it fired."""
    chosen = matching(in_window(spans, seconds(payload["fired_at"]), window_s), **payload["filter"], **payload["group"])
    assert payload["span_count"] == len(chosen), payload
    assert payload["value"] == pytest.approx(METRICS[payload["metric"]](chosen), rel=1e-12), payload


def fleet_rules(webhook: Webhook, spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rules that no replica could tell from its share, which is half at most: sums and numbers above that."""
    whole = in_window(spans, spans[-1]["ended_at"] // MINUTE_US * 60 + 60, 600)
    most, scored = len(whole) * 2 // 3, sum("eval.score" in each["attributes"] for each in whole)
    timed = sum(bool(each["latency_ms"]) for each in whole)
    return [
        rule("spend", "total_cost", "gt", METRICS["total_cost"](whole) * 2 / 3, webhook),
        rule("slow", "latency_p95", "gt", 1000, webhook, min_spans=timed * 2 // 3),
        rule("failing", "error_rate", "gt", 0.05, webhook, min_spans=most),
        rule("poor", "quality_score", "lt", 0.75, webhook, min_spans=scored * 2 // 3, severity="critical"),
    ]


def test_each_rule_fires_once_for_the_whole_fleet_with_the_values_of_the_recount(
    kafka: KafkaBroker, topic: str, start_worker: Start, webhook: Webhook
) -> None:
    spans = traffic(topic, 12, 300)
    rules = fleet_rules(webhook, spans)
    sections = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}, "alerts": rules}
    workers = [start_worker(**sections) for _ in range(3)]
    produce(kafka, topic, spans)
    names = {each["name"] for each in rules}
    fired = lambda: {body["alert"] for body in webhook.bodies(status="firing")}  # noqa: E731
    assert wait_for(lambda: fired() == names, 60.0), fired()
    time.sleep(3.0)
    firings = webhook.bodies(status="firing")
    assert sorted(body["alert"] for body in firings) == sorted(names)
    for body in firings:
        check(body, spans)
    assert {headers["Authorization"] for _, headers, _ in webhook.received} == {"Bearer hook-secret"}
    assert [headers["Idempotency-Key"] for _, headers, _ in webhook.received] == [
        body["id"] for _, _, body in webhook.received
    ]
    serving = [worker for worker in workers if any(name.startswith("tokentrace_alert") for name, _ in worker.samples())]
    assert len(serving) == 1
    samples = serving[0].samples()
    for name in names:
        assert samples["tokentrace_alert_firings_total", frozenset({("rule", name)})] == 1
    told = [json.loads(worker.get("/alerts")[1]) for worker in workers]
    assert [{each["name"]: each["firings"] for each in board["alerts"]} for board in told] == [
        dict.fromkeys([each["name"] for each in rules], 1)
    ] * 3
    assert not any("hook-secret" in worker.log() for worker in workers)

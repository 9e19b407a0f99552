"""Built-in alerts of a real fleet, on the real Kafka, delivered to a real webhook."""

from __future__ import annotations

import json
import random
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.alerts.oracle import METRICS, in_window, matching
from tests.alerts.test_evaluation import simulate
from tests.chaos.crashing import ALERT_POINTS
from tests.chaos.fleet import Replica
from tests.integration.test_state import tokentrace
from tests.services import free_port
from tests.services.kafka import KafkaBroker
from tests.services.webhook import Webhook
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, random_span
from tokentrace.alerts.rules import Rule
from tokentrace.config.alerts import AlertRule

Start = Callable[..., WorkerProcess]
MINUTE_US = 60_000_000
#: Arguments of Python for a worker to which no partition is idle, until it is sent SIGUSR1.
NEVER_IDLE = (
    "-c",
    "import signal\n"
    "from tokentrace.cli import main\n"
    "from tokentrace.runtime import worker\n"
    "idle_after_s, worker.IDLE_AFTER_S = worker.IDLE_AFTER_S, 1e9\n"
    "signal.signal(signal.SIGUSR1, lambda *_: setattr(worker, 'IDLE_AFTER_S', idle_after_s))\n"
    "main()",
)


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
            call = random_span(rng)
            spans.append({**call, "started_at": ended_us - 1_000_000, "ended_at": ended_us})
    return spans


def produce(
    kafka: KafkaBroker,
    topic: str,
    spans: list[dict[str, Any]],
    encode: Callable[[dict[str, Any]], bytes] = message,
    partitions: int = 4,
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for index, span in enumerate(spans):
        producer.produce(topic, encode(span), partition=index % partitions, timestamp=span["ended_at"] // 1000)
        producer.poll(0)
    assert producer.flush(30) == 0


def counted(workers: list[WorkerProcess], family: str = "tokentrace_spans_total") -> int:
    return int(sum(v for w in workers for (name, _), v in w.samples().items() if name == family))


def follow_the_clock(workers: list[WorkerProcess], count: int) -> None:
    """Let idle partitions be idle, once so many spans are counted."""
    assert wait_for(lambda: counted(workers) >= count), counted(workers)
    for worker in workers:
        worker.process.send_signal(signal.SIGUSR1)


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
    most, scored = len(whole) * 2 // 3, sum("eval.score" in span["attributes"] for span in whole)
    timed = sum(bool(span["latency_ms"]) for span in whole)
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
    # Idle partitions would follow the clock while the workers start, and these spans be late.
    workers = [start_worker(program=NEVER_IDLE, **sections) for _ in range(3)]
    produce(kafka, topic, spans)
    follow_the_clock(workers, len(spans))
    names = {rule["name"] for rule in rules}
    fired = lambda: {body["alert"] for body in webhook.bodies(status="firing")}  # noqa: E731
    assert wait_for(lambda: fired() == names), fired()
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
    boards = [json.loads(worker.get("/alerts")[1]) for worker in workers]
    assert [{alert["name"]: alert["firings"] for alert in board["alerts"]} for board in boards] == [
        dict.fromkeys([rule["name"] for rule in rules], 1)
    ] * 3
    assert not any(secret in worker.log() for worker in workers for secret in ("hook-secret", "/hook"))


@pytest.mark.long
@pytest.mark.parametrize("point", sorted(ALERT_POINTS))
def test_a_firing_is_neither_repeated_nor_forgotten_when_the_evaluator_is_killed(
    kafka: KafkaBroker, topic: str, tmp_path: Path, webhook: Webhook, point: str
) -> None:
    spans = traffic(topic, 12, 120)
    rules = fleet_rules(webhook, spans)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "6s"}, "alerts": rules,
    }  # fmt: skip
    replicas = [Replica(tmp_path, f"replica-{index}", sections) for index in range(3)]
    killed: list[Replica] = []

    def all_fired() -> bool:
        """The evaluator is killed there once, and so is its successor."""
        for replica in replicas:
            if replica not in killed and replica.process.poll() == -signal.SIGKILL:
                killed.append(replica)
                replica.restart()
        return {body["alert"] for body in webhook.bodies(status="firing")} == names and bool(killed)

    try:
        for replica in replicas:
            replica.wait_until_ready()
            replica.terminate()
            replica.restart((point, 1))
        for replica in replicas:
            replica.wait_until_ready()
        produce(kafka, topic, spans)
        names = {rule["name"] for rule in rules}
        assert wait_for(all_fired, 250.0), (killed, webhook.bodies())
        time.sleep(2.0)
        firings = webhook.bodies(status="firing")
        assert {body["alert"]: body["id"] for body in firings}.keys() == names
        assert len({body["id"] for body in firings}) == len(names)
        repeats = len(killed) if point == "alert_delivered" else 0
        assert len(firings) <= len(names) + repeats
        for body in firings:
            check(body, spans)
    finally:
        for replica in replicas:
            replica.end()


@pytest.mark.long
def test_a_backlog_of_two_hours_fires_what_live_processing_fired(
    kafka: KafkaBroker, topic: str, start_worker: Start, webhook: Webhook
) -> None:
    minutes = 120
    spans = traffic(topic, minutes, 25)
    # A quiet time in between, and one in which everything is dear and slow.
    first_us = spans[0]["ended_at"]
    spans = [span for span in spans if not 30 <= (span["ended_at"] - first_us) // MINUTE_US < 45]
    for span in spans:
        if 70 <= (span["ended_at"] - first_us) // MINUTE_US < 85:
            span.update(cost_usd=3000.0, latency_ms=40_000.0, status="error")
    rules = [
        rule("spend", "total_cost", "gt", 150_000.0, webhook, interval="1m"),
        rule("slow", "latency_p95", "gt", 20_000.0, webhook, group_by=["model"], min_spans=5),
        rule("failing", "error_rate", "gte", 0.5, webhook, window="5m"),
        rule("dead", "span_count", "lt", 10, webhook, window="3m"),
    ]
    expected = set()
    for alert_rule in rules:
        compiled = Rule.of(AlertRule.model_validate(alert_rule))
        until = simulate(spans, compiled, last_minute=spans[-1]["ended_at"] // MINUTE_US)
        expected |= {(alert_rule["name"], *event[:3], event[4]) for event in until}
    assert len(expected) >= 8
    last_s = (spans[-1]["ended_at"] // MINUTE_US + 1) * 60

    def seen() -> set[tuple[Any, ...]]:
        return {
            (
                body["alert"],
                body["status"],
                tuple(body["group"].values()),
                seconds(body["fired_at"]),
                body["span_count"],
            )
            for body in webhook.bodies()
            if seconds(body["fired_at"]) <= last_s
        }

    def sections(name: str) -> dict[str, Any]:
        return {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": name, "group_id": name}, "alerts": rules}

    # Live, each chunk counted before the next comes. These spans are old: where a machine pauses for ten seconds
    # between two chunks, idle partitions would follow the clock, and the rest would be late. That is another case.
    workers = [start_worker(program=NEVER_IDLE, **sections(topic)) for _ in range(2)]
    chunk = len(spans) // 24
    for begin in range(0, len(spans), chunk):
        produce(kafka, topic, spans[begin : begin + chunk])
        count = min(begin + chunk, len(spans))
        assert wait_for(lambda: counted(workers) >= count)  # noqa: B023
    follow_the_clock(workers, len(spans))
    assert wait_for(lambda: seen() == expected), seen() ^ expected
    assert counted(workers, "tokentrace_alert_late_spans_total") == 0
    for worker in workers:
        worker.end()
    webhook.received.clear()
    # A backlog, processed by workers that start one after the other.
    backlog = kafka.create_topic(f"{topic}-backlog", 4)
    produce(kafka, backlog, spans)
    for _ in range(2):
        start_worker(**sections(backlog))
    assert wait_for(lambda: seen() == expected), seen() ^ expected
    time.sleep(1.0)
    assert len(webhook.bodies()) == len({body["id"] for body in webhook.bodies()})


def test_windows_agree_with_promql_over_the_same_traffic(
    kafka: KafkaBroker, topic: str, start_worker: Start, start_prometheus: Any
) -> None:
    """Everything is inside the window, so what a query makes of the counters is what the rule's value must be."""
    metrics = ("total_cost", "latency_p95", "ttft_p95", "prompt_token_p95", "error_rate", "quality_score")
    rules = [
        {"name": name, "metric": name, "op": "gt", "threshold": 1e12, "window": "30m", "interval": "1m"}
        for name in metrics
    ]
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "metrics": {"zero_first": False}, "alerts": rules,
    }  # fmt: skip
    workers = [start_worker(program=NEVER_IDLE, **sections) for _ in range(3)]
    prometheus = start_prometheus([worker.target for worker in workers])
    spans = traffic(topic, 5, 200)
    produce(kafka, topic, spans)
    follow_the_clock(workers, len(spans))
    end_s = spans[-1]["ended_at"] // MINUTE_US * 60 + 60

    def evaluated() -> bool:
        found = prometheus.query("max(tokentrace_alert_evaluated_timestamp_seconds)")
        total = sum(value for _, value in prometheus.query("sum(tokentrace_spans_total)"))
        return bool(found) and found[0][1] >= end_s and total == len(spans)

    assert wait_for(evaluated)
    queries = {
        "total_cost": "sum(tokentrace_cost_total)",
        "latency_p95": "histogram_quantile(0.95, sum by (le) (tokentrace_latency_ms_bucket))",
        "ttft_p95": "histogram_quantile(0.95, sum by (le) (tokentrace_ttft_ms_bucket))",
        "prompt_token_p95": "histogram_quantile(0.95, sum by (le) (tokentrace_prompt_tokens_bucket))",
        "error_rate": 'sum(tokentrace_spans_total{status="error"}) / sum(tokentrace_spans_total)',
        "quality_score": "sum(tokentrace_eval_score_sum) / sum(tokentrace_eval_score_count)",
    }
    for name in metrics:
        last_value = prometheus.query(f'max(tokentrace_alert_last_value{{rule="{name}"}})')[0][1]
        assert last_value == pytest.approx(prometheus.query(queries[name])[0][1], rel=1e-9), name
        assert last_value == pytest.approx(METRICS[name](spans), rel=1e-9), name


def test_spans_that_lie_about_their_time_do_not_move_event_time(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    rules = [{"name": "n", "metric": "span_count", "op": "gt", "threshold": 1e9, "window": "5m"}]
    sections = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}, "alerts": rules}
    worker = start_worker(**sections)
    now_us = int(time.time() * 1e6)
    lies = [now_us + 86_400_000_000, 2**62, 1, 0, now_us // 1_000_000]
    spans = [{**call, "started_at": 0, "ended_at": lie} for call, lie in zip(traffic(topic, 1, 5), lies, strict=True)]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for span in spans:
        producer.produce(topic, message(span), partition=0)
    assert producer.flush(30) == 0
    clamped = ("tokentrace_alert_clamped_spans_total", frozenset[tuple[str, str]]())
    assert wait_for(lambda: worker.samples().get(clamped) == 5)
    evaluated = ("tokentrace_alert_evaluated_timestamp_seconds", frozenset[tuple[str, str]]())
    assert wait_for(lambda: worker.samples().get(evaluated, 0.0) > 0)
    assert worker.samples()[evaluated] <= time.time()


def test_silence_is_asked_of_any_replica_and_outlives_the_evaluator(
    kafka: KafkaBroker, topic: str, start_worker: Start, webhook: Webhook, tmp_path: Path
) -> None:
    rules = [rule(name, "span_count", "gt", 10, webhook, window="2m") for name in ("quiet", "loud")]
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}, "alerts": rules,
        "worker": {"session_timeout": "6s"},
    }  # fmt: skip
    port = [free_port() for _ in range(2)]
    workers = [
        start_worker(program=NEVER_IDLE, **sections, http_server={"addr": f"127.0.0.1:{free}", "admin_token": "t0ken"})
        for free in port
    ]

    def ask(worker: WorkerProcess, path: str, method: str = "POST", token: str = "t0ken") -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://{worker.target}{path}", method=method, headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=20.0) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            body = error.read()
            return error.code, json.loads(body) if body.startswith(b"{") else body

    assert wait_for(lambda: ask(workers[0], "/alerts", "GET")[1]["evaluator"] is not None)
    evaluator = ask(workers[0], "/alerts", "GET")[1]["evaluator"]
    ours, other = workers if evaluator == "replica-0" else workers[::-1]
    assert ask(other, "/alerts/quiet/silence?duration=2h", token="wrong")[0] == 403
    assert ask(other, "/alerts/quiet/silence?duration=soon")[0] == 400
    assert ask(other, "/alerts/quiet/silence")[0] == 400
    assert ask(other, "/alerts/nobody/silence?duration=2h")[0] == 404
    assert ask(other, "/alerts/quiet/silence?duration=2h")[0] == 200

    def silenced(worker: WorkerProcess) -> list[bool]:
        return [alert["silenced_until"] is not None for alert in ask(worker, "/alerts", "GET")[1]["alerts"]]

    assert wait_for(lambda: silenced(ours) == silenced(other) == [True, False])
    ours.kill()
    assert wait_for(lambda: ask(other, "/alerts", "GET")[1]["evaluator"] not in (None, evaluator))
    produce(kafka, topic, traffic(topic, 6, 60))
    ours.restart()
    assert wait_for(lambda: bool(webhook.bodies(alert="loud", status="firing")))
    assert wait_for(lambda: {e["firings"] for e in ask(other, "/alerts", "GET")[1]["alerts"]} == {1})
    assert webhook.bodies(alert="quiet") == []
    listed = tokentrace(tmp_path / "worker0.yml", "alerts", "list").splitlines()
    assert [" ".join(line.split()[:4]) for line in listed[:2]] == [
        "firing quiet span_count =",
        "firing loud span_count =",
    ]
    assert "; silenced until " in listed[0]
    assert "; silenced until " not in listed[1]
    assert re.fullmatch(r"Evaluated by replica-[01], up to \d{4}-\d\d-\d\dT\d\d:\d\d:00Z\.", listed[2])


def test_a_window_that_started_once_starts_again(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    rules = [{"name": "week", "metric": "span_count", "op": "gt", "threshold": 1, "window": "7d"}]
    sections = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}, "alerts": rules}
    worker = start_worker(**sections)
    assert worker.terminate() == 0
    worker.restart()
    worker.wait_until_ready()
    assert worker.terminate() == 0
    # A topic of an earlier release, or of an administrator, is rejected at every start until the command is run.
    set_retention(kafka, f"{topic}.rollups", 7 * 86_400_000)
    for attempt in (1, 2):
        worker.restart()
        assert worker.process.wait(180.0) == 2
        assert worker.log().count("alerts[0].window: 7d and a margin of 2m exceed") == attempt
    command = re.search(r"--entity-name (\S+) --add-config retention.ms=(\d+)", worker.log())
    assert command is not None
    set_retention(kafka, command[1], int(command[2]))
    worker.restart()
    worker.wait_until_ready()
    assert "Traceback" not in worker.log()


def set_retention(kafka: KafkaBroker, topic: str, retention_ms: int) -> None:
    entry = ConfigEntry("retention.ms", str(retention_ms), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = kafka.admin()  # Has to outlive its answer.
    admin.incremental_alter_configs([resource])[resource].result()

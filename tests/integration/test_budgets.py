"""Budgets of a real fleet on the real Kafka: sums, alerts and verdicts, while evaluators are killed."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from confluent_kafka import Producer

from tests.budgets.oracle import nano, place_of, sums_of, thresholds_of
from tests.chaos.fleet import Replica
from tests.integration.test_state import tokentrace
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.webhook import Webhook
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import CALLERS, message, random_span

MINUTE_US = 60_000_000
EXAMPLE = ROOT / "examples" / "gateway" / "budgets.py"


def example() -> ModuleType:
    """The gateway's reader of the documentation."""
    spec = importlib.util.spec_from_file_location("gateway_budgets", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook()
    yield receiver
    receiver.close()


def month_began(zone: str) -> datetime:
    """The beginning of this month in a time zone, at least an hour ago; of the last month where that is not so."""
    now = datetime.now(UTC) - timedelta(hours=1)
    return now.astimezone(ZoneInfo(zone)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def around(boundary: datetime, seed: str, count: int) -> list[dict[str, Any]]:
    """Spans of the hour before and the hour after a moment, in any order."""
    rng = random.Random(seed)
    first_us = int((boundary - timedelta(hours=1)).timestamp() * 1e6)
    spans = []
    for _ in range(count):
        ended_us = first_us + rng.randrange(120 * MINUTE_US)
        spans.append(random_span(rng) | {"started_at": ended_us - 1_000_000, "ended_at": ended_us})
    return spans


def budgets_over(spans: list[dict[str, Any]], zone: str, webhook: Webhook) -> list[dict[str, Any]]:
    """Budgets of which some are exceeded, some are half spent, and some are nearly untouched."""
    delivery = {"type": "http", "url": webhook.url}
    named = [
        {"name": "month", "period": "month", "time_zone": zone},
        {"name": "callers", "period": "day", "time_zone": zone, "group_by": ["caller"]},
        {"name": "models", "period": "month", "time_zone": "UTC", "group_by": ["model"], "filter": {"caller": "*a*"}},
    ]
    found = []
    for share, section in zip((0.9, 1.0, 1.5), named, strict=True):
        spent = sums_of([section], spans).spent.values()
        found.append(
            {**section, "amount": f"{max(spent) / 1e9 * share:.9f}", "keep": "400d", "delivery": delivery}
        )  # fmt: skip
    return found


def produce(kafka: KafkaBroker, topic: str, spans: list[dict[str, Any]]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for index, span in enumerate(spans):
        producer.produce(topic, message(span), partition=index % 4)
        producer.poll(0)
    assert producer.flush(30) == 0


def evaluator_of(replicas: list[Replica]) -> Replica | None:
    """The replica that shows budgets."""
    for replica in replicas:
        try:
            if any(name == "tokentrace_budget_limit_usd" for name, _ in replica.samples()):
                return replica
        except (OSError, AssertionError):
            continue
    return None


def test_killed_evaluators_leave_every_verdict_exact_and_each_threshold_is_delivered_once(
    kafka: KafkaBroker, topic: str, tmp_path: Path, webhook: Webhook
) -> None:
    zone = "Europe/Berlin"
    spans = around(month_began(zone), topic, 2400)
    budgets = budgets_over(spans, zone, webhook)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "3s"}, "budgets": budgets,
    }  # fmt: skip
    replicas = [Replica(tmp_path, f"replica-{index}", sections) for index in range(3)]
    sums = sums_of(budgets, spans)
    verdicts = None
    try:
        for replica in replicas:
            replica.wait_until_ready()
        kills = 3
        for part in range(kills + 1):
            assert wait_for(lambda: evaluator_of(replicas) is not None), [replica.log()[-2000:] for replica in replicas]
            produce(kafka, topic, spans[part :: kills + 1])
            if part < kills:
                # In the middle of what it commits.
                time.sleep(random.Random(f"{topic}{part}").uniform(0.1, 1.0))
                # A busy machine may move the task just then.
                assert wait_for(lambda: evaluator_of(replicas) is not None), [
                    replica.log()[-2000:] for replica in replicas
                ]
                victim = evaluator_of(replicas) or replicas[0]
                victim.kill()
                victim.restart()
        verdicts = example().Verdicts(kafka.bootstrap, f"{topic}.budgets")

        def found() -> dict[Any, dict[str, Any]]:
            verdicts.poll(0.2)
            return {place_of(verdict): verdict for verdict in verdicts._verdicts.values() if verdict["spans"]}

        def spent() -> dict[Any, int]:
            return {place: nano(verdict["spent_usd"]) for place, verdict in found().items()}

        assert wait_for(lambda: spent() == dict(sums.spent)), (spent(), sums.spent)
        assert {place: verdict["spans"] for place, verdict in found().items()} == dict(sums.spans)
        assert {verdict["since"] for verdict in found().values()} == {None}
        thresholds = thresholds_of(budgets, sums)
        assert len(thresholds) > 8
        assert {place: set(verdict["reached_percent"]) for place, verdict in found().items()} == {
            place: {percent for other, percent in thresholds if other == place} for place in sums.spent
        }
        assert wait_for(lambda: {fact for fact, _ in fired(webhook)} == thresholds), set(fired(webhook)) ^ thresholds
        time.sleep(1.0)
        # A threshold has one id: a delivery that a kill left unrecorded is repeated with it.
        assert len({id_ for _, id_ in fired(webhook)}) == len(thresholds)
        assert len(fired(webhook)) <= len(thresholds) + 4 * kills
        check_gauges(replicas, found(), zone)
        assert wait_for(lambda: len(found()) > 0 and time.time() - 120.0 < verdicts.as_of <= time.time())
    finally:
        if verdicts is not None:
            verdicts.close()
        for replica in replicas:
            replica.end()


def fired(webhook: Webhook) -> list[tuple[Any, str]]:
    """((place, percent), id) of every delivery."""
    return [
        (
            ((body["alert"], body["budget"]["period"], tuple(body["group"].items())), body["budget"]["percent"]),
            body["id"],
        )
        for body in webhook.bodies()
    ]


def check_gauges(replicas: list[Replica], verdicts: dict[Any, dict[str, Any]], zone: str) -> None:
    """The evaluator shows the current month."""
    month = datetime.now(ZoneInfo(zone)).strftime("%Y-%m")
    limit = next(nano(verdict["limit_usd"]) for place, verdict in verdicts.items() if place[0] == "month")
    expected = {"spent": nano(verdicts["month", month, ()]["spent_usd"]), "limit": limit}
    expected["remaining"] = limit - expected["spent"]
    label = frozenset({("budget", "month")})

    def shown() -> dict[str, int]:
        evaluator = evaluator_of(replicas)
        samples = {} if evaluator is None else evaluator.samples()
        return {name: round(samples.get((f"tokentrace_budget_{name}_usd", label), 0) * 1e9) for name in expected}

    # Event time follows the clock once the partitions are idle.
    assert wait_for(lambda: shown() == expected), (shown(), expected)


@pytest.mark.nightly
def test_verdict_follows_a_span_within_the_commit_interval(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each span exceeds the budget of a group of its own, and the gateway's reader waits for the verdict."""
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        worker={"commit_interval": "1s"},
        budgets=[{"name": "each", "amount": 1, "group_by": ["caller"], "delivery": {"type": "kafka"}}],
    )
    worker.wait_for_log("This replica evaluates")
    verdicts = example().Verdicts(kafka.bootstrap, f"{topic}.budgets")
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 0})
    published: dict[str, float] = {}
    delays: dict[str, float] = {}
    count, pause_s = 400, 0.05
    began = time.monotonic()
    try:
        while len(delays) < count and time.monotonic() < began + 60.0:
            if len(published) < count and time.monotonic() >= began + len(published) * pause_s:
                now_us = int(time.time() * 1e6)
                caller = f"caller-{len(published)}"
                span = random_span(random.Random(0)) | {
                    "caller": caller, "cost_usd": 2.0, "started_at": now_us - 1000, "ended_at": now_us
                }  # fmt: skip
                published[caller] = time.monotonic()
                producer.produce(topic, message(span), partition=len(published) % 4)
                producer.poll(0)
            verdicts.poll(0.01)
            for verdict in verdicts._verdicts.values():
                caller = verdict["group"]["caller"]
                if verdict["verdict"] == "exceeded" and caller not in delays:
                    delays[caller] = time.monotonic() - published[caller]
    finally:
        verdicts.close()
        producer.flush(60)
    assert len(delays) == count
    ordered = sorted(delays.values())
    p50, p99 = ordered[count // 2], ordered[count * 99 // 100]
    with capsys.disabled():
        print(f"\nspan to verdict at 1 s commits: p50 {p50:.2f} s, p99 {p99:.2f} s, of {count} spans")
    assert p99 < 10.0


def test_example_and_list_print_what_is_exceeded(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    caller = next(caller for caller in CALLERS if caller)
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        budgets=[{"name": "team", "amount": 3, "group_by": ["caller"], "delivery": {"type": "kafka"}}],
    )
    now_us = int(time.time() * 1e6)
    span = random_span(random.Random(0)) | {"caller": caller, "cost_usd": 1.5, "ended_at": now_us}
    produce(kafka, topic, [span, span])

    def printed() -> str:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=60, check=True,
            env={"KAFKA": kafka.bootstrap, "TOPIC": f"{topic}.budgets", "WAIT": "0"},
        )  # fmt: skip
        return done.stdout

    assert wait_for(lambda: printed() == f"exceeded team ({('caller', caller)},) 3 of 3\n"), printed()
    listed = tokentrace(tmp_path / "worker0.yml", "budgets", "list")
    assert re.search(rf"team +\d{{4}}-\d\d +caller={caller} +3 +3 +100\.0 +exceeded", listed), listed
    (verdict,) = (
        json.loads(line) for line in tokentrace(tmp_path / "worker0.yml", "budgets", "list", "--json").splitlines()
    )
    assert (verdict["spent_usd"], verdict["spans"]) == ("3", 2)
    worker.terminate()
    verdicts = example().Verdicts(kafka.bootstrap, f"{topic}.budgets")
    try:
        assert wait_for(lambda: verdicts.poll())
        assert not verdicts.allows("team", caller=caller)
        assert verdicts.allows("team", caller="nobody")
        # The next month begins at zero.
        assert verdicts.allows("team", now_s=time.time() + 32 * 86_400, caller=caller)
    finally:
        verdicts.close()

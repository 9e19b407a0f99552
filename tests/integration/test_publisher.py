"""The publisher on a real Kafka: outages, a full queue, ends of processes; each acknowledged span is there once."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracle import key
from tests.publisher.answers import ANSWERS
from tests.publisher.helpers import spans, values
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.registry import SchemaRegistry
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tokentrace import Publisher

OUTAGE_S = 60.0


def numbers(bootstrap: str, topic: str) -> list[int]:
    """The numbers of a topic's spans, sorted; one that is there twice is in the list twice."""
    return sorted(span["prompt_tokens"] for span in spans(bootstrap, topic))


def test_spans_of_six_apis_cost_what_their_invoices_say(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker(kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic})
    with Publisher(kafka.bootstrap, topic, caller="invoices", flush_timeout_s=60.0) as publisher:
        for answer in ANSWERS:
            with publisher.call(answer.model, answer.provider) as call:
                call.usage(answer.json)
    assert publisher.stats.lost == {}
    expected = {
        key("tokentrace_cost_total", model=answer.model, provider=answer.provider, caller="invoices"): (
            answer.invoice_nano_usd()
        )
        for answer in ANSWERS
    }
    assert wait_for(lambda: {series: span_totals([worker]).get(series) for series in expected} == expected)


@pytest.mark.long
def test_application_publishes_on_while_the_broker_is_gone_for_a_minute(own_kafka: KafkaBroker) -> None:
    own_kafka.create_topic("spans", 4)
    publisher = Publisher(own_kafka.bootstrap, "spans", flush_on_sigterm=False)
    ended = threading.Event()
    longest_s = longest_stall_s = 0.0
    accepted: list[int] = []

    def application() -> None:
        nonlocal longest_s
        number = 0
        while not ended.is_set():
            began_s = time.monotonic()
            if publisher.publish({"model": "m", "prompt_tokens": number}):
                accepted.append(number)
            longest_s = max(longest_s, time.monotonic() - began_s)
            number += 1
            # The queue has room for two minutes and a half.
            time.sleep(0.0015)

    def bystander() -> None:
        """A thread that publishes nothing: how long a busy machine stops every thread."""
        nonlocal longest_stall_s
        while not ended.is_set():
            began_s = time.monotonic()
            time.sleep(0.001)
            longest_stall_s = max(longest_stall_s, time.monotonic() - began_s)

    threads = [threading.Thread(target=target) for target in (application, bystander)]
    for thread in threads:
        thread.start()
    assert wait_for(lambda: publisher.stats.delivered > 0)
    own_kafka.kill()
    time.sleep(OUTAGE_S)
    assert publisher.stats.queued > 0
    own_kafka.start()
    time.sleep(2.0)
    ended.set()
    for thread in threads:
        thread.join()
    assert publisher.flush(60.0) == 0
    stats = publisher.stats
    publisher.close()
    # What was acknowledged is there once, and nothing was lost.
    assert stats.lost == {}
    assert stats.delivered == len(accepted)
    assert numbers(own_kafka.bootstrap, "spans") == accepted
    # The application never waited for Kafka: a wait of a full flush or request takes seconds.
    assert longest_s < 2.0 + 2 * longest_stall_s


def test_full_queue_loses_the_newest_and_delivers_the_others_once(own_kafka: KafkaBroker) -> None:
    own_kafka.create_topic("spans", 1)
    with Publisher(own_kafka.bootstrap, "spans", max_queue=1000, flush_on_sigterm=False) as publisher:
        publisher.publish({"model": "m", "prompt_tokens": 0})
        assert publisher.flush(30.0) == 0
        own_kafka.freeze()
        accepted = [n for n in range(1, 5001) if publisher.publish({"model": "m", "prompt_tokens": n})]
        assert publisher.stats.lost == {"queue_full": 5000 - len(accepted)}
        assert len(accepted) == 1000
        own_kafka.thaw()
        assert publisher.flush(60.0) == 0
        accepted += [n for n in range(5001, 5101) if publisher.publish({"model": "m", "prompt_tokens": n})]
        assert publisher.flush(60.0) == 0
        stats = publisher.stats
    assert numbers(own_kafka.bootstrap, "spans") == [0, *accepted]
    assert (stats.delivered, stats.queued, stats.published) == (1101, 0, 5101)


#: An application that publishes as fast as it can, and writes what Kafka has acknowledged.
APPLICATION = """
import os, signal, sys, time
from tokentrace import Publisher
# Kafka may answer late on a busy machine, so the queue holds everything.
publisher = Publisher(sys.argv[1], sys.argv[2], max_queue=1_000_000, max_queue_bytes=512 << 20, flush_timeout_s=60.0)
number = 0
while number < int(sys.argv[3]):
    publisher.publish({"model": "m", "prompt_tokens": number})
    number += 1
    if number % 500 == 0:
        stats = publisher.stats
        print(stats.delivered, stats.published, sum(stats.lost.values()), flush=True)
        time.sleep(0.005)
"""


def application(*arguments: str, end: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APPLICATION + end, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_killed_application_leaves_what_was_acknowledged_once(kafka: KafkaBroker, topic: str) -> None:
    process = application(kafka.bootstrap, topic, "10000000")
    assert process.stdout is not None
    delivered = published = 0
    while delivered < 20_000:
        delivered, published, lost = map(int, process.stdout.readline().split())
        assert lost == 0
    process.send_signal(signal.SIGKILL)
    for line in process.stdout:
        if re.fullmatch(r"\d+ \d+ 0\n", line):
            delivered, published, _ = map(int, line.split())
    assert process.wait(180.0) == -signal.SIGKILL
    found = numbers(kafka.bootstrap, topic)
    assert len(set(found)) == len(found)
    assert delivered <= len(found) <= published + 500


def test_terminated_application_delivers_everything(kafka: KafkaBroker, topic: str) -> None:
    process = application(kafka.bootstrap, topic, "20000", end="os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    assert process.wait(180.0) == -signal.SIGTERM
    assert numbers(kafka.bootstrap, topic) == list(range(20_000))


def test_publisher_survives_150000_spans(kafka: KafkaBroker, topic: str) -> None:
    process = application(kafka.bootstrap, topic, "150000")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert [line for line in output.splitlines() if not line.endswith(" 0")] == []
    assert numbers(kafka.bootstrap, topic) == list(range(150_000))


def test_producer_that_kafka_accepts_no_longer_is_replaced(real_service: None, tmp_path: Path) -> None:
    """Without the right to write, an idempotent producer fails permanently; with it, a new one publishes."""
    from confluent_kafka.admin import (
        AclBinding,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    broker = KafkaBroker(tmp_path / "kafka", ask_for_rights=True)
    broker.start()
    try:
        broker.create_topic("spans", 1)
        login = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "alice",
            "sasl.password": "alice-secret",
        }
        publisher = Publisher(broker.sasl_bootstrap, "spans", properties=login, flush_on_sigterm=False)
        publisher.publish({"model": "m", "prompt_tokens": 0})
        assert wait_for(lambda: publisher.stats.lost.get("not_delivered", 0) == 1)
        allow = AclBinding(
            ResourceType.TOPIC, "spans", ResourcePatternType.LITERAL, "User:alice", "*", AclOperation.WRITE,
            AclPermissionType.ALLOW,
        )  # fmt: skip
        admin = broker.admin()
        for future in admin.create_acls([allow]).values():
            future.result()
        sent = [0]

        def delivered() -> bool:
            sent[0] += 1
            publisher.publish({"model": "m", "prompt_tokens": sent[0]})
            publisher.flush(1.0)
            return publisher.stats.delivered > 0

        assert wait_for(delivered)
        assert publisher.flush(30.0) == 0
        stats = publisher.stats
        publisher.close()
        assert stats.delivered + stats.lost["not_delivered"] == sent[0] + 1
        found = numbers(broker.bootstrap, "spans")
        assert len(found) == len(set(found)) == stats.delivered
    finally:
        broker.kill()


def test_registry_gives_the_schema_and_the_worker_reads_it(
    kafka: KafkaBroker, registry: SchemaRegistry, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    with Publisher(kafka.bootstrap, topic, schema_registry=registry.url, flush_timeout_s=60.0) as publisher:
        for number in range(10):
            publisher.publish({"model": "m", "prompt_tokens": number})
        assert publisher.flush(30.0) == 0
    with Publisher(kafka.bootstrap, topic, schema_registry={"url": registry.url}, flush_timeout_s=60.0) as again:
        again.publish({"model": "m", "prompt_tokens": 10})
    found = values(kafka.bootstrap, topic)
    assert len({value[:5] for value in found}) == 1
    assert found[0][0] == 0
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        schema_registry={"url": registry.url},
    )
    series = key("tokentrace_spans_total", status="ok", model="m", provider="")
    assert wait_for(lambda: span_totals([worker]).get(series) == 11)

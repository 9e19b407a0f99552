"""Life in a consumer group: partitions come, go and are lost; retention overtakes; dead letters are refused."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType

from tests.integration.test_bad_input import dead_letters
from tests.oracle import recount
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tests.spanfactory import message, random_span, span

Start = Callable[..., WorkerProcess]


def produce(kafka: KafkaBroker, topic: str, spans: list[dict[str, Any]], partitions: int = 4) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for index, record in enumerate(spans):
        producer.produce(topic, message(record), partition=index % partitions)
        producer.poll(0)
    assert producer.flush(30) == 0


def produce_to(kafka: KafkaBroker, topic: str, spans: list[dict[str, Any]], partition: int) -> None:
    """Produce to one partition, which may have been created a moment ago."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    assert wait_for(lambda: partition in producer.list_topics(topic, timeout=10.0).topics[topic].partitions)
    for record in spans:
        producer.produce(topic, message(record), partition=partition)
    assert producer.flush(30) == 0


def counted(*workers: WorkerProcess) -> int:
    return int(
        sum(
            value
            for worker in workers
            for (name, _), value in worker.samples().items()
            if name == "tokentrace_spans_total"
        )
    )


def value(worker: WorkerProcess, name: str, **labels: str) -> float:
    return worker.samples().get((name, frozenset(labels.items())), 0.0)


def nonzero(totals: dict[Any, int]) -> dict[Any, int]:
    return {key: value for key, value in totals.items() if value}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_partitions_move_between_workers_without_a_span_lost_or_repeated(
    kafka: KafkaBroker, topic: str, start_worker: Start, protocol: str
) -> None:
    rng = random.Random(protocol)
    spans = [random_span(rng) for _ in range(6000)]
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic, "group_protocol": protocol}
    }
    first = start_worker(**sections)
    produce(kafka, topic, spans[:2000])
    assert wait_for(lambda: counted(first) > 0)
    second = start_worker(**sections)
    produce(kafka, topic, spans[2000:4000])
    assert wait_for(lambda: value(second, "tokentrace_worker_assigned_partitions") == 2)
    assert wait_for(lambda: value(first, "tokentrace_worker_rebalances_total", event="revoke") >= 1)
    produce(kafka, topic, spans[4000:])
    assert wait_for(lambda: counted(first, second) >= 6000)
    assert counted(second) > 0
    assert nonzero(span_totals([first, second])) == nonzero(recount(spans))
    # What was given up is no longer shown as lag.
    partitions = [
        {dict(labels)["partition"] for name, labels in worker.samples() if name == "tokentrace_worker_lag_records"}
        for worker in (first, second)
    ]
    assert sorted([*partitions[0], *partitions[1]]) == ["0", "1", "2", "3"]


def test_a_worker_that_slept_past_its_session_drops_what_it_had_not_committed(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        # Commits only by hand-over, so that what is counted before the sleep is not committed.
        "worker": {"session_timeout": "3s", "commit_interval": "10m"},
    }
    first = start_worker(**sections)
    assert wait_for(lambda: value(first, "tokentrace_worker_assigned_partitions") == 4)
    produce(kafka, topic, [span(cost_usd=1.0)] * 40)
    os.killpg(first.process.pid, signal.SIGSTOP)
    sections["worker"] = {"session_timeout": "3s"}
    second = start_worker(**sections)
    assert wait_for(lambda: counted(second) == 40), second.messages()[-5:]
    os.killpg(first.process.pid, signal.SIGCONT)
    # It comes back without an error, counts nothing twice, and takes its share again.
    assert wait_for(lambda: value(first, "tokentrace_worker_assigned_partitions") == 2), first.messages()[-5:]
    assert counted(first) == 0
    assert first.process.poll() is None
    assert "Traceback" not in first.log()


def test_records_that_retention_removed_are_counted_as_lost_and_counting_goes_on(
    kafka: KafkaBroker, start_worker: Start
) -> None:
    topic = kafka.create_topic("retention", 1)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"replica_id": "late"},
    }
    worker = start_worker(**sections)
    produce(kafka, topic, [span()] * 5, 1)
    assert wait_for(lambda: counted(worker) == 5)
    assert worker.terminate() == 0
    produce(kafka, topic, [span()] * 10, 1)
    admin = kafka.admin()
    for future in admin.delete_records([TopicPartition(topic, 0, 12)]).values():
        future.result()
    worker = start_worker(**sections)
    assert wait_for(lambda: value(worker, "tokentrace_worker_lost_records_total", partition="0") == 7), worker.log()
    # Five from before, which the state has kept, and the three that are left.
    assert wait_for(lambda: counted(worker) == 8)
    assert any("7 records" in line for line in worker.messages()), worker.messages()
    worker.kill()
    worker.restart()
    worker.wait_until_ready()
    assert wait_for(lambda: value(worker, "tokentrace_worker_lost_records_total", partition="0") == 7), worker.log()


def test_a_new_group_that_starts_at_the_latest_skips_what_was_there(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    produce(kafka, topic, [span()] * 8)
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic, "start": "latest"}
    )
    assert wait_for(lambda: value(worker, "tokentrace_worker_assigned_partitions") == 4)
    produce(kafka, topic, [span()] * 4)
    assert wait_for(lambda: counted(worker) == 4)


def test_partitions_that_were_quiet_or_were_added_lose_nothing_to_a_start_at_the_latest(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    topic = kafka.create_topic(f"{topic}-latest", 2)
    produce(kafka, topic, [span()] * 8, 2)
    sections = {
        "kafka": {
            "bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic, "start": "latest",
            "properties": {"topic.metadata.refresh.interval.ms": 1000},
        },
        "worker": {"replica_id": "one", "session_timeout": "10s"},
    }  # fmt: skip
    worker = start_worker(**sections)
    assert wait_for(lambda: value(worker, "tokentrace_worker_assigned_partitions") == 2)
    produce(kafka, topic, [span()] * 100, 1)
    assert wait_for(lambda: counted(worker) == 100)
    worker.kill()
    produce_to(kafka, topic, [span()] * 500, 1)
    admin = kafka.admin()  # Has to outlive its answer.
    admin.create_partitions([NewPartitions(topic, 4)])[topic].result()
    for partition in (2, 3):
        produce_to(kafka, topic, [span()] * 1000, partition)
    # Within its session or after it: the group may still assign what it did before.
    worker.restart()
    assert wait_for(lambda: worker.ready() and counted(worker) == 2600), worker.log()[-2000:]


def test_dead_letters_that_the_broker_refuses_hold_the_commit_back_until_it_takes_them(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    worker = start_worker(kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic})
    letters = f"{topic}.dead-letters"

    def limit(size: int) -> None:
        admin = kafka.admin()
        entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, letters, incremental_configs=[entry])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()

    limit(300)
    rng = random.Random(1)  # Bytes that no compression makes smaller.
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for index in range(3):
        producer.produce(topic, b"junk" + rng.randbytes(400), key=b"%d" % index, partition=0)
    producer.produce(topic, message(span()), partition=0)
    producer.flush()
    worker.wait_for_log(r"A transaction was aborted \(.*Message size too large")
    assert counted(worker) == 0, "nothing is shown that is not committed"
    limit(1_100_000)
    assert wait_for(lambda: counted(worker) == 1), worker.messages()[-5:]
    assert sorted(key for key, _, _ in dead_letters(kafka, letters)) == [b"0", b"1", b"2"]
    assert value(worker, "tokentrace_worker_commits_total", outcome="failed") >= 1

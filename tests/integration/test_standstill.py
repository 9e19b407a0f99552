"""Standstill: what keeps a worker from committing shows in its lag, its readiness and the shipped alert's series."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.integration.test_group import produce
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, span

pytestmark = pytest.mark.usefixtures("real_service")

StartWorker = Callable[..., WorkerProcess]
BEFORE, BEHIND = 20, 300


def value(worker: WorkerProcess, name: str) -> float:
    """Sum of a worker's own metric over its partitions; -1 if it does not answer."""
    try:
        samples = worker.samples()
    except OSError:
        return -1.0
    return sum(number for (found, _), number in samples.items() if found == f"tokentrace_worker_{name}")


def spans(worker: WorkerProcess) -> int:
    return int(sum(number for (name, _), number in worker.samples().items() if name == "tokentrace_spans_total"))


def waiting_for(worker: WorkerProcess) -> str:
    return str(json.loads(worker.get("/health/ready")[1])["waiting_for"])


@contextmanager
def open_transaction(kafka: KafkaBroker, topic: str) -> Iterator[Producer]:
    """A publisher's transaction in partition 0 of the topic, open until the end of the block."""
    # Left alone, the broker would end it after a minute.
    settings = {"transactional.id": f"{topic}-publisher", "transaction.timeout.ms": 600_000}
    publisher = Producer({"bootstrap.servers": kafka.bootstrap, **settings})
    publisher.init_transactions(30.0)
    publisher.begin_transaction()
    publisher.produce(topic, message(span()), partition=0)
    publisher.flush(30.0)
    yield publisher
    publisher.commit_transaction(30.0)


def settings(kafka: KafkaBroker, topic: str) -> dict[str, dict[str, str]]:
    return {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "health": {"max_commit_age": "3s"},
    }


def assert_stands_still(worker: WorkerProcess, behind: int) -> None:
    assert wait_for(lambda: value(worker, "lag_records") >= behind), worker.log()
    assert wait_for(lambda: not worker.ready() and "none was committed for" in waiting_for(worker)), worker.log()
    assert wait_for(lambda: value(worker, "ready") == 0)
    assert value(worker, "stalled_seconds") > 3


def assert_goes_on(worker: WorkerProcess, counted: int) -> None:
    assert wait_for(lambda: worker.ready() and spans(worker) == counted), worker.log()
    assert wait_for(lambda: value(worker, "lag_records") == value(worker, "stalled_seconds") == 0), worker.log()


def test_records_behind_an_open_transaction_of_a_publisher_stand_still(
    kafka: KafkaBroker, topic: str, start_worker: StartWorker
) -> None:
    produce(kafka, topic, [span() for _ in range(BEFORE)])
    worker = start_worker(**settings(kafka, topic))
    assert_goes_on(worker, BEFORE)
    with open_transaction(kafka, topic):
        # The other partitions go on, and their commits hide nothing.
        produce(kafka, topic, [span() for _ in range(BEHIND)])
        assert_stands_still(worker, BEHIND // 4)
        # On a busy machine the others stand still for a moment, too.
        first = "records of the partitions [0] wait"
        assert wait_for(lambda: waiting_for(worker).startswith(first)), (waiting_for(worker), worker.log())
        assert spans(worker) == BEFORE + BEHIND * 3 // 4
    assert_goes_on(worker, BEFORE + BEHIND + 1)


def test_commits_that_are_refused_stand_still(kafka: KafkaBroker, topic: str, start_worker: StartWorker) -> None:
    produce(kafka, topic, [span() for _ in range(BEFORE)])
    worker = start_worker(**settings(kafka, topic))
    assert_goes_on(worker, BEFORE)
    limit_records(kafka, f"{topic}.state", 100)
    produce(kafka, topic, [span() for _ in range(BEHIND)])
    assert_stands_still(worker, BEHIND)
    assert spans(worker) == BEFORE
    limit_records(kafka, f"{topic}.state", 10_000_000)
    assert_goes_on(worker, BEFORE + BEHIND)


def limit_records(kafka: KafkaBroker, topic: str, size: int) -> None:
    """Set the largest record that a topic takes."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = kafka.admin()
    admin.incremental_alter_configs([resource])[resource].result(30.0)


def test_broker_that_is_frozen_stands_still(own_kafka: KafkaBroker, start_worker: StartWorker) -> None:
    own_kafka.create_topic("spans", 2)
    worker = start_worker(**settings(own_kafka, "spans"))
    publisher = Producer({"bootstrap.servers": own_kafka.bootstrap, "linger.ms": 5})
    for _ in range(BEFORE):
        publisher.produce("spans", message(span()), partition=0)
    assert publisher.flush(30.0) == 0
    assert_goes_on(worker, BEFORE)
    own_kafka.freeze()
    try:
        assert wait_for(lambda: not worker.ready()), worker.log()
    finally:
        own_kafka.thaw()
    for _ in range(BEHIND):
        publisher.produce("spans", message(span()), partition=0)
    assert publisher.flush(60.0) == 0
    assert_goes_on(worker, BEFORE + BEHIND)

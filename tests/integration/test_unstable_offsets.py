"""A group's offsets while another member's transaction on them is open, and a rebalance meanwhile.

The broker then answers UNSTABLE_OFFSET_COMMIT, and librdkafka begins where `auto.offset.reset` says, as if nothing had
ever been committed. The first test shows that it does, on the real broker; the second, that a worker waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.integration.test_group import counted, produce
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import span

pytestmark = pytest.mark.usefixtures("real_service")

SPANS = 20
#: Of each of the two partitions: committed, and in the open transaction.
COMMITTED, PENDING = 5, 10


def group_config(kafka: KafkaBroker, topic: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": kafka.bootstrap, "group.id": topic, "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "isolation.level": "read_committed", "session.timeout.ms": 6000,
        "partition.assignment.strategy": "range",
    }  # fmt: skip


@contextmanager
def open_transaction(kafka: KafkaBroker, topic: str) -> Iterator[Producer]:
    """Twenty spans in a new topic's two partitions; a member commits some, and leaves with a transaction open."""
    kafka.create_topic(topic, 2)
    produce(kafka, topic, [span() for _ in range(SPANS)], 2)
    member = Consumer(group_config(kafka, topic))
    member.subscribe([topic])
    read = 0
    while read < SPANS:
        read += len(member.consume(SPANS, 1.0))
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "transactional.id": topic, "transaction.timeout.ms": 600_000}
    )
    producer.init_transactions(30.0)
    for offset in (COMMITTED, PENDING):
        producer.begin_transaction()
        offsets = [TopicPartition(topic, partition, offset) for partition in range(2)]
        producer.send_offsets_to_transaction(offsets, member.consumer_group_metadata(), 30.0)
        if offset == COMMITTED:
            producer.commit_transaction(30.0)
    member.close()
    yield producer


def has_both_partitions(kafka: KafkaBroker, group: str) -> bool:
    """Return true once the group has one member with both partitions."""
    admin = kafka.admin()  # Has to outlive its answer.
    (answer,) = admin.describe_consumer_groups([group]).values()
    members = answer.result(20.0).members
    return [len(member.assignment.topic_partitions) for member in members] == [2]


def joining(worker: WorkerProcess) -> bool:
    """Return true while it is in the group and has no partitions yet."""
    try:
        return b"joining the consumer group" in worker.get("/health/ready")[1]
    except OSError:
        return False


def lags(*workers: WorkerProcess) -> list[float]:
    return [
        value for worker in workers for (name, _), value in worker.samples().items() if name.endswith("_lag_records")
    ]


def test_the_library_forgets_what_is_committed(kafka: KafkaBroker, topic: str) -> None:
    """If this fails, librdkafka has fixed the bug, and the worker's offset query can be removed."""
    first: dict[tuple[str, int], int] = {}
    stop = threading.Event()

    def consume(name: str) -> None:
        member = Consumer(group_config(kafka, topic))
        member.subscribe([topic])
        while not stop.is_set():
            for message in member.consume(10, 0.1):
                if message.error() is None:
                    partition, offset = message.partition(), message.offset()
                    assert partition is not None
                    assert offset is not None
                    first.setdefault((name, partition), offset)
        member.close()

    topic = f"{topic}-plain"
    with open_transaction(kafka, topic) as producer:
        members = [threading.Thread(target=consume, args=(name,), daemon=True) for name in ("one", "two")]
        members[0].start()
        assert wait_for(lambda: has_both_partitions(kafka, topic))
        members[1].start()
        found = wait_for(lambda: bool(first))
        producer.abort_transaction(30.0)
        stop.set()
        for consumer in members:
            consumer.join()
    assert found
    assert 0 in first.values(), f"offset {COMMITTED} is committed of both partitions: {first}"


@pytest.mark.parametrize("ending", ["commit", "abort"])
def test_a_worker_waits_until_the_offsets_are_stable(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], ending: str
) -> None:
    topic = f"{topic}-{ending}"
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
    }
    with open_transaction(kafka, topic) as producer:
        one = start_worker(wait=False, **sections, worker={"replica_id": "one", "session_timeout": "6s"})
        assert wait_for(lambda: has_both_partitions(kafka, topic))
        two = start_worker(wait=False, **sections, worker={"replica_id": "two", "session_timeout": "6s"})
        assert wait_for(lambda: "not stable yet" in one.log() + two.log())
        assert wait_for(lambda: joining(two))
        getattr(producer, f"{ending}_transaction")(30.0)
    produce(kafka, topic, [span() for _ in range(6)], 2)
    rest = SPANS - 2 * (PENDING if ending == "commit" else COMMITTED) + 6
    assert wait_for(lambda: counted(one, two) == rest), counted(one, two)
    # Nothing is left to be read that could be counted yet.
    assert wait_for(lambda: lags(one, two) == [0, 0])
    assert counted(one, two) == rest

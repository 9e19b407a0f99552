"""Spans that are published twice, on a real Kafka: counted once over kills, rebalances and changes of owner."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.integration.test_group import counted, nonzero, value
from tests.oracle import recount
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, span_totals, wait_for, wait_for_markers
from tests.spanfactory import message, random_span, span

Start = Callable[..., WorkerProcess]
PARTITIONS = 4


def sections(
    kafka: KafkaBroker, topic: str, replica: str, guarantee: str = "exactly_once", **rule: Any
) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {
            "replica_id": replica, "session_timeout": "3s", "guarantee": guarantee, "commit_interval": "100ms",
            "deduplicate": {"by": "span_id", "window": "10m", **rule},
        },
    }  # fmt: skip


class Application:
    """Publishes spans by their trace, and about one in twenty of them again, at once or much later."""

    def __init__(self, kafka: KafkaBroker, topic: str, seed: int) -> None:
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5, "enable.idempotence": True})
        self._topic = topic
        self._rng = random.Random(seed)
        self.spans: list[dict[str, Any]] = []
        self.repeats = 0

    def publish(self, count: int) -> None:
        rng = self._rng
        for _ in range(count):
            self.spans.append(random_span(rng))
            self._send(self.spans[-1])
            if rng.random() < 0.05:
                self._send(rng.choice([self.spans[-1], rng.choice(self.spans), rng.choice(self.spans[-50:])]))
                self.repeats += 1
        assert self._producer.flush(30) == 0

    def _send(self, record: dict[str, Any]) -> None:
        self._producer.produce(self._topic, message(record), partition=int(record["trace_id"], 16) % PARTITIONS)
        self._producer.poll(0)


def audited(workers: list[WorkerProcess], name: str) -> int:
    """A family of the audit, summed over workers and partitions."""
    return sum(
        int(sample)
        for worker in workers
        for (family, _), sample in worker.samples().items()
        if family == f"tokentrace_worker_{name}_records_total"
    )


def chunks(kafka: KafkaBroker, topic: str) -> dict[bytes, bytes | None]:
    """Return the topic as compaction would leave it: the last record of each key."""
    wait_for_markers(kafka, f"{topic}.ids", PARTITIONS)
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "look", "isolation.level": "read_committed",
         "enable.partition.eof": True}
    )  # fmt: skip
    consumer.assign([TopicPartition(f"{topic}.ids", partition, 0) for partition in range(PARTITIONS)])
    last: dict[bytes, bytes | None] = {}
    ended = 0
    while ended < PARTITIONS:
        record = consumer.poll(60.0)
        assert record is not None
        if record.error() is not None:
            ended += 1
        else:
            key = record.key()
            assert isinstance(key, bytes)
            last[key] = record.value()
    consumer.close()
    return last


@pytest.mark.long
def test_repeated_spans_are_counted_once_over_kills_and_rebalances(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    application = Application(kafka, topic, 11)
    workers = {name: start_worker(**sections(kafka, topic, name)) for name in ("one", "two")}
    for turn in range(6):
        application.publish(1500)
        time.sleep(0.3)
        if turn == 1:
            workers["three"] = start_worker(**sections(kafka, topic, "three"))
        elif turn == 4:
            # Its partitions go to the others, which must know what it has counted.
            workers["two"].kill()
            assert wait_for(
                lambda: sum(
                    value(workers[name], "tokentrace_worker_assigned_partitions") for name in ("one", "three")
                ) == PARTITIONS
            )  # fmt: skip
        else:
            name = random.Random(turn).choice(list(workers))
            workers[name].kill()
            workers[name].restart()
            workers[name].wait_until_ready()
    application.publish(500)
    workers["two"].restart()
    workers["two"].wait_until_ready()
    alive = list(workers.values())
    assert application.repeats > 300
    polled = len(application.spans) + application.repeats
    assert wait_for(lambda: audited(alive, "polled") == polled), audited(alive, "polled") - polled
    assert audited(alive, "duplicate") == application.repeats
    assert counted(*alive) == audited(alive, "counted") == len(application.spans)
    assert nonzero(span_totals(alive)) == nonzero(recount(application.spans))


def test_ids_beyond_the_window_leave_the_topic_and_count_again(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    worker = start_worker(**sections(kafka, topic, "one", window="3s"))
    producer = Producer({"bootstrap.servers": kafka.bootstrap})

    began_ms = round(time.time() * 1000) - 60_000

    def publish(after_s: int, *names: str) -> None:
        """The window goes by the messages' own timestamps, so nothing here depends on how fast the machine is."""
        for name in names:
            at_ms = began_ms + 1000 * after_s
            producer.produce(topic, message(span(span_id=name)), partition=0, timestamp=at_ms)
        assert producer.flush(60) == 0

    publish(0, "a", "b")
    assert wait_for(lambda: counted(worker) == 2)
    # Most of the newest ids are a window later than the first commit.
    publish(5, "a", "c", "c", "d")
    assert wait_for(lambda: counted(worker) == 5)
    assert audited([worker], "duplicate") == 1
    kept = {key: chunk for key, chunk in chunks(kafka, topic).items() if json.loads(key)[1] == 0}
    first, *later = [kept[key] for key in sorted(kept, key=lambda key: json.loads(key)[2])]
    assert first is None
    assert later
    assert None not in later
    labels = {"partition": "0"}
    assert wait_for(lambda: value(worker, "tokentrace_worker_remembered_spans", **labels) == 3)
    # A restart knows the same.
    worker.kill()
    worker.restart()
    worker.wait_until_ready()
    publish(6, "a", "c", "e")
    assert wait_for(lambda: counted(worker) == 6)
    assert audited([worker], "duplicate") == 3


def test_a_message_stamped_ahead_evicts_no_ids_over_a_kill(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    """One message of a clock 30 minutes ahead, alone in its commit. The window is ten minutes."""
    worker = start_worker(**sections(kafka, topic, "one"))
    producer = Producer({"bootstrap.servers": kafka.bootstrap})

    def publish(names: Sequence[str], ahead_s: float = 0.0) -> None:
        at_ms = round((time.time() + ahead_s) * 1000)
        for name in names:
            producer.produce(topic, message(span(span_id=name)), partition=0, timestamp=at_ms)
        assert producer.flush(60) == 0

    names = [f"span-{number}" for number in range(10)]
    publish(names)
    assert wait_for(lambda: counted(worker) == 10)
    publish(["ahead"], 1800.0)
    assert wait_for(lambda: counted(worker) == 11)
    for repeats in (10, 20):
        publish(names)
        assert wait_for(lambda repeats=repeats: audited([worker], "polled") == 11 + repeats)
        assert (counted(worker), audited([worker], "duplicate")) == (11, repeats)
        worker.kill()
        worker.restart()
        worker.wait_until_ready()
    publish([*names, "ahead"])
    assert wait_for(lambda: audited([worker], "polled") == 42)
    assert (counted(worker), audited([worker], "duplicate")) == (11, 31)


def test_the_memory_is_bounded_by_max_ids(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    worker = start_worker(**sections(kafka, topic, "one", max_ids=300))
    application = Application(kafka, topic, 12)
    labels = {"partition": "1"}
    for _ in range(10):
        application.publish(200)
        time.sleep(0.25)
    polled = len(application.spans) + application.repeats
    assert wait_for(lambda: audited([worker], "polled") == polled)
    assert wait_for(lambda: value(worker, "tokentrace_worker_forgotten_spans_total", **labels) > 50)
    assert 0 < value(worker, "tokentrace_worker_remembered_spans", **labels) <= 300
    live = [chunk for chunk in chunks(kafka, topic).values() if chunk is not None]
    assert 0 < sum(len(chunk) // 8 for chunk in live) <= PARTITIONS * 300 + 4 * len(live)


def test_at_least_once_remembers_while_it_runs(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    worker = start_worker(**sections(kafka, topic, "one", "at_least_once"))
    application = Application(kafka, topic, 13)
    application.publish(1000)
    polled = len(application.spans) + application.repeats
    assert wait_for(lambda: audited([worker], "polled") == polled)
    assert nonzero(span_totals([worker])) == nonzero(recount(application.spans))
    assert audited([worker], "duplicate") == application.repeats

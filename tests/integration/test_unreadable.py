"""Damaged records of tokentrace's own topics, on the real Kafka: named with a remedy that helps, or passed over."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from tests.integration import test_alerts, test_group
from tests.integration.test_alerts import Webhook, rule, traffic, webhook
from tests.integration.test_state import sections, tokentrace
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import random_span
from tokentrace.state.schemas import decode_record, encode_record

__all__ = ["webhook"]

Start = Callable[..., WorkerProcess]


def last_records(kafka: KafkaBroker, topic: str) -> dict[bytes, Message]:
    """Key -> the last committed record of the topic."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "look", "isolation.level": "read_committed",
         "enable.partition.eof": True}
    )  # fmt: skip
    count = len(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(count)])
    found: dict[bytes, Message] = {}
    ended: set[int | None] = set()

    def read() -> bool:
        for message in consumer.consume(1000, 0.2):
            error = message.error()
            if error is None:
                found[message.key() or b""] = message
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        return len(ended) == count

    assert wait_for(read)
    consumer.close()
    return found


def write(kafka: KafkaBroker, topic: str, key: bytes, value: bytes | None, partition: int, headers: Any = None) -> int:
    """Write a record; return its offset."""
    offsets: list[int] = []
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(
        topic, value, key, partition, headers=headers,
        on_delivery=lambda _, message: offsets.append(message.offset() or 0),
    )  # fmt: skip
    assert producer.flush(30) == 0
    return offsets[0]


def test_a_worker_names_the_damaged_or_deleted_record_of_its_state_and_counts_after_the_remedy(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    rng = random.Random(7)
    worker = start_worker(**sections(kafka, topic))
    test_group.produce(kafka, topic, [random_span(rng) for _ in range(50)])
    assert wait_for(lambda: test_group.counted(worker) == 50)
    assert worker.terminate() == 0
    key, cell = max(last_records(kafka, f"{topic}.state").items(), key=lambda record: len(record[0]))
    partition, value = cell.partition() or 0, cell.value() or b""
    # Behind the ten bytes that name the schema: another time of creation, in a record that can be decoded.
    flipped = value[:12] + bytes([value[12] ^ 2]) + value[13:]
    for damaged in (value[: len(value) // 2], flipped):
        offset = write(kafka, f"{topic}.state", key, damaged, partition, cell.headers())
        worker.restart()
        assert worker.process.wait(180.0) == 1
        place = f"at offset {offset} of topic '{topic}.state', partition {partition}, key {key.decode()!r}"
        named = f"{place} cannot be read"
        [line] = [line for line in worker.messages() if named in line]
    assert "Traceback" not in worker.log()
    assert "tokentrace state reset --totals --replica one" in line
    config = tmp_path / "worker0.yml"
    assert named in tokentrace(config, "state", "show", code=1)
    write(kafka, f"{topic}.state", key, None, partition)
    worker.restart()
    assert worker.process.wait(180.0) == 1
    named = f"were deleted or replaced from outside in topic '{topic}.state', partition {partition} (cells: "
    [line] = [line for line in worker.messages() if named in line]
    assert "Totals of replica 'one'" in line
    assert "; spans: 50 committed, " in line
    assert "tokentrace state reset --totals --replica one" in line
    tokentrace(config, "state", "reset", "--totals", "--replica", "one", "--yes")
    worker.restart()
    worker.wait_until_ready()
    test_group.produce(kafka, topic, [random_span(rng) for _ in range(30)])
    assert wait_for(lambda: test_group.counted(worker) == 30), "the counters begin at 0, behind what was counted"


def test_an_alert_fires_behind_garbage_among_the_rollups_which_is_counted(
    kafka: KafkaBroker, topic: str, start_worker: Start, webhook: Webhook
) -> None:
    spans = traffic(topic, 12, 60)
    rules = [rule("busy", "span_count", "gte", 600, webhook)]
    section = {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}
    worker = start_worker(kafka=section, alerts=rules)
    offset = write(kafka, f"{topic}.rollups", b"x", b"\xde\xad\xbe\xef garbage", 0)
    test_alerts.produce(kafka, topic, spans)
    assert wait_for(lambda: bool(webhook.bodies(status="firing"))), worker.log()
    assert worker.samples()["tokentrace_alert_unreadable_records_total", frozenset()] == 1
    named = f"The record at offset {offset} of topic '{topic}.rollups', partition 0, key 'x' cannot be read"
    assert sum(named in line for line in worker.messages()) == 1
    [(key, rollup)] = [found for found in last_records(kafka, f"{topic}.rollups").items() if found[0] != b"x"]
    record = decode_record(rollup.value() or b"", "rollup")
    assert record["reached"]
    for partition in record["reached"]:
        partition["event_time"] += 3_600_000_000
    offset = write(kafka, f"{topic}.rollups", key, encode_record("rollup", record), 0, rollup.headers())
    named = f"at offset {offset} of topic '{topic}.rollups', partition 0, key {key.decode()!r} cannot be read"
    assert wait_for(lambda: any(named in line for line in worker.messages())), "a flipped event time"
    assert wait_for(lambda: worker.samples()["tokentrace_alert_unreadable_records_total", frozenset()] == 2)

"""Producing: back-pressure, the partitioner, and the reports of an idempotent producer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError

from tests.kafka.fakes import ScriptedClients, ScriptedProducer, Waits, failure
from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.producer import IdempotentProducer, Record, paced, partition_of, produce, record_bytes

Parts = tuple[IdempotentProducer, ScriptedProducer]


@pytest.fixture
def parts() -> Parts:
    clients = ScriptedClients(producer=ScriptedProducer)
    producer = IdempotentProducer(clients, {"linger.ms": 5})
    return producer, clients.made[0]


def test_produce_waits_while_the_queue_is_full() -> None:
    producer = ScriptedProducer({})
    producer.errors["produce"] = [BufferError(), BufferError()]
    produce(producer, Record("t", b"k", b"v"), Waits())  # type: ignore[arg-type]
    assert producer.calls == ["produce", "poll", "produce", "poll", "produce"]
    assert producer.produced == [("t", b"k")]


def test_record_bytes_counts_key_value_and_headers() -> None:
    empty = record_bytes(Record("t", None, None))
    assert record_bytes(Record("t", b"key", b"value")) == empty + 8
    assert record_bytes(Record("t", None, None, headers=[("n", b"12"), ("é", "é"), ("none", None)])) == empty + 11 + 30


def test_paced_flushes_before_a_batch_outgrows_its_topic_and_nowhere_else() -> None:
    events: list[str] = []
    small, large = Record("limited", None, bytes(400)), Record("limited", None, bytes(2000))
    other = Record("other", None, bytes(5000))
    records = [small, other, small, small, large, small, other]
    for record in paced(records, {"limited": 1000}, lambda: events.append("flush")):
        events.append(f"{record.topic} {len(record.value or b'')}")  # noqa: PERF401 (flush appends between them)
    assert events == [
        "limited 400", "other 5000", "limited 400", "flush", "limited 400", "flush", "limited 2000", "flush",
        "limited 400", "other 5000",
    ]  # fmt: skip


def test_partition_of_is_stable_and_spreads() -> None:
    found = [partition_of(f"tokentrace-{index}", 12) for index in range(200)]
    assert set(found) == set(range(12))
    # Fixed: the records of every replica that ever counted are where this says.
    assert [partition_of(name, 12) for name in ("tokentrace-0", "tokentrace-1", "r0")] == [1, 3, 11]


def test_an_idempotent_producer_reports_every_record(parts: Parts) -> None:
    producer, scripted = parts
    scripted.deliver = lambda index: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large") if index == 1 else None
    reports: list[str | None] = []
    for _ in range(3):
        producer.produce(Record("t", None, b"v"), reports.append)
    assert producer.flush(1.0) == 0
    assert reports == [None, "too large", None]
    assert producer.too_large
    assert scripted.config["enable.idempotence"] is True
    assert scripted.config["linger.ms"] == 5


def test_a_record_that_cannot_be_queued_is_reported_at_once(parts: Parts) -> None:
    producer, scripted = parts
    scripted.errors["produce"] = [failure(KafkaError.MSG_SIZE_TOO_LARGE)]
    reports: list[str | None] = []
    producer.produce(Record("t", None, b"v"), reports.append)
    assert reports == ["scripted"]


def test_a_failed_producer_is_fatal_to_flush_and_not_to_close(parts: Parts) -> None:
    producer, scripted = parts
    scripted.errors["flush"] = [failure(KafkaError._FENCED, fatal=True), failure(KafkaError._FENCED, fatal=True)]
    with pytest.raises(FatalError, match=r"no longer accepts records .*scripted"):
        producer.flush(1.0)
    producer.close()


def test_check_topic_says_what_to_correct(parts: Parts) -> None:
    producer, scripted = parts
    scripted.errors["list_topics"] = [failure(KafkaError._TRANSPORT)]
    with pytest.raises(UsageError, match=r"No Kafka broker answers at x:1 \(scripted\); check kafka.bootstrap_servers"):
        producer.check_topic("t")
    error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "unknown")
    scripted.list_topics = lambda *_, **__: SimpleNamespace(topics={"t": SimpleNamespace(error=error)})
    with pytest.raises(UsageError, match=r"Topic 't' cannot be written at x:1 \(unknown\); check kafka.topic"):
        producer.check_topic("t")

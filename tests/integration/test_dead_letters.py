"""Dead letters that are larger than their topic takes: counting continues, and nothing of them is lost."""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.integration.test_bad_input import dead_letters
from tests.integration.test_state import tokentrace
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, span

GUARANTEES = ["exactly_once", "at_least_once"]
_random = random.Random(1)
#: Name -> (compression of the publisher, value): each fits a topic of 1 MiB compressed, and no other way.
LARGE = {
    "hex": ("gzip", b"junk" + _random.randbytes(850_000).hex().encode()),
    "zeros": ("zstd", b"junk" + bytes(3_000_000)),
    "text": ("gzip", b"junk" + b"the quick brown fox jumps over the lazy dog " * 95_000),
}


def publish(kafka: KafkaBroker, topic: str, *values: bytes, compression: str = "none", key: bytes = b"k") -> None:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "compression.type": compression, "message.max.bytes": 10_000_000}
    )
    for value in values:
        producer.produce(topic, value, key=key, headers=[("own", b"1")], partition=0)
    assert producer.flush(30) == 0


def total(worker: WorkerProcess, name: str) -> int:
    return int(sum(value for (found, _), value in worker.samples().items() if found == name))


def sections(kafka: KafkaBroker, topic: str, guarantee: str = "exactly_once") -> dict[str, Any]:
    return {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"replica_id": f"{topic}-0", "guarantee": guarantee},
    }


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_message_that_fits_only_compressed_becomes_a_reference_and_counting_continues(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], guarantee: str
) -> None:
    for name, (compression, value) in LARGE.items():
        publish(kafka, topic, message(span()))
        publish(kafka, topic, value, compression=compression, key=name.encode())
    publish(kafka, topic, message(span()), b"small junk")
    worker = start_worker(**sections(kafka, topic, guarantee))
    assert wait_for(lambda: total(worker, "tokentrace_spans_total") == 4), worker.messages()[-5:]

    *references, whole = dead_letters(kafka, f"{topic}.dead-letters")
    assert whole[1] == b"small junk"
    assert "tokentrace.truncated" not in whole[2]
    assert [key for key, _, _ in references] == [name.encode() for name in LARGE]
    for index, ((_, first, headers), (_, value)) in enumerate(zip(references, LARGE.values(), strict=True)):
        assert first == value[:1024]
        assert headers["own"] == b"1"
        assert headers["tokentrace.reason"] == b"unknown_framing"
        assert headers["tokentrace.topic"] == topic.encode()
        assert (headers["tokentrace.partition"], headers["tokentrace.offset"]) == (b"0", b"%d" % (2 * index + 1))
        assert headers["tokentrace.truncated"] == b"%d" % len(value)
        assert headers["tokentrace.sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert total(worker, "tokentrace_worker_truncated_dead_letters_total") == 3
    assert total(worker, "tokentrace_spans_rejected_total") == 4


def test_a_reference_is_listed_as_one_and_replayed_from_the_topic_of_its_message(
    kafka: KafkaBroker, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    topic = kafka.create_topic(f"spans-{uuid.uuid4().hex[:8]}", 1)
    for name, (compression, value) in LARGE.items():
        publish(kafka, topic, value, compression=compression, key=name.encode())
    worker = start_worker(**sections(kafka, topic))
    assert wait_for(lambda: total(worker, "tokentrace_worker_truncated_dead_letters_total") == 3)
    assert worker.terminate() == 0
    config = tmp_path / "worker0.yml"
    assert "truncated: a reference to a value of 3,000,004 bytes" in tokentrace(config, "dlq", "list")
    newest = json.loads(tokentrace(config, "dlq", "list", "--json").splitlines()[-1])
    value = LARGE["text"][1]
    assert newest["truncated"] == {"length": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    assert f"Sent 3 messages back to {topic}." in tokentrace(config, "dlq", "replay")
    replayed = dead_letters(kafka, topic)[3:]
    assert [(key, value) for key, value, _ in replayed] == [
        (name.encode(), value) for name, (_, value) in LARGE.items()
    ]
    assert all(headers["own"] == b"1" for _, _, headers in replayed)


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_dead_letter_topic_whose_limit_is_lowered_takes_references(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], guarantee: str
) -> None:
    worker = start_worker(**sections(kafka, topic, guarantee))
    lowered = ConfigResource(
        ResourceType.TOPIC,
        f"{topic}.dead-letters",
        incremental_configs=[ConfigEntry("max.message.bytes", "20000", incremental_operation=AlterConfigOpType.SET)],
    )
    admin = kafka.admin()
    for answer in admin.incremental_alter_configs([lowered]).values():
        answer.result()
    # Each is small enough, and together they are not: the limit is that of a batch.
    publish(kafka, topic, *(b"junk" + _random.randbytes(5_000) for _ in range(20)), b"junk" + _random.randbytes(50_000))
    publish(kafka, topic, message(span()))
    assert wait_for(lambda: total(worker, "tokentrace_spans_total") == 1), worker.messages()[-5:]
    letters = dead_letters(kafka, f"{topic}.dead-letters")
    assert [len(value or b"") for _, value, _ in letters][-1] == 1024
    assert len({headers["tokentrace.offset"] for _, _, headers in letters}) == len(letters) == 21

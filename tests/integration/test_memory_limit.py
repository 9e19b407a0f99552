"""Messages that are small in the topic and large in memory: the worker stays under its limit, and counts exactly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, span

MIB = 1 << 20
LIMIT = 512 * MIB
#: Of each kind: 880 kB of text that gzip packs into 3 kB.
MESSAGES = 400
TEXT = ("the prompt is quoted here in full, again and again. " * 17_000)[:880_000]


def total(worker: WorkerProcess, name: str) -> int:
    return int(sum(value for (found, _), value in worker.samples().items() if found == name))


def most_resident(worker: WorkerProcess) -> int:
    """Bytes of the largest resident memory so far."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.nightly
def test_a_worker_stays_under_its_memory_limit_with_messages_that_unpack_to_far_more(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": "gzip", "linger.ms": 0})
    values = [message(span(attributes={"prompt": TEXT})), json.dumps({"prompt": TEXT}).encode()]
    for number in range(MESSAGES):
        for value in values:
            producer.produce(topic, value, partition=number % 4)
        producer.flush(30)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"replica_id": f"{topic}-0", "memory_limit": LIMIT},
    }
    worker = start_worker(**sections)
    assert wait_for(
        lambda: (
            total(worker, "tokentrace_spans_total") + total(worker, "tokentrace_spans_rejected_total") == 2 * MESSAGES
        ),
        120.0,
    )
    assert total(worker, "tokentrace_spans_total") == MESSAGES
    assert most_resident(worker) < LIMIT, f"{most_resident(worker) / MIB:.0f} MiB"

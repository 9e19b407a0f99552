"""The broker that the benchmarks run against.

It is the real Kafka of the tests, with the memory of a production broker and topics filled with a workload.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer
from tests.services.kafka import KafkaBroker

PARTITIONS = 4
#: Values that clients are free to set; without compression, as is the producer's default.
_FAST = {"linger.ms": 20, "batch.size": 500_000, "queue.buffering.max.messages": 1_000_000}


@contextmanager
def running_broker() -> Iterator[KafkaBroker]:
    """A broker with nothing in it. Raises tests.services.Unavailable where there is no Java or no Kafka."""
    with tempfile.TemporaryDirectory(prefix="tokentrace-bench-") as folder:
        broker = KafkaBroker(Path(folder))
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


def fill(broker: KafkaBroker, topic: str, messages: list[bytes], count: int) -> None:
    """Create a topic and put `count` messages into it, the same ones over and over where there are fewer."""
    broker.create_topic(topic, PARTITIONS)
    producer = Producer({"bootstrap.servers": broker.bootstrap, **_FAST})
    for index in range(count):
        while True:
            try:
                producer.produce(topic, messages[index % len(messages)], partition=index // 500 % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.05)
        if index % 10_000 == 0:
            producer.poll(0)
    left = producer.flush(60.0)
    assert not left, f"{left} messages could not be produced"

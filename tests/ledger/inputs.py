"""Messages that are rejected, and a recount of an input topic that shares no code with the product."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tests.services.kafka import KafkaBroker
from tests.spanfactory import first_message, span

#: Value of a message -> the reason for which it is rejected.
REJECTED: Final = {
    None: "tombstone",
    b"": "empty",
    b"junk": "unknown_framing",
    first_message(span(prompt_tokens=-5)): "negative_tokens",
    first_message(span())[:-1]: "malformed",
}


def produce_rejected(kafka: KafkaBroker, topic: str, rng: random.Random, count: int, partitions: int = 4) -> None:
    """Publish some at random, at least one to each partition."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
    for index in range(count):
        partition = index if index < partitions else rng.randrange(partitions)
        producer.produce(topic, rng.choice(list(REJECTED)), partition=partition)
    assert producer.flush(30) == 0


def recount_inputs(kafka: KafkaBroker, topic: str, partitions: int = 4) -> dict[int, Any]:
    """Read the topic whole: partition -> its records, spans and rejects, as a proof has them."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "recount", "enable.partition.eof": True,
         "isolation.level": "read_committed", "enable.auto.commit": False}
    )  # fmt: skip
    found: dict[int, Any] = {}
    rejects: dict[int, Counter[str]] = {partition: Counter() for partition in range(partitions)}
    records: Counter[int] = Counter()
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    try:
        while len(found) < partitions:
            for message in consumer.consume(1000, 1.0):
                partition, error = message.partition(), message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    rejected = rejects[partition].total()
                    found[partition] = {
                        "records": records[partition], "counted": records[partition] - rejected, "rejected": rejected,
                        "rejects": dict(rejects[partition]), "offset": message.offset(),
                    }  # fmt: skip
                    continue
                records[partition] += 1
                if message.value() in REJECTED:
                    rejects[partition][REJECTED[message.value()]] += 1
        return found
    finally:
        consumer.close()


def inputs_of(proof: Mapping[str, Any]) -> dict[int, Any]:
    """Return what a proof says of the same."""
    names = ("records", "counted", "rejected", "rejects", "offset")
    return {one["partition"]: {name: one[name] for name in names} for one in proof["inputs"]}

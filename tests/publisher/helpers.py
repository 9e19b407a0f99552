"""Helpers of the publisher's tests: a topic read whole, and spans back from their bytes by plain fastavro."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import fastavro
from confluent_kafka import Consumer, TopicPartition

from tests.spanfactory import SPAN_SCHEMA, single_object_header

#: A copy, because fastavro marks what it has parsed.
_PARSED = fastavro.parse_schema(json.loads(json.dumps(SPAN_SCHEMA)))
_HEADER = single_object_header()


def decoded(value: bytes, header: bytes | None = None) -> dict[str, Any]:
    """The span of a message value, which begins with the header."""
    header = _HEADER if header is None else header
    assert value.startswith(header)
    stream = io.BytesIO(value[len(header) :])
    span: Any = fastavro.schemaless_reader(stream, _PARSED, None)
    assert stream.read() == b""
    return span


def values(bootstrap: str, topic: str, timeout_s: float = 30.0) -> list[bytes]:
    """Every value of a topic, read up to its end as it is now."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False,
         "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    )  # fmt: skip
    found: list[bytes] = []
    try:
        partitions = consumer.list_topics(topic, timeout=20.0).topics[topic].partitions
        ends = {}
        for number in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20.0)
            if high > low:
                ends[number] = high
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        ended = time.monotonic() + timeout_s
        while ends and time.monotonic() < ended:
            for message in consumer.consume(5000, 0.5):
                assert message.error() is None, message.error()
                found.append(message.value())
                if message.offset() + 1 >= ends.get(message.partition(), 0):
                    ends.pop(message.partition(), None)
        assert ends == {}, "the topic was not read to its end"
    finally:
        consumer.close()
    return found


def spans(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """Every span of a topic."""
    return [decoded(value) for value in values(bootstrap, topic)]

"""Produce: synthetic traffic into a topic at a steady pace."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tokentrace.errors import FatalError, UsageError
from tokentrace.tools.publish import span_message
from tokentrace.tools.traffic import Traffic

_TICK_S: Final = 0.05
_DELIVERY_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Produced:
    """What the broker acknowledged, and how long it took."""

    spans: int
    seconds: float


def produce(
    client_config: Mapping[str, Any],
    topic: str,
    rate: int,
    count: int | None,
    seed: int,
    stopping: Callable[[], bool],
) -> Produced:
    """Publish `count` spans, or until told to stop, `rate` a second (0: as fast as possible).

    Raises UsageError when there is no such topic or broker, FatalError when spans cannot be delivered.
    """
    config = {**client_config, "linger.ms": 20, "delivery.timeout.ms": int(_DELIVERY_TIMEOUT_S * 1000)}
    producer = Producer(config, logger=logging.getLogger("librdkafka"))
    _check_topic(producer, topic, str(client_config["bootstrap.servers"]))
    traffic = Traffic(seed)
    delivered = 0
    refusal: KafkaError | None = None

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        nonlocal delivered, refusal
        if error is None:
            delivered += 1
        else:
            refusal = error

    began_s = time.monotonic()
    sent = 0
    while not stopping() and refusal is None and (count is None or sent < count):
        due = sent + 1000 if rate == 0 else int((time.monotonic() - began_s) * rate) + 1
        for _ in range(sent, due if count is None else min(due, count)):
            value = span_message(traffic.span())
            while True:
                try:
                    producer.produce(topic, value=value, on_delivery=on_delivery)
                    break
                except BufferError:
                    producer.poll(0.1)
            sent += 1
        producer.poll(0 if rate == 0 else _TICK_S)
    producer.flush(_DELIVERY_TIMEOUT_S)
    if refusal is not None or delivered < sent:
        why = refusal.str() if refusal is not None else "the broker does not acknowledge them"
        raise FatalError(f"{sent - delivered:,} of {sent:,} spans could not be delivered to {topic}: {why}.")
    return Produced(delivered, time.monotonic() - began_s)


def _check_topic(producer: Producer, topic: str, servers: str) -> None:
    try:
        error = producer.list_topics(topic, timeout=10.0).topics[topic].error
    except KafkaException as failure:
        reason = failure.args[0].str()
        raise UsageError(
            f"No Kafka broker answers at {servers} ({reason}); check kafka.bootstrap_servers."
        ) from failure
    if error is not None:
        raise UsageError(f"Topic {topic!r} cannot be written at {servers} ({error.str()}); check kafka.topic.")

"""Produce: publishes synthetic traffic to a topic at a steady rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tokentrace.errors import FatalError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.producer import IdempotentProducer, Record
from tokentrace.model.span_encoder import span_message
from tokentrace.tools.traffic import Traffic

_TICK_S: Final = 0.05
_DELIVERY_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Produced:
    """The spans that the broker acknowledged, and how long that took."""

    spans: int
    seconds: float


def produce(
    clients: KafkaClients,
    topic: str,
    rate: int,
    count: int | None,
    seed: int,
    stopping: Callable[[], bool],
) -> Produced:
    """Publish `count` spans, or until `stopping`, `rate` a second (0: as fast as possible).

    Raises UsageError if there is no such topic or no broker answers, FatalError if spans cannot be delivered.
    """
    settings = {"linger.ms": 20, "delivery.timeout.ms": int(_DELIVERY_TIMEOUT_S * 1000)}
    producer = IdempotentProducer(clients, settings)
    producer.check_topic(topic)
    traffic = Traffic(seed)
    delivered = 0
    refusal: str | None = None

    def on_delivery(error: str | None) -> None:
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
            producer.produce(Record(topic, None, span_message(traffic.span())), on_delivery)
            sent += 1
        producer.poll(0 if rate == 0 else _TICK_S)
    producer.flush(_DELIVERY_TIMEOUT_S)
    if refusal is not None or delivered < sent:
        reason = refusal or "the broker does not acknowledge them"
        raise FatalError(f"{sent - delivered:,} of {sent:,} spans could not be delivered to {topic}: {reason}.")
    return Produced(delivered, time.monotonic() - began_s)

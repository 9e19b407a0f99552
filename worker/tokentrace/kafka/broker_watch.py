"""Broker watch: whether any broker answers a consumer, also where its topic is quiet.

The library reports that all brokers are down. It says nothing while a broker keeps its connections and answers nothing,
until the requests time out a minute later, and nothing when a broker is back: only a request tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaException

from tokentrace.kafka.clients import KafkaClients

log = logging.getLogger(__name__)

#: Pause between two looks for a broker, and how long one takes at most.
LOOK_S: Final = 5.0
LOOK_TIMEOUT_S: Final = 1.0
#: Time without any answer after which brokers count as unreachable.
SILENT_S: Final = 15.0


class BrokerWatch:
    """Follows the answers that one consumer gets. unreachable: why no broker can be reached, empty while one can."""

    def __init__(self, clients: KafkaClients, topic: str, monotonic: Callable[[], float]) -> None:
        self._clients = clients
        self._topic = topic
        self._monotonic = monotonic
        self._answered_s = monotonic()
        self._look_due_s = self._answered_s + LOOK_S
        self.unreachable = ""

    def on_answer(self) -> None:
        """Note that a broker has sent records."""
        self._answered_s = self._monotonic()
        self._look_due_s = self._answered_s + LOOK_S
        self.unreachable = ""
        self._clients.causes.clear()

    def on_all_down(self) -> str:
        """Note that the library reports it; return the sentence about it."""
        self.unreachable = self._clients.unreachable()
        self._look_due_s = 0.0
        return self.unreachable

    def look(self, consumer: Consumer) -> None:
        """Ask for a broker, where no record has come and a look is due."""
        now_s = self._monotonic()
        if now_s < self._look_due_s:
            return
        self._look_due_s = now_s + LOOK_S
        try:
            consumer.list_topics(self._topic, timeout=LOOK_TIMEOUT_S)
        except KafkaException:
            if not self.unreachable and now_s > self._answered_s + SILENT_S:
                self.unreachable = self._clients.unreachable()
                log.warning("%s None has for %.0f s.", self.unreachable, now_s - self._answered_s)
            return
        if self.unreachable:
            log.info("A Kafka broker answers again.")
        self.on_answer()

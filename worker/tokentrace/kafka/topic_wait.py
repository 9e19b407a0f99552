"""Waiting for the topic that a worker consumes: until a broker answers, and the topic exists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaException

from tokentrace.errors import UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import REFUSED, error_of
from tokentrace.model.backoff import Backoff

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S: Final = 5.0
#: First and longest pause between two requests.
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 15.0


def await_topic(consumer: Consumer, clients: KafkaClients, topic: str, show: Callable[[str], None]) -> int:
    """Return the topic's number of partitions once it exists, 0 if a stop is requested first.

    show: called with what is waited for, and with an empty text when that is over; it may raise. Raises UsageError if
    Kafka refuses access to the topic.
    """
    stop, backoff = clients.stop, Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while not stop.is_set():
        problem, partitions = _look(consumer, clients, topic)
        show(problem)
        if not problem:
            return partitions
        pause_s = backoff.next()
        log.warning("%s Trying again in %.0f s.", problem, pause_s)
        stop.wait(pause_s)
    return 0


def _look(consumer: Consumer, clients: KafkaClients, topic: str) -> tuple[str, int]:
    """Return what is wrong with the topic, empty if nothing is, and its number of partitions."""
    try:
        found = consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
    except KafkaException as failure:
        return clients.unreachable(error_of(failure)), 0
    clients.causes.clear()
    if found.error is None:
        return "", len(found.partitions)
    if found.error.code() in REFUSED:
        raise UsageError(f"Kafka refuses access to topic {topic!r}: {found.error.str()}.")
    return f"Topic {topic!r} does not exist at {clients.bootstrap_servers}; create it or correct kafka.topic.", 0

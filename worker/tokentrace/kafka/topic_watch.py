"""Topic watch: notices that topics were deleted, or recreated, under a running process.

A topic has an id of its own (KIP-516), so one that has taken another's name is told from it. Requests are answered in
the background: a look waits for no broker unless it is told to.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import TopicDescription  # type: ignore[attr-defined]

from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import error_of

#: Pause between two requests, and their time-out.
INTERVAL_S: Final = 2.0
TIMEOUT_S: Final = 10.0
#: Answers in a row without a topic before it is taken to be deleted: a broker that has just started may not know it.
MISSED: Final = 2


class Changes(NamedTuple):
    """Topics that do not exist, and topics that others have taken the name of, since the first look."""

    deleted: set[str]
    recreated: set[str]


class TopicWatch:
    """Watches topics, those that this client may describe. Used by one thread."""

    def __init__(
        self, clients: KafkaClients, topics: Iterable[str], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._admin = clients.admin()
        self._topics = list(topics)
        self._monotonic = monotonic
        self._due_s = 0.0
        self._answers: Mapping[str, Future[TopicDescription]] = {}
        self._ids: dict[str, str] = {}
        self._missed: Counter[str] = Counter()

    @property
    def in_doubt(self) -> bool:
        """Return whether a topic was missing in the last answer, and one more like it would mean that it is deleted."""
        return any(0 < missed < MISSED for missed in self._missed.values())

    def look(self, wait_s: float = 0.0) -> Changes | None:
        """Return what the last request has found, None before its answer. Asks again when it is time.

        wait_s: longest wait for the answer.
        """
        if not self._answers and self._monotonic() >= self._due_s:
            self._answers = self._admin.describe_topics(TopicCollection(self._topics), request_timeout=TIMEOUT_S)
        if not self._answers or wait(self._answers.values(), wait_s).not_done:
            return None
        answers, self._answers = self._answers, {}
        self._due_s = self._monotonic() + INTERVAL_S
        changes = Changes(set(), set())
        for topic, answer in answers.items():
            self._take(topic, answer, changes)
        return changes

    def _take(self, topic: str, answer: Future[TopicDescription], changes: Changes) -> None:
        try:
            found = str(answer.result().topic_id)
        except KafkaException as failure:
            if error_of(failure).code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._missed[topic] += 1
                if self._missed[topic] >= MISSED:
                    changes.deleted.add(topic)
            return
        del self._missed[topic]
        if self._ids.setdefault(topic, found) != found:
            self._ids[topic] = found
            changes.recreated.add(topic)

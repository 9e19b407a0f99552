"""The at-least-once commit: dead letters first, then the offsets. A crash in between repeats, and never loses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tokentrace.aggregate.dedup import NO_DEDUP_CHANGES, DedupChanges
from tokentrace.aggregate.delta import Changes, Delta
from tokentrace.commit import Outcome
from tokentrace.commit.dead_letters import headers_of
from tokentrace.errors import FatalError
from tokentrace.kafka.errors import FENCED, MEMBERSHIP_LOST
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.messages import DeadLetter
from tokentrace.state.totals import NOTHING_EXPIRED, Expiry, Totals

log = logging.getLogger(__name__)

#: How long one commit may wait for the dead letters' delivery before the loop goes on and tries again.
FLUSH_TIMEOUT_S: Final = 10.0

#: A message that was consumed must fit into a dead letter, whatever the brokers' limits are; they have the last word.
MAX_MESSAGE_BYTES: Final = 1_000_000_000


class AtLeastOnce:
    """Commits a delta in two steps, each of which may be repeated.

    1. Dead letters are produced and their delivery awaited (idempotent producer, acks from all replicas); each
       leaves the delta when it is delivered.
    2. The consumed offsets are committed for the group.
    """

    #: Nothing is known from before this process.
    counted_up_to: Mapping[int, int] = MappingProxyType({})

    def __init__(self, source: KafkaSource, producer_config: dict[str, Any], dead_letter_topic: str) -> None:
        self._source = source
        self._topic = dead_letter_topic
        self._refusal = ""
        config = {**producer_config, "enable.idempotence": True, "linger.ms": 5, "message.max.bytes": MAX_MESSAGE_BYTES}
        self._producer = Producer(config, logger=logging.getLogger("librdkafka"))

    def start(self) -> Totals | None:
        """Nothing to prepare: totals are in memory, the group's offsets are the only durable state."""
        return None

    def seen(self, partitions: Sequence[int]) -> None:
        """It is in memory, as the totals are."""

    def commit(
        self,
        delta: Delta,
        totals: Totals,
        changes: Changes,
        memory: DedupChanges = NO_DEDUP_CHANGES,
        ended: Expiry = NOTHING_EXPIRED,
    ) -> Outcome:
        if not delta:
            return Outcome.COMMITTED  # Expiry alone, of totals that are in memory.
        if delta.dead_letters and not self._deliver(delta):
            return Outcome.RETRY
        try:
            self._source.commit(delta.positions)
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() in MEMBERSHIP_LOST:
                log.warning("The group went on without this worker (%s); counting from its offsets.", error.str())
                return Outcome.DROPPED
            if error.fatal() or error.code() in FENCED:
                raise FatalError(
                    f"Kafka no longer accepts this worker's commits ({error.str()}); is its worker.replica_id unique?"
                ) from failure
            log.warning("The offsets could not be committed (%s); trying again.", error.str())
            return Outcome.RETRY
        return Outcome.COMMITTED

    def _deliver(self, delta: Delta) -> bool:
        """Produce the delta's dead letters; true when every one was delivered and has left the delta."""
        undelivered = dict(enumerate(delta.dead_letters))
        for index, letter in tuple(undelivered.items()):
            self._produce(letter, partial(self._on_delivery, undelivered, index))
        try:
            self._producer.flush(FLUSH_TIMEOUT_S)
        except KafkaException as failure:
            raise FatalError(f"Kafka no longer accepts dead letters ({failure.args[0].str()}).") from failure
        if undelivered:
            # What is still queued would otherwise arrive beside the next try's copy.
            self._producer.purge()
            self._producer.flush(1.0)
            reason = self._refusal or "no answer from the broker"
            log.warning("Dead letters could not be written to %s (%s); trying again.", self._topic, reason)
        delta.dead_letters = list(undelivered.values())
        return not undelivered

    def _on_delivery(
        self, undelivered: dict[int, DeadLetter], index: int, error: KafkaError | None, _: Message
    ) -> None:
        if error is None:
            undelivered.pop(index, None)
        else:
            self._refusal = error.str()

    def _produce(self, letter: DeadLetter, on_delivery: Callable[[KafkaError | None, Message], None]) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    key=letter.envelope.key,
                    value=letter.envelope.value,
                    headers=headers_of(letter),
                    on_delivery=on_delivery,
                )
                return
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as failure:
                self._refusal = failure.args[0].str()
                return

    def close(self) -> None:
        # It raises for a producer that is refused for good, which was told already.
        with suppress(KafkaException):
            self._producer.flush(FLUSH_TIMEOUT_S)

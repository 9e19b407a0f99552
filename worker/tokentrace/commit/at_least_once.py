"""The at-least-once commit: dead letters first, then the offsets. A crash in between repeats, and never loses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tokentrace.aggregate.dedup import DedupChunk
from tokentrace.commit import Outcome
from tokentrace.commit.dead_letters import headers_of
from tokentrace.errors import FatalError
from tokentrace.kafka.errors import FENCED, MEMBERSHIP_LOST
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.messages import DeadLetter
from tokentrace.state.proposal import Proposal
from tokentrace.state.totals import Totals

log = logging.getLogger(__name__)

#: How long one commit may wait for the dead letters' delivery before the loop goes on and tries again.
FLUSH_TIMEOUT_S: Final = 10.0

#: A message that was consumed must fit into a dead letter, whatever the brokers' limits are; they have the last word.
MAX_MESSAGE_BYTES: Final = 1_000_000_000


class AtLeastOnce:
    """Commits a proposal in two steps, each of which may be repeated.

    1. Produce the dead letters and await their delivery (idempotent producer, acks from all replicas).
    2. Commit the consumed offsets for the group.

    Dead letters that were delivered by a commit that then failed are remembered until one succeeds, and are not
    produced again.
    """

    #: Nothing is known from before this process.
    counted_up_to: Mapping[int, int] = MappingProxyType({})

    def __init__(self, source: KafkaSource, producer_config: dict[str, Any], dead_letter_topic: str) -> None:
        self._source = source
        self._topic = dead_letter_topic
        self._refusal = ""
        #: (topic, partition, offset) of the messages whose dead letters were delivered since the last commit.
        self._delivered: set[tuple[str, int, int]] = set()
        config = {**producer_config, "enable.idempotence": True, "linger.ms": 5, "message.max.bytes": MAX_MESSAGE_BYTES}
        self._producer = Producer(config, logger=logging.getLogger("librdkafka"))

    def start(self) -> Totals | None:
        """Nothing to prepare: totals are in memory, the group's offsets are the only durable state."""
        return None

    def dedup_chunks(self, partitions: Sequence[int]) -> Mapping[int, Sequence[DedupChunk]]:
        """Nothing to restore: at-least-once keeps the deduplication state in memory only."""
        return {}

    def commit(self, proposal: Proposal) -> Outcome:
        if not proposal.positions:
            return Outcome.COMMITTED  # Expiry alone, of totals that are in memory.
        if not self._deliver(proposal.dead_letters):
            return Outcome.RETRY
        try:
            self._source.commit(proposal.positions)
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
        self._delivered.clear()
        return Outcome.COMMITTED

    def _deliver(self, letters: Sequence[DeadLetter]) -> bool:
        """Produce the dead letters that are not delivered yet; true when all of them are then."""
        letters = [letter for letter in letters if _origin(letter) not in self._delivered]
        if not letters:
            return True
        for letter in letters:
            self._produce(letter, partial(self._on_delivery, letter))
        try:
            self._producer.flush(FLUSH_TIMEOUT_S)
        except KafkaException as failure:
            raise FatalError(f"Kafka no longer accepts dead letters ({failure.args[0].str()}).") from failure
        delivered = all(_origin(letter) in self._delivered for letter in letters)
        if not delivered:
            # What is still queued would otherwise arrive beside the next try's copy.
            self._producer.purge()
            self._producer.flush(1.0)
            reason = self._refusal or "no answer from the broker"
            log.warning("Dead letters could not be written to %s (%s); trying again.", self._topic, reason)
        return delivered

    def _on_delivery(self, letter: DeadLetter, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self._delivered.add(_origin(letter))
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


def _origin(letter: DeadLetter) -> tuple[str, int, int]:
    envelope = letter.envelope
    return envelope.topic, envelope.partition, envelope.offset

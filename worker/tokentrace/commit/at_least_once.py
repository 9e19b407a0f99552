"""The at-least-once commit: dead letters first, then the offsets. A crash in between repeats, and never loses."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from tokentrace.aggregate.dedup import DedupChunk
from tokentrace.commit import Outcome, StateTopic
from tokentrace.commit.dead_letters import DeadLetterTopic
from tokentrace.errors import ClientFailed, FatalError, MemberFailed
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.producer import IdempotentProducer, paced
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.messages import DeadLetter
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.proposal import Proposal
from tokentrace.state.totals import Totals

log = logging.getLogger(__name__)

#: Time that one commit waits for the delivery of dead letters before the loop continues and retries it.
FLUSH_TIMEOUT_S: Final = 10.0
#: A worker that is fenced so often within this time ends. Two processes with one id fence each other every few seconds
#: (a heartbeat apart); an outage fences a worker once or twice.
FENCES: Final = 5
FENCES_WITHIN_S: Final = 120.0


class AtLeastOnce:
    """Commits a proposal in two steps, each of which may be repeated.

    1. Produce the dead letters and await their delivery (idempotent producer, acks from all replicas).
    2. Commit the consumed offsets for the group.

    Dead letters that were delivered by a commit that then failed are remembered until one succeeds, and are not
    produced again. Totals are in memory alone: they outlive the Kafka clients, and not the process.
    """

    def __init__(
        self, *, clients: KafkaClients, source: KafkaSource, dead_letters: DeadLetterTopic, replica: str
    ) -> None:
        """replica: worker.replica_id, for the message of an error."""
        self.in_doubt = False
        self._clients = clients
        self._source = source
        self._dead_letters = dead_letters
        self._replica = replica
        #: Failure of the last recovery, and when this member was fenced lately.
        self._failure: ClientFailed | None = None
        self._fenced_s: deque[float] = deque(maxlen=FENCES)
        self._error = ""
        #: (topic, partition, offset) of the messages whose dead letters were delivered since the last commit.
        self._delivered: set[tuple[str, int, int]] = set()
        self._producer = self._make_producer()

    def _make_producer(self) -> IdempotentProducer:
        return IdempotentProducer(self._clients, {"linger.ms": 5})

    @property
    def state_topic(self) -> StateTopic | None:
        """Nothing but the offsets is durable."""
        return None

    def start(self) -> Totals | None:
        """Nothing to prepare: totals are in memory, the group's offsets are the only durable state."""
        return None

    def recover(self, failure: ClientFailed) -> Totals | None:
        """Go on with the totals in memory. Nothing durable tells whether another process has this replica id.

        Raises FatalError for a member that is fenced again and again.
        """
        if failure is not self._failure:
            self._failure = failure
            if isinstance(failure, MemberFailed):
                self._on_fenced(self._clients.stop.clock(), failure)
        self._producer = self._make_producer()
        return None

    def _on_fenced(self, now_s: float, failure: MemberFailed) -> None:
        self._fenced_s.append(now_s)
        if len(self._fenced_s) == FENCES and now_s - self._fenced_s[0] <= FENCES_WITHIN_S:
            raise FatalError(
                f"Kafka has fenced this worker again and again, {FENCES} times within {FENCES_WITHIN_S:.0f} s; a "
                f"process with the same worker.replica_id {self._replica!r} may run. Look for one, and give every "
                "worker its own worker.replica_id."
            ) from failure

    def counted_up_to(self) -> Mapping[int, LogPosition]:
        """Nothing is known from before this process."""
        return {}

    def dedup_chunks(self, partitions: Sequence[int]) -> Mapping[int, Sequence[DedupChunk]]:
        """Nothing to restore: at-least-once keeps the deduplication state in memory only."""
        return {}

    def commit(self, proposal: Proposal) -> Outcome:
        if not proposal.positions:
            return Outcome.COMMITTED  # Only totals change, which are in memory.
        if not self._deliver(proposal.dead_letters):
            return Outcome.RETRY
        outcome = self._source.commit(proposal.positions)
        if outcome is Outcome.COMMITTED:
            self._delivered.clear()
            self.in_doubt = False
        else:
            self.in_doubt |= self._source.commit_in_doubt
        return outcome

    def _deliver(self, letters: Sequence[DeadLetter]) -> bool:
        """Produce the dead letters that are not delivered yet. Return whether all of them are then."""
        letters = [letter for letter in letters if letter.envelope.origin not in self._delivered]
        if not letters:
            return True
        self._producer.too_large = False
        flush = partial(self._producer.flush, FLUSH_TIMEOUT_S)
        records = self._dead_letters.records(letters)
        for letter, record in zip(letters, paced(records, self._dead_letters.batch_bytes, flush), strict=True):
            self._producer.produce(record, partial(self._on_delivery, letter))
        flush()
        written = [letter for letter in letters if letter.envelope.origin in self._delivered]
        self._dead_letters.on_written(written)
        delivered = len(written) == len(letters)
        if not delivered:
            # What is still queued would otherwise arrive beside the next attempt's copy.
            self._producer.purge()
            reason = self._error or "no answer from the broker"
            log.warning("Dead letters could not be written to %s (%s); retrying.", self._dead_letters.name, reason)
            if self._producer.too_large:
                self._dead_letters.on_too_large()
        return delivered

    def _on_delivery(self, letter: DeadLetter, error: str | None) -> None:
        if error is None:
            self._delivered.add(letter.envelope.origin)
        else:
            self._error = error

    def close(self) -> None:
        self._producer.close(FLUSH_TIMEOUT_S)

"""The exactly-once commit: totals, increments, dead letters and offsets in one Kafka transaction.

What a crash leaves behind is either all of a commit or nothing of it: the group's offsets and this replica's totals
can never disagree. The transactional id is the replica id, so a second process of the same name fences the first.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from numpy.typing import NDArray

from tokentrace.aggregate.dedup import DedupChanges, DedupChunk
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.commit import Outcome
from tokentrace.commit.dead_letters import headers_of
from tokentrace.errors import FatalError
from tokentrace.kafka.errors import FENCED, MEMBERSHIP_LOST, UNAUTHORIZED
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.measures import Layout
from tokentrace.model.messages import DeadLetter
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec, StateReader, cell_key, folded_key, replica_key
from tokentrace.state.dedup_records import DedupReader, dedup_key, encode_dedup_chunk
from tokentrace.state.proposal import Proposal
from tokentrace.state.records import Progress, replica_headers
from tokentrace.state.restore import partition_of
from tokentrace.state.schemas import schema_headers
from tokentrace.state.totals import Expiry, Totals

log = logging.getLogger(__name__)

#: While a transaction is open, nobody in the group can read its offsets, so it must end soon if its owner dies.
TRANSACTION_TIMEOUT_S: Final = 10.0
#: How long one step may wait for the brokers before it is tried again, or the commit is.
STEP_TIMEOUT_S: Final = 10.0
MAX_MESSAGE_BYTES: Final = 1_000_000_000
#: The library's word for "the partitioner chooses".
ANY_PARTITION: Final = -1

#: The producer's identity was taken over, whatever the error's flags say.
_PRODUCER_FENCED: Final = FENCED | {KafkaError.INVALID_PRODUCER_EPOCH}


def discard(producer: Producer) -> None:
    """End a transactional producer between its transactions; what may be queued is dropped."""
    producer.purge()
    # It raises for a producer that is fenced or refused, which was told already.
    with suppress(KafkaException):
        producer.flush(1.0)


class Watchdog:
    """Ends the process when a call that has a time-out of its own does not come back.

    librdkafka can lose such a call for good. A worker that hangs holds its partitions; one that ends is started again
    and goes on from what is committed.
    """

    def __init__(self, what: str, patience_s: float = 4 * STEP_TIMEOUT_S) -> None:
        self._what = what
        self._timer = threading.Timer(patience_s, self._bark)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _bark(self) -> None:
        log.critical("The Kafka library does not return from %s; ending, to go on after a restart.", self._what)
        logging.shutdown()
        os._exit(1)


@dataclass(frozen=True, slots=True)
class ExactlyOnceSettings:
    """client_config: properties of librdkafka with bootstrap.servers. source_topic: what the worker consumes.

    ids_topic: where the memory of spans is kept, empty where there is none.
    """

    client_config: Mapping[str, Any]
    group_id: str
    replica: str
    source_topic: str
    dead_letter_topic: str
    state_topic: str
    rollups_topic: str
    ids_topic: str = ""


class ExactlyOnce:
    """Commits a proposal in one transaction.

    1. Begin a transaction. None is open between commits: it would hold up everyone who reads committed data.
    2. Produce the new totals of the cells that changed, and the replica's own record, to the state topic; remove
       what expired from it.
    3. Produce the increments to the rollups topic, the dead letters to theirs, and what was seen to its own.
    4. Send the consumed offsets to the transaction.
    5. Commit it.

    A step that fails aborts the transaction: the delta is kept and committed again, or dropped where the group has
    given its partitions to another member.
    """

    def __init__(self, settings: ExactlyOnceSettings, source: KafkaSource, groups: GroupIndex, layout: Layout) -> None:
        self._settings = settings
        self._source = source
        self._groups = groups
        self._layout = layout
        self._codec = StateCodec(layout)
        self._ids = None
        if settings.ids_topic:
            self._ids = DedupReader(settings.client_config, settings.ids_topic, settings.group_id)
        self._state_partition = 0
        #: Input partition -> offset below which spans are counted already, by whatever the state topic told.
        self.counted_up_to: Mapping[int, int] = {}
        config = {
            **settings.client_config,
            "transactional.id": settings.replica,
            "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
            "linger.ms": 5,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "compression.type": "lz4",
            # Rebootstrapping forgets the brokers that it knew, and librdkafka's call that sends the offsets then waits
            # for good for one of them (its issue 5511; see docs/decisions).
            "metadata.recovery.strategy": "none",
        }
        self._producer = Producer(config, logger=logging.getLogger("librdkafka"))

    def start(self) -> Totals | None:
        """Fence any predecessor, finish its transaction, and read what this replica has committed."""
        self._insist("init_transactions", lambda: self._producer.init_transactions(STEP_TIMEOUT_S))
        settings = self._settings
        reader = StateReader(settings.client_config, settings.state_topic, settings.group_id)
        self._state_partition = partition_of(settings.replica, reader.partitions())
        totals, self.counted_up_to = reader.restore(settings.replica, self._layout, self._groups, settings.source_topic)
        return totals

    def dedup_chunks(self, partitions: Sequence[int]) -> Mapping[int, Sequence[DedupChunk]]:
        if self._ids is None:
            return {}
        return self._ids.read(self._settings.source_topic, partitions)

    def commit(self, proposal: Proposal) -> Outcome:
        try:
            self._producer.begin_transaction()  # 1
            self._produce_state(proposal.totals, proposal.changes.cells)  # 2
            self._produce_expiry(proposal.expiry)
            self._produce_rollups(proposal)  # 3
            self._produce_dead_letters(proposal.dead_letters)
            self._produce_dedup(proposal.dedup)
            self._send_offsets(proposal.positions)  # 4
            self._commit_transaction()  # 5
        except KafkaException as failure:
            return self._give_up(failure.args[0])
        return Outcome.COMMITTED

    def close(self) -> None:
        """Nothing is open between commits."""
        discard(self._producer)

    # -- the steps ---------------------------------------------------------------------------------------------------

    def _produce_state(self, totals: Totals, cells: NDArray[np.int64]) -> None:
        topic, replica = self._settings.state_topic, self._settings.replica
        values = self._codec.cells(totals.values[cells], totals.created_s[cells])
        for (group, status), value in zip(self._cells(cells), values, strict=True):
            self._produce(topic, cell_key(replica, group, status), value, self._state_partition)
        own = self._codec.replica(replica, self._settings.source_topic, totals)
        self._produce(topic, replica_key(replica), own, self._state_partition, replica_headers(own))

    def _produce_expiry(self, expiry: Expiry) -> None:
        topic, replica = self._settings.state_topic, self._settings.replica
        for group, status in self._cells(expiry.expired_cells):
            self._produce(topic, cell_key(replica, group, status), None, self._state_partition)
        for key in expiry.upserts:
            value = self._codec.folded(expiry.expired[key])
            self._produce(topic, folded_key(replica, key), value, self._state_partition)
        for key in expiry.tombstones:
            self._produce(topic, folded_key(replica, key), None, self._state_partition)

    def _produce_rollups(self, proposal: Proposal) -> None:
        rows, committed_at_s = proposal.by_minute, proposal.totals.committed_at_s
        key = replica_key(self._settings.replica)
        progress = Progress(self._source.topic_partitions, proposal.event_times_us, proposal.clamped)
        for value in self._codec.rollups(
            self._settings.replica, committed_at_s, rows.minutes, self._cells(rows.cells), rows.values, progress
        ):
            self._produce(self._settings.rollups_topic, key, value, 0, schema_headers(value))

    def _produce_dedup(self, changes: DedupChanges) -> None:
        if self._ids is None:
            return
        topic, source = self._settings.ids_topic, self._settings.source_topic
        for chunk in changes.kept:
            value = encode_dedup_chunk(chunk)
            partition = self._ids.partition(chunk.partition)
            self._produce(topic, dedup_key(source, chunk), value, partition, schema_headers(value))
        for chunk in changes.evicted:
            self._produce(topic, dedup_key(source, chunk), None, self._ids.partition(chunk.partition))

    def _produce_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._produce(
                self._settings.dead_letter_topic,
                letter.envelope.key,
                letter.envelope.value,
                ANY_PARTITION,
                headers_of(letter),
            )

    def _send_offsets(self, positions: Mapping[int, int]) -> None:
        if not positions:
            return  # Expiry alone.
        offsets = [
            TopicPartition(self._settings.source_topic, partition, offset) for partition, offset in positions.items()
        ]
        with Watchdog("send_offsets_to_transaction"):
            self._producer.send_offsets_to_transaction(offsets, self._source.group_metadata(), STEP_TIMEOUT_S)

    def _commit_transaction(self) -> None:
        """Until it is known what became of it: giving up in between could lose or repeat a commit."""
        self._insist("commit_transaction", lambda: self._producer.commit_transaction(STEP_TIMEOUT_S))

    def _cells(self, cells: NDArray[np.int64]) -> list[tuple[Group, int]]:
        groups = self._groups.groups
        return [
            (groups[group], status)
            for group, status in zip(
                self._groups.cell_group[cells].tolist(), self._groups.cell_status[cells].tolist(), strict=True
            )
        ]

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int,
        headers: Sequence[tuple[str, str | bytes | None]] = (),
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, partition=partition, headers=list(headers))
                return
            except BufferError:
                self._producer.poll(0.1)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _insist(self, what: str, step: Any) -> None:
        """Run a step again while the brokers only ask for patience."""
        told_at_s = time.monotonic()
        while True:
            try:
                step()
                return
            except KafkaException as failure:
                error = failure.args[0]
                self._raise_if_over(error)
                if error.txn_requires_abort() or not error.retriable():
                    raise
                if time.monotonic() >= told_at_s + 5.0:
                    told_at_s = time.monotonic()
                    log.warning("Kafka does not finish %s (%s); trying again.", what, error.str())

    def _give_up(self, error: KafkaError) -> Outcome:
        """Abort, and say what has to become of the delta."""
        self._raise_if_over(error)
        lost = error.code() in MEMBERSHIP_LOST
        try:
            self._insist("abort_transaction", lambda: self._producer.abort_transaction(STEP_TIMEOUT_S))
        except KafkaException as failure:
            raise FatalError(
                f"A transaction could be neither committed ({error.str()}) nor aborted "
                f"({failure.args[0].str()}); nothing of it is shown, and a restart goes on from what is committed."
            ) from failure
        if lost:
            log.warning("The group went on without this worker (%s); counting from its offsets.", error.str())
            return Outcome.DROPPED
        log.warning("The commit was aborted (%s); committing again.", error.str())
        return Outcome.RETRY

    def _raise_if_over(self, error: KafkaError) -> None:
        """Raises FatalError where no transaction of this worker is going to be accepted any more."""
        settings = self._settings
        if error.code() in UNAUTHORIZED:
            topics = [settings.state_topic, settings.rollups_topic, settings.dead_letter_topic, settings.ids_topic]
            raise FatalError(
                f"Kafka does not let this worker commit ({error.str()}). It has to be allowed to write to the topics "
                f"{', '.join(filter(None, topics))} with the transactional id {settings.replica!r}, and to read with "
                f"the group {settings.group_id!r}."
            )
        if error.fatal() or error.code() in _PRODUCER_FENCED:
            raise FatalError(
                f"Kafka no longer accepts this worker's transactions ({error.str()}). Another worker with the replica "
                f"id {settings.replica!r} may have started: give every worker its own worker.replica_id."
            )

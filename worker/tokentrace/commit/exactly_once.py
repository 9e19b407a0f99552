"""The exactly-once commit: totals, increments, dead letters and offsets in one Kafka transaction.

A crash leaves either all of a commit or nothing of it, so the group's offsets and this replica's totals can never
disagree. The transactional id is the replica's in its group, so a second process of the same name fences the first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.dedup import DedupChanges, DedupChunk
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.commit import Outcome, StateTopic
from tokentrace.commit.dead_letters import DeadLetterTopic
from tokentrace.errors import ClientFailed, ReplicaIdTaken
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.producer import Record, partition_of
from tokentrace.kafka.source import KafkaSource
from tokentrace.kafka.transaction import Identity, Offsets, TransactionalProducer
from tokentrace.kafka.waiting import Wait
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group, LabelSet
from tokentrace.state import StateCodec, StateReader, cell_key, expired_key, replica_key
from tokentrace.state.appearance import appeared_headers, shown_header
from tokentrace.state.checksums import checksum_header, record_headers
from tokentrace.state.claim import Process
from tokentrace.state.dedup_records import DedupReader, dedup_key, encode_dedup_chunk
from tokentrace.state.gaps import gap_headers
from tokentrace.state.identity import fence_first_release, transactional_id
from tokentrace.state.inputs import input_headers
from tokentrace.state.label_sets import label_sets_header, revised
from tokentrace.state.log_generations import LogPosition, encode_generations
from tokentrace.state.offset_mark import mark_of
from tokentrace.state.proposal import Proposal
from tokentrace.state.records import Progress, replica_headers
from tokentrace.state.span_audit import span_audit_headers
from tokentrace.state.tally import Tally
from tokentrace.state.totals import NOTHING_EXPIRED, Expiry, Totals

#: Time for which a worker that is fenced at its start waits for the record of the process that fenced it.
RIVAL_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactlyOnceSettings:
    """source_topic: what the worker consumes. ids_topic: where deduplication keeps its state, empty without it.

    labels: family without `tokentrace_` -> the labels that it is exposed with.
    """

    group_id: str
    replica: str
    source_topic: str
    dead_letter_topic: str
    state_topic: str
    rollups_topic: str
    ids_topic: str = ""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def identity(self) -> Identity:
        """The committer: a second process of the same replica id has the same transactional id and fences the first."""
        name = transactional_id(self.group_id, self.replica)
        topics = [self.state_topic, self.rollups_topic, self.dead_letter_topic, self.ids_topic]
        rights = (
            f"to write to the topics {', '.join(filter(None, topics))} with the transactional id {name!r}, and "
            f"to read with the group {self.group_id!r}"
        )
        return Identity(transactional_id=name, replica=self.replica, rights=rights)


class ExactlyOnce:
    """Commits a proposal in one transaction.

    The transaction holds

    1. the new totals of the cells that changed, the replica's own record, and the tombstones of what expired, in the
       state topic,
    2. the increments in the rollups topic, the dead letters in theirs, and the chunks of span ids in theirs,
    3. the consumed offsets.

    `kafka.transaction` has the steps of a transaction and what their errors mean.
    """

    def __init__(
        self,
        settings: ExactlyOnceSettings,
        *,
        clients: KafkaClients,
        source: KafkaSource,
        dead_letters: DeadLetterTopic,
        groups: GroupIndex,
        layout: Layout,
    ) -> None:
        self.in_doubt = False
        self._settings = settings
        self._dead_letters = dead_letters
        self._clients = clients
        self._source = source
        self._groups = groups
        self._layout = layout
        self._codec = StateCodec(layout)
        self._ids = DedupReader(clients, settings.ids_topic, settings.group_id) if settings.ids_topic else None
        self._process = Process.this(time.time())
        self._state_partition = 0
        self._label_sets: Mapping[str, LabelSet] = {}
        self._reader = StateReader(clients, settings.state_topic, settings.group_id)
        self._counted = self._reader.counted_positions(settings.source_topic)
        self._transactions = TransactionalProducer(clients, settings.identity())
        self._topic: StateTopic | None = None

    @property
    def state_topic(self) -> StateTopic | None:
        return self._topic

    def start(self) -> Totals | None:
        """Fence any predecessor, finish its transaction, read what this replica has committed, and claim its id.

        Raises ReplicaIdTaken when a process that was fenced works on, and has claimed the id again.
        """
        totals = self._begin()
        try:
            self._claim(totals)
        except ClientFailed as failure:
            # A look reads a partition of the state: not ten times a second.
            wait = Wait(self._clients.stop, RIVAL_S, pause_s=1.0)
            replica = self._settings.replica
            while (rival := self._reader.written_since(replica)) in (None, self._process):
                if not wait.pause("Kafka no longer accepts this worker; looking for a process with its replica id"):
                    raise
            raise _taken(replica, rival) from failure
        return totals

    def _begin(self) -> Totals | None:
        self._transactions.start()
        self._groups.clear()
        settings = self._settings
        self._state_partition = partition_of(settings.replica, self._reader.partitions())
        self._topic = StateTopic(settings.state_topic, self._reader.topic_id())
        totals = self._restore()
        if totals is not None and self._reader.restored_from is None:
            # Its writer has another transactional id, and may have committed until it was fenced.
            fence_first_release(self._clients, settings.replica)
            self._groups.clear()
            totals = self._restore()
        # To the microsecond, as the durable state keeps it.
        now_s = self._process.started_at / 1e6
        self._label_sets = revised({} if totals is None else totals.label_sets, settings.labels, now_s)
        # Before the group is joined: the first look is the long one.
        self._counted.refresh()
        return None if totals is None else replace(totals, label_sets=self._label_sets)

    def _restore(self) -> Totals | None:
        settings = self._settings
        return self._reader.restore(settings.replica, self._layout, self._groups, settings.source_topic)

    def recover(self, failure: ClientFailed) -> Totals:
        replica = self._settings.replica
        process = self._reader.written_by(replica)
        if process != self._process:
            raise _taken(replica, process) from failure
        totals = self._begin()
        assert totals is not None, "the claim is part of them"
        self._claim(totals)
        return totals

    def _claim(self, totals: Totals | None) -> None:
        """Write the replica's own record with this process as its writer."""
        if totals is None:
            totals = replace(Totals.empty(self._layout), committed_at_s=self._process.started_at / 1e6)
        if self._transactions.commit([self._replica_record(totals)]) is not Outcome.COMMITTED:
            raise ClientFailed(f"The state of replica {self._settings.replica!r} cannot be written.")

    def counted_up_to(self) -> Mapping[int, LogPosition]:
        return self._counted.refresh()

    def dedup_chunks(self, partitions: Sequence[int]) -> Mapping[int, Sequence[DedupChunk]]:
        if self._ids is None:
            return {}
        return self._ids.read(self._settings.source_topic, partitions)

    def commit(self, proposal: Proposal) -> Outcome:
        # A commit of nothing but expiry, or of what is shown, has no offsets.
        offsets = None
        if proposal.positions:
            positions, source = proposal.positions, self._source
            topic = self._settings.source_topic
            mark = mark_of(self._topic.id) if self._topic is not None else ""
            offsets = Offsets(topic, positions, source.group_metadata, source.epochs(positions), mark)
        outcome = self._transactions.commit(self._records(proposal), offsets, self._dead_letters.batch_bytes)
        if outcome is Outcome.COMMITTED:
            self._dead_letters.on_written(proposal.dead_letters)
        elif self._transactions.too_large:
            self._dead_letters.on_too_large()
        return outcome

    def close(self) -> None:
        """Nothing is open between commits."""
        self._transactions.close()

    # -- records -----------------------------------------------------------------------------------------------------

    def _records(self, proposal: Proposal) -> Iterator[Record]:
        yield from self._state_records(proposal.totals, proposal.changes.cells, proposal.expiry)
        yield from self._expiry_records(proposal.expiry)
        yield from self._rollup_records(proposal)
        yield from self._dead_letters.records(proposal.dead_letters)
        yield from self._dedup_records(proposal.dedup)

    def _state_records(self, totals: Totals, cells: NDArray[np.int64], expiry: Expiry) -> Iterator[Record]:
        topic, replica = self._settings.state_topic, self._settings.replica
        values = self._codec.cells(totals.values[cells], totals.created_s[cells], totals.carried_by(cells))
        appeared = totals.appeared
        for cell, (group, status), value in zip(cells.tolist(), self._cells(cells), values, strict=True):
            key = cell_key(replica, group, status)
            headers = [checksum_header(key, value), *appeared_headers(appeared.get(cell, {}))]
            yield Record(topic, key, value, self._state_partition, headers)
        yield self._replica_record(totals, expiry)

    def _replica_record(self, totals: Totals, expiry: Expiry = NOTHING_EXPIRED) -> Record:
        settings = self._settings
        key = replica_key(settings.replica)
        value = self._codec.replica(settings.replica, settings.source_topic, totals, self._groups.dimension_names)
        headers = [
            *replica_headers(value, totals.has_wide_sums, self._codec.is_plain(totals)),
            checksum_header(key, value),
            self._process.header(),
        ]
        headers += [Tally.of(totals, expiry).header(), *encode_generations(settings.source_topic, totals.generations)]
        headers += [shown_header(totals.shown_until_s), label_sets_header(self._label_sets)]
        headers += gap_headers(settings.source_topic, totals.gaps)
        headers += span_audit_headers(settings.source_topic, totals.partitions)
        headers += input_headers(settings.source_topic, totals.inputs)
        return Record(settings.state_topic, key, value, self._state_partition, headers)

    def _expiry_records(self, expiry: Expiry) -> Iterator[Record]:
        topic, replica = self._settings.state_topic, self._settings.replica
        for group, status in self._cells(expiry.expired_cells):
            yield Record(topic, cell_key(replica, group, status), None, self._state_partition)
        for labels in expiry.upserts:
            key, value = expired_key(replica, labels), self._codec.expired(expiry.expired[labels])
            yield Record(topic, key, value, self._state_partition, [checksum_header(key, value)])
        for labels in expiry.tombstones:
            yield Record(topic, expired_key(replica, labels), None, self._state_partition)

    def _rollup_records(self, proposal: Proposal) -> Iterator[Record]:
        rows, committed_at_s = proposal.by_minute, proposal.totals.committed_at_s
        key = replica_key(self._settings.replica)
        progress = Progress(self._source.topic_partitions, proposal.event_times_us, proposal.clamped)
        for value in self._codec.rollups(
            self._settings.replica,
            committed_at_s,
            rows.minutes,
            self._cells(rows.cells),
            rows.values,
            progress,
            rows.starts,
        ):
            yield Record(self._settings.rollups_topic, key, value, 0, record_headers(key, value))

    def _dedup_records(self, changes: DedupChanges) -> Iterator[Record]:
        if self._ids is None:
            return
        topic, source = self._settings.ids_topic, self._settings.source_topic
        for chunk in changes.kept:
            key, value = dedup_key(source, chunk), encode_dedup_chunk(chunk)
            yield Record(topic, key, value, self._ids.partition(chunk.partition), record_headers(key, value))
        for chunk in changes.evicted:
            yield Record(topic, dedup_key(source, chunk), None, self._ids.partition(chunk.partition))

    def _cells(self, cells: NDArray[np.int64]) -> list[tuple[Group, int]]:
        groups = self._groups.groups
        return [
            (groups[group], status)
            for group, status in zip(
                self._groups.cell_group[cells].tolist(), self._groups.cell_status[cells].tolist(), strict=True
            )
        ]


def _taken(replica: str, process: Process | None) -> ReplicaIdTaken:
    other = process or "a process of release 0.1.0"
    advice = "Give every worker its own worker.replica_id."
    if process is not None and process.command:
        advice = "Stop the workers before such a command; a restart continues from the state that it wrote."
    return ReplicaIdTaken(f"Another process works with the replica id {replica!r}: {other}. {advice}")

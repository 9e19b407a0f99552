"""State admin: inspects and repairs the durable state, for `tokentrace state`.

Every change is one transaction under the replica's own transactional id, so that a worker of that name which still
runs is fenced. So is one of release 0.1.0, by its own id.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.group_offsets import GroupOffsets
from tokentrace.kafka.log_bounds import TopicBounds
from tokentrace.kafka.offsets import Committed
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.producer import Record, partition_of
from tokentrace.kafka.transaction import Identity, TransactionalProducer
from tokentrace.model.measures import RARE_FIELD, RARE_SUMS, SUMS
from tokentrace.model.snapshot import EXPIRED, ExpiredKey, Group
from tokentrace.model.spans import STATUSES
from tokentrace.state.appearance import SHOWN_HEADER
from tokentrace.state.checksums import checksum_header
from tokentrace.state.claim import Process, process_of
from tokentrace.state.forgetting import Folded, fold
from tokentrace.state.gaps import GAPS_HEADER, decode_gaps
from tokentrace.state.headers import Header, Headers, header_items
from tokentrace.state.identity import fence_first_release, transactional_id
from tokentrace.state.inputs import INPUTS_HEADER, decode_inputs
from tokentrace.state.keys import Cell, cell_key, expired_key, replica_key
from tokentrace.state.label_sets import LABELS_HEADER
from tokentrace.state.log_generations import LogPosition, encode_generations
from tokentrace.state.offset_mark import marks_other_state
from tokentrace.state.offset_moves import Counted, OffsetMove, differs, move_of
from tokentrace.state.records import (
    StateCodec,
    counted_positions,
    decode_cell,
    encode_replica,
    is_wide,
    recorded_audits,
    replica_headers,
)
from tokentrace.state.replica_totals import ReplicaTotals
from tokentrace.state.restore import StateReader, Stored
from tokentrace.state.schemas import decode_record
from tokentrace.state.span_audit import SPAN_AUDIT_HEADER, with_span_audit
from tokentrace.state.tally import TOTALS_HEADER, tally_of

#: Headers of a replica's own record that hold with other positions too.
_KEPT_HEADERS: Final = (TOTALS_HEADER, SHOWN_HEADER, LABELS_HEADER, GAPS_HEADER, SPAN_AUDIT_HEADER, INPUTS_HEADER)
#: Longest time for which a change is retried while the brokers do not answer.
WRITE_TIMEOUT_S: Final = 30.0


class StateAdmin:
    """The state of one consumer group."""

    def __init__(self, clients: KafkaClients, *, topic: str, group_id: str, source_topic: str) -> None:
        """topic: the state topic. source_topic: what the workers consume."""
        self._clients = clients
        self._topic = topic
        self._group_id = group_id
        self._source_topic = source_topic
        self._reader = StateReader(clients, topic, group_id)

    def replicas(self) -> list[ReplicaTotals]:
        """Return every replica that ever committed, by name.

        Raises UsageError without any state, UnreadableRecord for a damaged record.
        """
        return [self._totals(replica, stored) for replica, stored in sorted(self._read().items())]

    def counted_up_to(self) -> dict[int, int]:
        """Input partition -> the offset of the highest position up to which any replica has counted.

        Raises as `replicas`.
        """
        return {partition: known.position.offset for partition, known in self._counted(self._read()).items()}

    def _counted(self, replicas: Mapping[str, Stored]) -> dict[int, Counted]:
        """Return input partition -> the highest of its positions."""
        found: dict[int, Counted] = {}
        for replica, stored in sorted(replicas.items()):
            record = self._record(replica, stored)
            if record is None:
                continue
            generations = self._reader.generations(replica, stored, self._source_topic)
            for (topic, partition), offset in _positions(record).items():
                if topic == self._source_topic:
                    known = Counted(LogPosition(generations.get(partition, 0), offset), record["committed_at"] / 1e6)
                    found[partition] = max(known, found.get(partition, known))
        return found

    def offset_moves(self) -> dict[int, OffsetMove]:
        """Return partition -> how the group's offset would be set to what is counted.

        That is where it is behind, or ahead in a state that is gone: what a restored copy lacks is counted again.
        A log that ends before what is counted is continued at its end. Partitions that the topic does not have any more
        are left out.
        """
        committed, state_id = self._group_offsets().committed(), self._reader.topic_id()
        counted = {
            partition: known
            for partition, known in self._counted(self._read()).items()
            if differs(committed.get(partition, Committed(0)), known.position.offset, state_id)
        }
        logs = TopicBounds(self._clients, self._source_topic)
        bounds = logs.bounds(counted)
        since = logs.first_since({partition: counted[partition].committed_at_s for partition in bounds})
        before = {partition: committed.get(partition, Committed(0)).offset for partition in bounds}
        return {
            partition: move_of(before[partition], counted[partition].position.offset, log, since[partition])
            for partition, log in sorted(bounds.items())
        }

    def move_offsets(self, moves: Mapping[int, OffsetMove]) -> None:
        """Set the group's offsets, and lower what counts as counted to where a log ends.

        Raises UsageError while the group has members: only they may change its offsets.
        """
        offsets = {partition: move.to for partition, move in moves.items()}
        self._group_offsets().alter(offsets)
        for replica, stored in self._read().items():
            self._lower(replica, stored, offsets)

    def adopt_offsets(self) -> dict[int, int]:
        """Let the totals begin at the offsets that were counted in a state which is gone. Returns them by partition.

        Raises UsageError while the group has members: only they may change its offsets.
        """
        state_id = self._reader.topic_id()
        found = self._group_offsets().committed().items()
        lost = {partition: at.offset for partition, at in found if marks_other_state(at.metadata, state_id)}
        if lost:
            self._group_offsets().alter(lost)
        return lost

    def _group_offsets(self) -> GroupOffsets:
        return GroupOffsets(self._clients, self._group_id, self._source_topic)

    def forget_positions(self, replica: str) -> None:
        """Let the replica count spans again that it has counted; its totals stay."""
        stored = self._one(replica)
        record = self._record(replica, stored)
        if record is None:
            return
        self._lower(replica, stored, dict.fromkeys((number for _, number in _positions(record)), 0))

    def _lower(self, replica: str, stored: Stored, limits: Mapping[int, int]) -> None:
        """Lower the positions of a replica to `limits`, by partition; those that are not above them stay."""
        if self._lowered(replica, stored, limits):
            # Read again: a worker that runs may have committed meanwhile.
            self._write(replica, stored, lambda: self._lowered(replica, self._one(replica), limits))

    def _lowered(self, replica: str, stored: Stored, limits: Mapping[int, int]) -> list[Record]:
        """Return the record of the replica with positions lowered to `limits`, none where that changes nothing."""
        record = self._record(replica, stored)
        if record is None:
            return []
        before = _positions(record)
        for partition in record["partitions"]:
            if partition["topic"] == self._source_topic:
                partition["offset"] = min(partition["offset"], limits.get(partition["partition"], partition["offset"]))
        if _positions(record) == before:
            return []
        return [self._own_record(replica, stored, record, _kept(stored.headers))]

    def _own_record(
        self, replica: str, stored: Stored, record: Any, kept: list[Header], *, wide: bool = False
    ) -> Record:
        """Return the replica's own record. kept: headers that hold as they are. wide: whether it gets a wide cell."""
        value = encode_replica(record)
        wide = wide or any(is_wide(written.value) for written in [*stored.cells.values(), *stored.expired.values()])
        generations = self._reader.generations(replica, stored, self._source_topic)
        key = replica_key(replica)
        headers = [*replica_headers(value, wide), checksum_header(key, value), *kept]
        headers += encode_generations(self._source_topic, generations)
        # Without it, the next start of a worker would take this record for one of release 0.1.0.
        headers.append(Process.this(time.time(), command=True).header())
        return Record(self._topic, key, value, self._partition(replica), headers)

    def forget_value(self, replica: str, dimension: str, values: Collection[str], codec: StateCodec) -> int:
        """Fold the totals of some values of a dimension into `__forgotten__`. Returns how many cells were folded.

        Raises FatalError where the replica has counted with other buckets.
        """
        stored = self._one(replica)
        if not self._folded(replica, stored, dimension, values, codec).removed:
            return 0
        removed = 0

        def change() -> list[Record]:
            nonlocal removed
            stored = self._one(replica)
            folded = self._folded(replica, stored, dimension, values, codec)
            removed = len(folded.removed)
            return self._fold_records(replica, stored, folded, codec)

        self._write(replica, stored, change)
        return removed

    def _folded(
        self, replica: str, stored: Stored, dimension: str, values: Collection[str], codec: StateCodec
    ) -> Folded:
        if stored.replica is not None:
            self._reader.decoded(replica, stored, None, codec.require_same_bounds)
        return fold(
            stored.cells, lambda cell: self._reader.decoded(replica, stored, cell, codec.cell), dimension, values
        )

    def _fold_records(self, replica: str, stored: Stored, folded: Folded, codec: StateCodec) -> list[Record]:
        partition = self._partition(replica)
        records = [Record(self._topic, cell_key(replica, *cell), None, partition) for cell in folded.removed]
        for cell, totals in folded.totals.items():
            key, value = cell_key(replica, *cell), codec.expired(totals)
            records.append(Record(self._topic, key, value, partition, [checksum_header(key, value)]))
        record = self._record(replica, stored)
        if record is not None:
            kept = [header for header in _kept(stored.headers) if header[0] != TOTALS_HEADER]
            tally = self._reader.decoded(replica, stored, None, lambda _: tally_of(stored.headers))
            if tally is not None:
                cells = len({*stored.cells, *folded.totals} - {*folded.removed})
                kept.append(tally._replace(cells=tally.cells - len(stored.cells) + cells).header())
            wide = any(totals.carried for totals in folded.totals.values())
            records.append(self._own_record(replica, stored, record, kept, wide=wide))
        return records

    def forget_totals(self, replica: str) -> int:
        """Remove everything that the replica has counted. Returns how many records went."""
        return self._write(replica, self._one(replica), lambda: self._tombstones(replica, self._one(replica)))

    def _tombstones(self, replica: str, stored: Stored) -> list[Record]:
        """Return what removes every record of the replica."""
        keys = [cell_key(replica, group, status) for group, status in stored.cells]
        keys += [expired_key(replica, expired) for expired in stored.expired]
        if stored.replica is not None:
            keys.append(replica_key(replica))
        partition = self._partition(replica)
        return [Record(self._topic, key, None, partition) for key in keys]

    def _read(self) -> dict[str, Stored]:
        if not self._reader.exists():
            raise UsageError(f"Topic {self._topic!r} does not exist; an exactly-once worker creates it when it starts.")
        return self._reader.read(range(self._reader.partitions()))

    def _record(self, replica: str, stored: Stored) -> Any:
        """Return the replica's own record decoded, None if it has none."""
        if stored.replica is None:
            return None
        return self._reader.decoded(replica, stored, None, lambda value: decode_record(value, "state-replica"))

    def _totals(self, replica: str, stored: Stored) -> ReplicaTotals:
        record = self._record(replica, stored)
        sums: dict[tuple[Group, str], Counter[str]] = {}
        keys: list[tuple[Group, int, Cell | ExpiredKey]] = [(*cell, cell) for cell in stored.cells]
        keys += [(_shown(key), key.status, key) for key in stored.expired]
        for group, status, key in keys:
            counts, _ = self._reader.decoded(replica, stored, key, decode_cell)
            sums.setdefault((group, STATUSES[status]), Counter()).update(
                {name: counts[name] for name in SUMS} | dict(zip(RARE_SUMS, counts[RARE_FIELD], strict=False))
            )
        if not record:
            return ReplicaTotals(replica, 0.0, {}, sums)
        topic = self._source_topic
        gaps = self._reader.decoded(replica, stored, None, lambda _: decode_gaps(stored.headers, topic))
        audits = self._reader.decoded(
            replica, stored, None, lambda _: with_span_audit(stored.headers, topic, recorded_audits(record, topic))
        )
        positions = counted_positions(record, topic)
        inputs = self._reader.decoded(
            replica, stored, None, lambda _: decode_inputs(stored.headers, topic, audits, positions)
        )
        return ReplicaTotals(
            replica, record["committed_at"] / 1e6, _positions(record), sums, audits,
            {reject["reason"]: reject["count"] for reject in record["rejects"]}, gaps, inputs,
            self._reader.generations(replica, stored, topic),
        )  # fmt: skip

    def _one(self, replica: str) -> Stored:
        stored = self._read()
        if replica not in stored:
            known = ", ".join(sorted(stored)) or "none"
            raise UsageError(f"No replica {replica!r} has ever committed; those that have: {known}.")
        return stored[replica]

    def _partition(self, replica: str) -> int:
        return partition_of(replica, self._reader.partitions())

    def _write(self, replica: str, stored: Stored, change: Callable[[], list[Record]]) -> int:
        """Write the records that `change` returns, and return their number.

        It is called once a worker of that name is fenced, so that it reads the last that the worker has committed.
        stored: as read before.
        """
        if stored.replica is not None and process_of(stored.headers) is None:
            fence_first_release(self._clients, replica, WRITE_TIMEOUT_S)
        name = transactional_id(self._group_id, replica)
        rights = f"to write to the topic {self._topic} with the transactional id {name!r}"
        identity = Identity(transactional_id=name, replica=replica, rights=rights)
        transactions = TransactionalProducer(self._clients, identity, retry_for_s=WRITE_TIMEOUT_S)
        try:
            transactions.start()
            records = change()
            outcome = transactions.commit(records)
        finally:
            transactions.close()
        if outcome is not Outcome.COMMITTED:
            raise FatalError(
                f"The state of replica {replica!r} was not changed: the transaction was aborted; try again."
            )
        return len(records)


def _positions(record: Mapping[str, Any]) -> dict[tuple[str, int], int]:
    """Return (topic, partition) -> offset of a replica's record."""
    return {(found["topic"], found["partition"]): found["offset"] for found in record["partitions"]}


def _kept(headers: Headers) -> list[Header]:
    """Return the headers that are written again as they are, with other positions."""
    return [header for header in header_items(headers) if header[0] in _KEPT_HEADERS]


def _shown(expired: ExpiredKey) -> Group:
    """Return the labels under which expired groups are shown."""
    if expired.model is None:
        return Group(EXPIRED, EXPIRED, EXPIRED)
    return Group(expired.model, expired.provider or "", EXPIRED)

"""Restore: the last record of every key in the state topic, read to its end as it is committed.

All records of a replica are in one partition, chosen by its name, so that a restart reads only that one. A replica that
is found in another one means that the topic's number of partitions was changed, which is refused: its totals would
be split in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from tokentrace.aggregate.groups import GroupIndex
from tokentrace.errors import FatalError, UnreadableRecord
from tokentrace.kafka.batch import message_offset, message_partition
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.producer import partition_of
from tokentrace.kafka.reader import TopicReader
from tokentrace.model.arrays import widened
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import ExpiredKey
from tokentrace.model.wide import Carried, carry, put_row
from tokentrace.state.appearance import appeared_header, decode_appeared, shown_until
from tokentrace.state.checksums import DAMAGED, is_intact
from tokentrace.state.claim import Process, process_of
from tokentrace.state.forgetting import totals_of
from tokentrace.state.gaps import decode_gaps
from tokentrace.state.headers import Headers
from tokentrace.state.inputs import decode_inputs
from tokentrace.state.keys import Cell, parse_key, record_key
from tokentrace.state.label_sets import decode_label_sets
from tokentrace.state.log_generations import decode_generations
from tokentrace.state.positions import CountedPositions
from tokentrace.state.records import StateCodec
from tokentrace.state.schemas import record_schemas
from tokentrace.state.span_audit import with_span_audit
from tokentrace.state.tally import Tally, tally_of
from tokentrace.state.totals import Totals
from tokentrace.state.unreadable import RecordPlace, remedy

_Key = TypeVar("_Key", Cell, ExpiredKey)
_Decoded = TypeVar("_Decoded")


class Written(NamedTuple):
    """A record of the topic. at_s: Unix time at which it was written.

    intact: as `checksums.is_intact`. appeared: as `appearance.appeared_header`.
    """

    value: bytes
    at_s: float
    offset: int
    intact: bool = True
    appeared: bytes = b""


@dataclass(slots=True)
class Stored:
    """The topic's records of one replica, all in one partition.

    Its own with its headers, its cells' and those of expired groups.
    """

    partition: int
    replica: Written | None = None
    headers: Headers = None
    cells: dict[Cell, Written] = field(default_factory=dict)
    expired: dict[ExpiredKey, Written] = field(default_factory=dict)

    def record(self, key: Cell | ExpiredKey | None) -> Written:
        """Return the record with this key, None is the replica's own. Raises KeyError if it has none."""
        if isinstance(key, ExpiredKey):
            return self.expired[key]
        if key is not None:
            return self.cells[key]
        if self.replica is None:
            raise KeyError(key)
        return self.replica


class StateReader:
    """Reads the state topic of one consumer group."""

    def __init__(self, clients: KafkaClients, topic: str, group_id: str) -> None:
        """group_id: librdkafka requires one and ACLs apply to it; the reader never joins or commits."""
        self._topic = topic
        self._reader = TopicReader(clients, topic, group_id)
        self._restored_at = -1
        #: The process that wrote the record that was restored, None if it names none: release 0.1.0 names none.
        self.restored_from: Process | None = None

    def exists(self) -> bool:
        """Return whether the topic exists. Raises UsageError if it may not be described, or no broker answers."""
        return self._reader.exists()

    def topic_id(self) -> str:
        """Return the id that Kafka gave the topic when it was created, empty if it may not be described."""
        return self._reader.topic_id()

    def partitions(self) -> int:
        """Return the topic's number of partitions."""
        return self._reader.partition_count()

    def counted_positions(self, source_topic: str) -> CountedPositions:
        """Return what follows how far any replica has counted `source_topic`."""
        return CountedPositions(self._reader, source_topic)

    def restore(self, replica: str, layout: Layout, groups: GroupIndex, source_topic: str) -> Totals | None:
        """Return the totals of the replica with their groups entered into `groups`, None before its first commit.

        Raises FatalError where the state cannot be used, UnreadableRecord where a record of it is damaged.
        """
        self._restored_at, self.restored_from = -1, None
        count = self.partitions()
        partition = partition_of(replica, count)
        stored = self.read([partition])
        committed = stored.get(replica)
        codec = StateCodec(layout)
        if committed is None:
            others = self.read(other for other in range(count) if other != partition)
            if replica in others:
                raise FatalError(
                    f"Topic {self._topic!r} holds replica {replica!r} in another partition than its {count} partitions "
                    "give it: their number was changed. Set it back, or recreate the topic from a copy."
                )
            return None
        if committed.replica is None:
            raise FatalError(
                f"The own record of replica {replica!r} was deleted from outside in topic {self._topic!r}, partition "
                f"{partition}, which has {len(committed.cells)} cells of it. {remedy(replica)}"
            )
        self._restored_at = committed.replica.offset
        self.restored_from = process_of(committed.headers)
        self.decoded(replica, committed, None, codec.require_same_bounds)
        cells = list(committed.cells)
        numbers = groups.adopt([group for group, _ in cells], np.array([status for _, status in cells], np.uint8))
        values = np.zeros((len(cells), layout.width), np.int64)
        created_s, changed_s = np.zeros(len(cells), np.float64), np.zeros(len(cells), np.float64)
        carried: dict[int, Carried] = {}
        appeared: dict[int, dict[str, float]] = {}
        for number, (cell, written) in zip(numbers.tolist(), committed.cells.items(), strict=True):
            row, created_s[number] = self.decoded(replica, committed, cell, codec.cell)
            values = widened(values, len(row))
            put_row(values, carried, number, row)
            changed_s[number] = written.at_s
            if written.appeared:
                appeared[number] = self.decoded(replica, committed, cell, partial(_appeared, written))
        carry(values, numbers, carried)
        expired = {}
        for key in committed.expired:
            row, since_s = self.decoded(replica, committed, key, codec.cell)
            expired[key] = totals_of(row, since_s)
        generations = self.generations(replica, committed, source_topic)
        shown_until_s = self.decoded(replica, committed, None, lambda _: shown_until(committed.headers))
        totals = codec.totals(
            committed.replica.value,
            values,
            created_s,
            changed_s,
            source_topic,
            expired,
            carried,
            generations,
            appeared,
            shown_until_s,
        )
        label_sets = self.decoded(replica, committed, None, lambda _: decode_label_sets(committed.headers))
        gaps = self.decoded(replica, committed, None, lambda _: decode_gaps(committed.headers, source_topic))
        partitions = self.decoded(
            replica, committed, None, lambda _: with_span_audit(committed.headers, source_topic, totals.partitions)
        )
        inputs = self.decoded(
            replica, committed, None,
            lambda _: decode_inputs(committed.headers, source_topic, totals.partitions, totals.positions),
        )  # fmt: skip
        totals = replace(totals, label_sets=label_sets, gaps=gaps, partitions=partitions, inputs=inputs)
        self._require_complete(replica, committed, Tally.of(totals))
        return totals

    def _require_complete(self, replica: str, stored: Stored, found: Tally) -> None:
        """Raises FatalError where the replica's records are not those that it has committed."""
        expected = self.decoded(replica, stored, None, lambda _: tally_of(stored.headers))
        differences = [] if expected is None else list(expected.differences(found))
        if differences:
            listed = "; ".join(f"{name}: {number} committed, {there} found" for name, number, there in differences)
            raise FatalError(
                f"Totals of replica {replica!r} were deleted or replaced from outside in topic {self._topic!r}, "
                f"partition {stored.partition} ({listed}). {remedy(replica)}"
            )

    def generations(self, replica: str, stored: Stored, source_topic: str) -> dict[int, int]:
        """Return partition -> generation of the logs that a replica has counted. Raises as `decoded`."""
        return self.decoded(replica, stored, None, lambda _: decode_generations(stored.headers, source_topic))

    def decoded(
        self, replica: str, stored: Stored, key: Cell | ExpiredKey | None, decode: Callable[[bytes], _Decoded]
    ) -> _Decoded:
        """Return one of a replica's records decoded; key: of the record, None for the replica's own.

        Raises UnreadableRecord, which names the record and how to go on.
        """
        written = stored.record(key)
        try:
            if not written.intact:
                raise UnreadableRecord(DAMAGED)
            return decode(written.value)
        except UnreadableRecord as error:
            place = RecordPlace(self._topic, stored.partition, written.offset, record_key(replica, key))
            raise UnreadableRecord(f"{place} cannot be read: {error} {remedy(replica)}") from error

    def written_by(self, replica: str) -> Process | None:
        """Return the process that wrote the replica's own record last, None if the record names none.

        Transactions that are open are waited for only where one could hide the record: this replica may have one
        itself, and so may the others. Raises FatalError if the record is missing.
        """
        found = self._last_write(replica) or self._last_write(replica, await_open=True)
        if found is None:
            raise FatalError(f"The committed state of replica {replica!r} was removed from topic {self._topic!r}.")
        return found[1]

    def written_since(self, replica: str) -> Process | None:
        """Return the process that wrote the replica's own record after it was restored here, None if none did."""
        offset, process = self._last_write(replica) or (-1, None)
        return process if offset > self._restored_at else None

    def _last_write(self, replica: str, *, await_open: bool = False) -> tuple[int, Process | None] | None:
        """Return the offset of the replica's own record and the process that it names, None without such a record."""
        stored = self.read([partition_of(replica, self.partitions())], await_open=await_open).get(replica)
        return None if stored is None or stored.replica is None else (stored.replica.offset, process_of(stored.headers))

    def read(self, partitions: Iterable[int], *, await_open: bool = True) -> dict[str, Stored]:
        """Return replica -> its committed records in these partitions. await_open: wait for open transactions."""
        found: dict[str, Stored] = {}
        for message in self._reader.read_to_end(dict.fromkeys(partitions, 0), await_open=await_open):
            raw_key = message.key()
            key = parse_key(raw_key)
            if key is None:
                continue
            replica, cell = key
            stored = found.setdefault(replica, Stored(message_partition(message)))
            value, headers = message.value(), message.headers()
            written = None
            if value is not None:
                intact = is_intact(raw_key, value, headers)
                written = Written(
                    value, message.timestamp()[1] / 1e3, message_offset(message), intact, appeared_header(headers)
                )
            if cell is None:
                stored.replica, stored.headers = written, headers
                record_schemas().learn(stored.headers)
                continue
            if isinstance(cell, ExpiredKey):
                _put(stored.expired, cell, written)
            else:
                _put(stored.cells, cell, written)
        return {
            replica: stored
            for replica, stored in found.items()
            if stored.replica is not None or stored.cells or stored.expired
        }


def _appeared(written: Written, _: bytes) -> dict[str, float]:
    return decode_appeared(written.appeared)


def _put(records: dict[_Key, Written], key: _Key, written: Written | None) -> None:
    if written is None:
        records.pop(key, None)
    else:
        records[key] = written

"""Restore: the last record of every key in the state topic, read to its end as it is committed.

All records of a replica are in one partition, chosen by its name, so that a restart reads only that one. A replica that
is found in another one means that the topic's number of partitions was changed, which is refused: its totals would
be split in two.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from tokentrace.aggregate.groups import GroupIndex
from tokentrace.errors import FatalError
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import ExpiredKey, ExpiredTotals
from tokentrace.state.records import Cell, StateCodec, parse_key
from tokentrace.state.totals import Totals

#: How long the topic may stand still before the restore is given up. An open transaction of another replica holds
#: readers back for at most its own time-out, which is far shorter.
PATIENCE_S: Final = 60.0

#: What a topic answers while its leaders are being chosen.
_PASSING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
    }
)

_Key = TypeVar("_Key", Cell, ExpiredKey)

_log = logging.getLogger("librdkafka")


class Written(NamedTuple):
    """A record of the topic. at_s: Unix time at which it was written."""

    value: bytes
    at_s: float


@dataclass(slots=True)
class Stored:
    """What the topic holds of one replica: its own record, its cells' records, and those of what expired."""

    replica: bytes | None = None
    cells: dict[Cell, Written] = field(default_factory=dict)
    folded: dict[ExpiredKey, Written] = field(default_factory=dict)


def partition_of(replica: str, partitions: int) -> int:
    """The partition that holds a replica's records."""
    return zlib.crc32(replica.encode()) % partitions


class StateReader:
    """Reads the state topic of one consumer group, or another topic whole."""

    def __init__(self, client_config: Mapping[str, Any], topic: str, group_id: str) -> None:
        """group_id: the library wants a name; it never joins or commits. The brokers want one that may be used."""
        self._config = dict(client_config)
        self._topic = topic
        self._group_id = group_id

    def partitions(self) -> int:
        """The topic's number of partitions."""
        admin = AdminClient(self._config, logger=_log)
        deadline_s = time.monotonic() + PATIENCE_S
        while not (count := len(admin.list_topics(self._topic, timeout=15.0).topics[self._topic].partitions)):
            if time.monotonic() > deadline_s:
                raise FatalError(f"Topic {self._topic!r} has no partitions.")
            time.sleep(0.1)
        return count

    def restore(
        self, replica: str, layout: Layout, groups: GroupIndex, source_topic: str
    ) -> tuple[Totals | None, dict[int, int]]:
        """Return (totals, positions) of the replica.

        totals: with their groups entered into `groups`, or None before the first commit. positions: partition -> the
        highest offset up to which any replica in the same state partition has counted.

        Raises FatalError where the state cannot be used.
        """
        count = self.partitions()
        own = partition_of(replica, count)
        stored = self.read([own])
        mine = stored.get(replica)
        codec = StateCodec(layout)
        if mine is None or mine.replica is None:
            others = self.read(each for each in range(count) if each != own)
            if replica in others:
                raise FatalError(
                    f"Topic {self._topic!r} holds replica {replica!r} in another partition than its {count} partitions "
                    "give it: their number was changed. Set it back, or make the topic anew from a copy."
                )
            return None, counted_up_to(codec, stored.values(), source_topic)
        cells = list(mine.cells)
        numbers = groups.adopt([group for group, _ in cells], np.array([status for _, status in cells], np.uint8))
        values = np.zeros((len(cells), layout.width), np.int64)
        created_s, changed_s = np.zeros(len(cells), np.float64), np.zeros(len(cells), np.float64)
        for number, written in zip(numbers.tolist(), mine.cells.values(), strict=True):
            values[number], created_s[number] = codec.cell(written.value)
            changed_s[number] = written.at_s
        folded = {}
        for key, written in mine.folded.items():
            row, since_s = codec.cell(written.value)
            folded[key] = ExpiredTotals(np.array(row, np.int64), since_s)
        totals = codec.totals(mine.replica, values, created_s, changed_s, source_topic, folded)
        return totals, counted_up_to(codec, stored.values(), source_topic)

    def read(self, partitions: Iterable[int]) -> dict[str, Stored]:
        """Return replica -> its committed records in these partitions."""
        found: dict[str, Stored] = {}
        for message in self.messages(list(partitions)):
            key = parse_key(message.key())
            if key is None:
                continue
            replica, cell = key
            stored = found.setdefault(replica, Stored())
            value = message.value()
            if cell is None:
                stored.replica = value
                continue
            written = None if value is None else Written(value, message.timestamp()[1] / 1e3)
            if isinstance(cell, ExpiredKey):
                _put(stored.folded, cell, written)
            else:
                _put(stored.cells, cell, written)
        return {
            replica: stored
            for replica, stored in found.items()
            if stored.replica is not None or stored.cells or stored.folded
        }

    def messages(self, partitions: list[int]) -> Iterator[Message]:
        """Every committed record up to the end that the partitions have now, each partition in order."""
        ends = self._ends(partitions, IsolationLevel.READ_UNCOMMITTED)
        if not ends:
            return
        self._await_commits(ends)
        consumer = Consumer(
            {
                **self._config,
                "group.id": self._group_id,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.queue.backoff.ms": 10,
                "fetch.wait.max.ms": 50,
            },
            logger=_log,
        )
        try:
            consumer.assign([TopicPartition(self._topic, partition, 0) for partition in ends])
            deadline_s = time.monotonic() + PATIENCE_S
            while ends:
                messages = consumer.consume(5000, 0.05)
                if messages:
                    deadline_s = time.monotonic() + PATIENCE_S
                elif time.monotonic() > deadline_s:
                    raise FatalError(f"Topic {self._topic!r} cannot be read to its end; is a broker down?")
                for message in messages:
                    error = message.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise FatalError(f"Topic {self._topic!r} cannot be read: {error.str()}.")
                    partition, offset = message.partition(), message.offset()
                    assert partition is not None
                    assert offset is not None
                    if error is None:
                        yield message
                        offset += 1
                    # A partition that others write to all the time never comes to an end.
                    if offset >= ends.get(partition, 0):
                        ends.pop(partition, None)
        finally:
            consumer.close()

    def _await_commits(self, ends: dict[int, int]) -> None:
        """Wait until transactions that were open below these ends are finished: readers do not see past them."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            readable = self._ends(list(ends), IsolationLevel.READ_COMMITTED)
            if all(readable.get(partition, 0) >= end for partition, end in ends.items()):
                return
            if time.monotonic() > deadline_s:
                raise FatalError(f"A transaction on topic {self._topic!r} does not end; is a broker down?")
            time.sleep(0.05)

    def _ends(self, partitions: list[int], isolation: IsolationLevel) -> dict[int, int]:
        """Return partition -> its end, before or after open transactions; empty partitions are left out."""
        admin = AdminClient(self._config, logger=_log)
        wanted = {TopicPartition(self._topic, partition): OffsetSpec.latest() for partition in partitions}
        if not wanted:
            return {}
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                answers = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=15.0)
                ends = {asked.partition: int(future.result().offset) for asked, future in answers.items()}
                break
            except KafkaException as failure:
                error = failure.args[0]
                # A topic that was made just now, or lost its leader, has none for a moment.
                if time.monotonic() > deadline_s or error.code() not in _PASSING:
                    raise FatalError(f"The end of topic {self._topic!r} cannot be found: {error.str()}.") from failure
                time.sleep(0.1)
        return {partition: end for partition, end in ends.items() if end > 0}


def _put(records: dict[_Key, Written], key: _Key, written: Written | None) -> None:
    if written is None:
        records.pop(key, None)
    else:
        records[key] = written


def counted_up_to(codec: StateCodec, stored: Iterable[Stored], source_topic: str) -> dict[int, int]:
    """Input partition -> the highest offset up to which any of these replicas has counted."""
    highest: dict[int, int] = {}
    for each in stored:
        if each.replica is not None:
            for partition, offset in codec.positions(each.replica, source_topic).items():
                highest[partition] = max(offset, highest.get(partition, 0))
    return highest

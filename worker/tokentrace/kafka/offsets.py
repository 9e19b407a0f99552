"""Offsets: where a group member starts to read. Explicit, never by `auto.offset.reset` (see docs/decisions/002)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tokentrace.errors import FatalError, MemberFailed, Unanswered
from tokentrace.kafka.errors import FENCED, REFUSED, error_of
from tokentrace.kafka.moves import LogBounds
from tokentrace.kafka.waiting import Wait
from tokentrace.model.stop import StopSignal

REQUEST_TIMEOUT_S: Final = 10.0
#: Time that a partition which the brokers do not know has to appear: it may have been created a moment ago.
NEW_PARTITION_S: Final = 5.0
#: Time that partitions may take to get a leader before the others go on without them.
LEADER_WAIT_S: Final = 10.0


class Committed(NamedTuple):
    """A committed offset, with the leader epoch of the record before it where that is known.

    metadata: the text that was committed with it.
    """

    offset: int
    leader_epoch: int | None = None
    metadata: str = ""


class CommittedOffsets:
    """The offsets that the group of `consumer` has committed of one topic."""

    def __init__(self, consumer: Consumer, topic: str, stop: StopSignal) -> None:
        self._consumer = consumer
        self._topic = topic
        self._stop = stop

    def stable(self, partitions: Iterable[int], timeout_s: float) -> dict[int, Committed | None]:
        """Return partition -> what is committed, None if nothing is; retries until the offsets are stable.

        They are not while another member's transaction is open on them. Raises FatalError if Kafka refuses them,
        Unanswered if they are not stable in time, StopRequested.
        """
        wanted = list(partitions)
        wait = Wait(self._stop, timeout_s)
        while True:
            try:
                found = self._consumer.committed(
                    [TopicPartition(self._topic, partition) for partition in wanted], timeout=wait.request_timeout_s
                )
                error = next((result.error for result in found if result.error is not None), None)
            except KafkaException as failure:
                error = error_of(failure)
            if error is None:
                return {result.partition: _committed(result) for result in found}
            if error.code() in REFUSED:
                raise FatalError(f"Kafka refuses this worker's offsets: {error.str()}.")
            if error.fatal() or error.code() in FENCED:
                raise MemberFailed(f"Kafka refuses this worker's offsets: {error.str()}.")
            if not wait.pause("The group's offsets of topic %s are not stable yet (%s)", self._topic, error.str()):
                raise Unanswered(f"the group's offsets are not stable ({error.str()})")


class Start(NamedTuple):
    """First position of a partition. committed: the group's offset, None if it has none, with its metadata."""

    offset: int
    committed: int | None
    leader_epoch: int | None = None
    metadata: str = ""


class StartOffsets:
    """The offsets of one topic from which a group member reads its partitions."""

    def __init__(self, consumer: Consumer, topic: str, stop: StopSignal) -> None:
        self.committed = CommittedOffsets(consumer, topic, stop)
        self._consumer = consumer
        self._topic = topic
        self._stop = stop
        #: Without a committed offset, partitions below this number begin at their end, the others at their beginning.
        self._skipped = 0

    def skip_unless_known(self, partitions: int) -> None:
        """Let the partitions begin at their ends, unless the group has committed an offset of any of them.

        Called before the group is joined, where no replica has counted any. A partition that is added later begins at
        its beginning. partitions: how many the topic has.

        Raises FatalError if Kafka refuses the offsets, StopRequested.
        """
        found = self.committed.stable(range(partitions), math.inf)
        self._skipped = partitions if set(found.values()) <= {None} else 0

    def find(self, partitions: Iterable[int], wait_s: float) -> tuple[dict[int, Start], dict[int, str]]:
        """Return partition -> where it begins, and partition -> why that is not known within `wait_s`.

        Raises FatalError if Kafka refuses the group's offsets, StopRequested.
        """
        wanted = list(partitions)
        try:
            committed = self.committed.stable(wanted, wait_s)
        except Unanswered as failure:
            return {}, dict.fromkeys(wanted, str(failure))
        starts: dict[int, Start] = {}
        unknown: dict[int, str] = {}
        leaders_by_s = self._stop.clock() + min(wait_s, LEADER_WAIT_S)
        for partition, found in committed.items():
            if found is not None:
                starts[partition] = Start(found.offset, found.offset, found.leader_epoch, found.metadata)
                continue
            try:
                bounds = self.watermarks(partition, max(leaders_by_s - self._stop.clock(), 0.0))
            except Unanswered as failure:
                unknown[partition] = str(failure)
                continue
            starts[partition] = Start(bounds.end if partition < self._skipped else bounds.first, None)
        return starts, unknown

    def watermarks(self, partition: int, timeout_s: float) -> LogBounds:
        """Return the first offset of the partition and its end; retries until it has a leader.

        Raises Unanswered if it has none in time or the topic has no such partition, StopRequested.
        """
        wait, unknown = Wait(self._stop, timeout_s), Wait(self._stop, min(NEW_PARTITION_S, timeout_s))
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), timeout=wait.request_timeout_s
                )
                return LogBounds(int(low), int(high))
            except KafkaException as failure:
                error = error_of(failure)
            if error.code() in (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC):
                if not unknown.pause("Topic %s has no partition %d", self._topic, partition):
                    raise Unanswered(f"topic {self._topic!r} has no such partition")
            elif not wait.pause("Partition %d of topic %s has no leader (%s)", partition, self._topic, error.str()):
                raise Unanswered(f"it has no leader ({error.str()})")


def _committed(found: TopicPartition) -> Committed | None:
    return Committed(found.offset, found.leader_epoch, found.metadata or "") if found.offset >= 0 else None


def at_offset(topic: str, partition: int, offset: int, leader_epoch: int | None, metadata: str = "") -> TopicPartition:
    """Return the position, with the epoch by which the brokers know a log that was cut off before it."""
    if leader_epoch is None:
        return TopicPartition(topic, partition, offset, metadata)
    return TopicPartition(topic, partition, offset, metadata, leader_epoch)

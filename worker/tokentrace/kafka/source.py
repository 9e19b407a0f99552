"""The source: a Kafka consumer group member that gives batches of raw messages and knows where it stands.

Offsets are explicit: on assign the group's committed offsets are asked for until the answer is stable and the
partitions start exactly there (never by `auto.offset.reset`; see docs/decisions). Every message that leaves `poll`
belongs to an assigned partition and was not given before. Kafka's types end here and in `commit`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from numpy.typing import NDArray

from tokentrace.errors import FatalError, UsageError
from tokentrace.kafka.errors import FENCED, REFUSED
from tokentrace.model.messages import Envelope, RawBatch
from tokentrace.model.worker_stats import Lag

log = logging.getLogger(__name__)

#: Measured (docs/performance.md): a fast consumer stalls for a second under librdkafka's default back-off of a full
#: queue.
TUNING: Final[dict[str, Any]] = {"fetch.queue.backoff.ms": 2, "queued.min.messages": 20000}


class RebalanceListener(Protocol):
    """What the loop does while partitions come and go; called inside `poll`, on its thread."""

    def accept_offset(self, partition: int, offset: int | None) -> bool: ...

    def load_state(self, partitions: Sequence[int]) -> None: ...

    def on_revoke(self, partitions: Sequence[int]) -> None: ...

    def on_lost(self, partitions: Sequence[int]) -> None: ...

    def on_assign(self, partitions: Sequence[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """How to join the group. properties go to librdkafka as they are, under the ones that tokentrace owns."""

    bootstrap_servers: str
    topic: str
    group_id: str
    member_id: str
    start: Literal["earliest", "latest"] = "earliest"
    protocol: Literal["classic", "consumer"] = "classic"
    session_timeout_s: float = 45.0
    properties: Mapping[str, Any] | None = None

    def consumer_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            **TUNING,
            **(self.properties or {}),
            "bootstrap.servers": self.bootstrap_servers,
            "group.id": self.group_id,
            "client.id": self.member_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "group.protocol": self.protocol,
        }
        if self.protocol == "classic":
            config |= {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(self.session_timeout_s * 1000),
                # The library's 3 s would let a short session expire between two heartbeats.
                "heartbeat.interval.ms": min(3000, int(self.session_timeout_s * 1000 / 4)),
                # A static member has its partitions back at once after a restart. Not under KIP-848: there a
                # killed static member is refused until its session has ended.
                "group.instance.id": self.member_id,
            }
        return config


class KafkaSource:
    """One member of the consumer group, used by one thread."""

    def __init__(self, settings: SourceSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._rebalance: RebalanceListener | None = None
        self._positions: dict[int, int] = {}
        self._oldest_unread_s: dict[int, float] = {}
        #: Partition -> where its end was, when it was last reached.
        self._ends: dict[int, int] = {}
        #: Partitions of the topic, assigned or not; 0 before `connect`.
        self.topic_partitions = 0
        self._paused = False
        self._callback_failure: BaseException | None = None
        self._refusal: str | None = None
        self.unreachable = ""
        self.lost_records: dict[int, int] = {}
        #: Assigned partitions that must not be consumed.
        self.refused: set[int] = set()
        try:
            self._consumer = Consumer(
                {**settings.consumer_config(), "error_cb": self._on_error}, logger=logging.getLogger("librdkafka")
            )
        except KafkaException as error:
            raise UsageError(f"kafka.properties: {error.args[0].str()}.") from error

    # -- joining and leaving ---------------------------------------------------------------------------------------

    def connect(self, stopping: Callable[[], bool], wait: Callable[[float], object] = time.sleep) -> bool:
        """Wait until the broker answers and the topic exists, saying so; false when told to stop meanwhile.

        Raises UsageError when the broker refuses the credentials.
        """
        delay_s = 1.0
        while not stopping():
            problem = self._topic_problem()
            if problem is None:
                self.unreachable = ""
                return True
            self.unreachable = problem
            log.warning("%s Trying again in %.0f s.", problem, delay_s)
            wait(delay_s)
            delay_s = min(delay_s * 2, 15.0)
        return False

    def _topic_problem(self) -> str | None:
        topic, servers = self._settings.topic, self._settings.bootstrap_servers
        try:
            metadata = self._consumer.list_topics(topic, timeout=5.0)
        except KafkaException as error:
            # What the broker said, if it said anything, waits in the queue of callbacks.
            self._consumer.poll(0.1)
            self._raise_refusal()
            return f"No Kafka broker answers at {servers} ({error.args[0].str()}); check kafka.bootstrap_servers."
        refusal = metadata.topics[topic].error
        self.topic_partitions = len(metadata.topics[topic].partitions)
        if refusal is None:
            return None
        if refusal.code() in REFUSED:
            raise UsageError(f"Kafka refuses access to topic {topic!r}: {refusal.str()}.")
        return f"Topic {topic!r} does not exist at {servers}; create it or correct kafka.topic."

    def subscribe(self, rebalance: RebalanceListener) -> None:
        self._rebalance = rebalance
        self._consumer.subscribe(
            [self._settings.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def close(self) -> None:
        """Leave the group; a static member's partitions stay reserved for its return until the session ends."""
        self._consumer.close()
        self._positions.clear()

    # -- reading ---------------------------------------------------------------------------------------------------

    def poll(self, max_messages: int, timeout_s: float) -> RawBatch | None:
        """Up to `max_messages` new messages, None when there are none within `timeout_s`; runs rebalances.

        Raises FatalError when this member is fenced or Kafka refuses it for good.
        """
        messages = self._consumer.consume(max_messages, timeout_s)
        if self._callback_failure is not None:
            failure, self._callback_failure = self._callback_failure, None
            raise failure
        self._raise_refusal()
        errors = map(Message.error, messages)
        failed = [message for message, error in zip(messages, errors, strict=True) if error is not None]
        if failed:
            messages = [message for message in messages if message.error() is None]
            for message in failed:
                self._on_message_error(message)
        if not messages:
            return None
        self.unreachable = ""
        return self._batch(messages)

    def _batch(self, messages: list[Message]) -> RawBatch | None:
        partitions = np.fromiter(map(Message.partition, messages), np.int32, len(messages))
        spans = _extents(partitions)
        stale = [
            partition
            for partition, (first, _) in spans.items()
            if _offset(messages[first]) < self._positions.get(partition, 1 << 62)
        ]
        if stale:
            # Fetched before a rebalance or a rewind that happened inside the same call.
            messages = [m for m in messages if _offset(m) >= self._positions.get(_partition(m), 1 << 62)]
            if not messages:
                return None
            partitions = np.fromiter(map(Message.partition, messages), np.int32, len(messages))
            spans = _extents(partitions)
        positions, times_ms = {}, {}
        for partition, (first, last) in spans.items():
            positions[partition] = _offset(messages[last]) + 1
            times_ms[partition] = self._time_ms(messages[first]), self._time_ms(messages[last])
            self._oldest_unread_s[partition] = times_ms[partition][1] / 1000
        self._positions.update(positions)
        return RawBatch(
            values=list(map(Message.value, messages)),
            partitions=partitions,
            positions=positions,
            envelope=lambda row: _envelope(messages[row]),
            times_ms=times_ms,
            timestamps_ms=lambda rows: np.array([self._time_ms(messages[row]) for row in rows.tolist()], np.int64),
        )

    def _time_ms(self, message: Message) -> int:
        kind, timestamp_ms = message.timestamp()
        return timestamp_ms if kind else int(self._clock() * 1000)

    def _on_message_error(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._ends[_partition(message)] = _offset(message)
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._skip_lost(_partition(message))
        elif code in FENCED or code == KafkaError._FATAL or error.fatal():
            raise FatalError(
                f"Kafka no longer accepts this worker ({error.str()}). Another worker with the replica id "
                f"{self._settings.member_id!r} may have joined: give every worker its own worker.replica_id."
            )
        elif code in REFUSED:
            raise FatalError(f"Kafka refuses this worker as a member of {self._settings.group_id!r}: {error.str()}")
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            log.warning("The loop stood still for longer than max.poll.interval.ms; rejoining the group.")
        else:
            log.warning("Kafka: %s", error.str())

    def pause(self) -> None:
        """Stop fetching, stay in the group. Holds over rebalances until `resume`."""
        if not self._paused:
            self._paused = True
            self._consumer.pause(self._topic_partitions(self._positions))

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._topic_partitions([p for p in self._positions if p not in self.refused]))

    # -- positions -------------------------------------------------------------------------------------------------

    @property
    def assigned(self) -> Sequence[int]:
        return tuple(self._positions)

    @property
    def positions(self) -> dict[int, int]:
        """Consumed partition -> next offset to read."""
        return {p: offset for p, offset in self._positions.items() if p not in self.refused}

    @property
    def read_to_end(self) -> set[int]:
        """Consumed partitions that had nothing more to read when they were last asked."""
        return {p for p in self._positions if self._at_end(p)} - self.refused

    def _at_end(self, partition: int) -> bool:
        return self._ends.get(partition, -1) >= self._positions[partition]

    def commit(self, positions: Mapping[int, int]) -> None:
        """Commit offsets for the group, synchronously. Raises KafkaException."""
        offsets = [TopicPartition(self._settings.topic, p, offset) for p, offset in positions.items()]
        for result in self._consumer.commit(offsets=offsets, asynchronous=False) or []:
            if result.error is not None:
                raise KafkaException(result.error)

    def group_metadata(self) -> Any:
        """What a transactional producer needs to commit offsets for this member."""
        return self._consumer.consumer_group_metadata()

    def rewind(self) -> None:
        """Read every assigned partition again from the group's committed offsets."""
        partitions = list(self._positions)
        if partitions:
            self._consumer.incremental_unassign(self._topic_partitions(partitions))
            self._positions.clear()
            self._assign(partitions)

    def lag(self) -> dict[int, Lag]:
        """Assigned partition -> Lag, from the watermarks that came with the last fetches."""
        lags = {}
        now_s = self._clock()
        for partition, position in self._positions.items():
            if self._at_end(partition):
                lags[partition] = Lag(0, 0.0)
                continue
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._settings.topic, partition), cached=True)
            records = max(high - position, 0) if high >= 0 else 0
            oldest_s = self._oldest_unread_s.get(partition, now_s)
            lags[partition] = Lag(records, max(now_s - oldest_s, 0.0) if records else 0.0)
        return lags

    def _topic_partitions(self, partitions: Sequence[int] | Mapping[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self._settings.topic, partition) for partition in partitions]

    def _assign(self, partitions: Sequence[int]) -> None:
        starts = self._start_offsets(partitions)
        assert self._rebalance is not None
        self._rebalance.load_state(partitions)
        self._positions.update(starts)
        for partition in partitions:
            self._ends.pop(partition, None)
            self._oldest_unread_s.pop(partition, None)
        offsets = [TopicPartition(self._settings.topic, p, offset) for p, offset in starts.items()]
        self._consumer.incremental_assign(offsets)
        held = [each for each in offsets if self._paused or each.partition in self.refused]
        if held:
            self._consumer.pause(held)

    def _start_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        """Committed offsets, asked for until they are stable; the configured start where there is none."""
        while True:
            try:
                committed = self._consumer.committed(self._topic_partitions(partitions), timeout=10.0)
                failure = next((result.error for result in committed if result.error is not None), None)
            except KafkaException as error:
                failure = error.args[0]
            if failure is None:
                break
            if failure.fatal() or failure.code() in FENCED | REFUSED:
                raise FatalError(f"Kafka refuses this worker's offsets: {failure.str()}.")
            log.info("The group's offsets are not stable yet (%s); asking again.", failure.str())
            time.sleep(0.1)
        starts = {}
        for result in committed:
            offset = result.offset if result.offset >= 0 else None
            assert self._rebalance is not None
            if not self._rebalance.accept_offset(result.partition, offset):
                self.refused.add(result.partition)
            starts[result.partition] = self._first_offset(result.partition) if offset is None else offset
        return starts

    def _first_offset(self, partition: int) -> int:
        low, high = self._watermarks(partition)
        return low if self._settings.start == "earliest" else high

    def _watermarks(self, partition: int) -> tuple[int, int]:
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self._settings.topic, partition), timeout=10.0
                )
                return int(low), int(high)
            except KafkaException as error:
                log.info("Partition %d has no leader yet (%s); asking again.", partition, error.args[0].str())
                time.sleep(0.1)

    def _skip_lost(self, partition: int) -> None:
        """The position is outside the log: retention removed records, or the topic was made anew."""
        position = self._positions.get(partition)
        if position is None:
            return
        low, _ = self._watermarks(partition)
        lost = max(low - position, 0)
        self.lost_records[partition] = self.lost_records.get(partition, 0) + lost
        log.error(
            "Partition %d has no offset %d any more; reading on from %d. %d records were removed before they were "
            "counted: raise the topic's retention or the number of workers.",
            partition, position, low, lost,
        )  # fmt: skip
        self._consumer.incremental_unassign(self._topic_partitions([partition]))
        self._positions[partition] = low
        self._consumer.incremental_assign([TopicPartition(self._settings.topic, partition, low)])

    # -- callbacks: an exception that left one inside consume() would cost a message, so none does ---------------------

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as failure:
            self._callback_failure = self._callback_failure or failure

    def _on_assign(self, _: Consumer, assigned: list[TopicPartition]) -> None:
        partitions = [each.partition for each in assigned]

        def assign() -> None:
            self._assign(partitions)
            assert self._rebalance is not None
            self._rebalance.on_assign(partitions)

        self._guarded(assign)

    def _on_revoke(self, _: Consumer, revoked: list[TopicPartition]) -> None:
        self._leave(revoked, "on_revoke")

    def _on_lost(self, _: Consumer, lost: list[TopicPartition]) -> None:
        self._leave(lost, "on_lost")

    def _leave(self, left: list[TopicPartition], event: Literal["on_revoke", "on_lost"]) -> None:
        partitions = [each.partition for each in left]
        self._guarded(lambda: getattr(self._rebalance, event)(partitions))
        for partition in partitions:
            self._positions.pop(partition, None)
            self.refused.discard(partition)
        self._guarded(lambda: self._consumer.incremental_unassign(left))

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in REFUSED:
            self._refusal = error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.unreachable = f"No Kafka broker answers at {self._settings.bootstrap_servers}."
            if self._rebalance is not None:
                log.warning("%s Waiting for one to come back.", self.unreachable)

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise UsageError(
                f"Kafka at {self._settings.bootstrap_servers} refuses this worker's credentials ({self._refusal}); "
                "check sasl.username, sasl.password and the TLS settings under kafka.properties."
            )


def _partition(message: Message) -> int:
    partition = message.partition()
    assert partition is not None
    return partition


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


def _extents(partitions: NDArray[np.int32]) -> dict[int, tuple[int, int]]:
    """Partition -> rows of its first and last message. Within a partition, consume() keeps the log's order."""
    extents = {}
    last = len(partitions) - 1
    for partition in np.flatnonzero(np.bincount(partitions)):
        here = partitions == partition
        extents[int(partition)] = (int(here.argmax()), last - int(here[::-1].argmax()))
    return extents


def _envelope(message: Message) -> Envelope:
    kind, timestamp_ms = message.timestamp()
    return Envelope(
        topic=message.topic() or "",
        partition=_partition(message),
        offset=_offset(message),
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),  # type: ignore[arg-type]
        timestamp_ms=timestamp_ms if kind else None,
    )

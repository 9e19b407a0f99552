"""The source: a consumer group member that gives batches of raw messages and knows its positions.

On assign the partitions start exactly at the group's committed offsets (see `offsets`). Every message that leaves
`poll` belongs to an assigned partition and was not given before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tokentrace.errors import FatalError, Unanswered, UsageError
from tokentrace.kafka.batch import extents_of, message_offset, message_partition, message_partitions, raw_batch
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import FENCED, MEMBERSHIP_LOST, REFUSED, error_of
from tokentrace.kafka.membership import TUNING, RebalanceListener, SourceSettings
from tokentrace.kafka.offsets import CommittedOffsets, StartOffsets
from tokentrace.kafka.outcome import Outcome
from tokentrace.model.messages import RawBatch
from tokentrace.model.worker_stats import Lag

log = logging.getLogger(__name__)

#: Pause before partitions without known offsets are asked for again, and between two joins for the right topic.
ASK_AGAIN_S: Final = 10.0
#: Time that a partition may take to get a leader before the others go on without it.
LEADER_WAIT_S: Final = 10.0


class KafkaSource:
    """One member of the consumer group, used by one thread."""

    def __init__(
        self,
        settings: SourceSettings,
        clients: KafkaClients,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clients = clients
        self._clock = clock
        self._monotonic = monotonic
        self._listener: RebalanceListener | None = None
        self._positions: dict[int, int] = {}
        self._oldest_unread_s: dict[int, float] = {}
        #: Partition -> its end when that was last reached.
        self._end_offsets: dict[int, int] = {}
        #: Partitions of the topic, assigned or not; 0 before `connect`.
        self.topic_partitions = 0
        #: Partitions that are not fetched until `resume`.
        self._paused: set[int] = set()
        self._closing = False
        self._callback_failure: BaseException | None = None
        self._refusal: str | None = None
        self.unreachable = ""
        self.lost_records: dict[int, int] = {}
        #: Assigned partitions that must not be consumed: the listener does not accept their offsets.
        self.blocked: set[int] = set()
        #: Assigned partitions that are not read yet -> why; they are asked for again.
        self.pending: dict[int, str] = {}
        self._ask_again_s = 0.0
        #: True where the group's assignment is of another topic: only joining again changes it.
        self._join_again = False
        self._join_again_s = 0.0
        self._consumer = clients.consumer(
            group_id=settings.group_id,
            settings=settings.consumer_settings(),
            defaults=TUNING,
            on_error=self._on_error,
        )
        self._committed = CommittedOffsets(self._consumer, settings.topic, clients.stop)
        self._start_offsets = StartOffsets(self._consumer, settings.topic, clients.stop)

    # -- joining and leaving ---------------------------------------------------------------------------------------

    def connect(self) -> bool:
        """Wait until the broker answers and the topic exists, and log it; False if a stop is requested first.

        Raises UsageError if the broker refuses the credentials.
        """
        stop, delay_s = self._clients.stop, 1.0
        while not stop.is_set():
            problem = self._topic_problem()
            if problem is None:
                self.unreachable = ""
                return True
            self.unreachable = problem
            log.warning("%s Trying again in %.0f s.", problem, delay_s)
            stop.wait(delay_s)
            delay_s = min(delay_s * 2, 15.0)
        return False

    def _topic_problem(self) -> str | None:
        topic = self._settings.topic
        try:
            metadata = self._consumer.list_topics(topic, timeout=5.0)
        except KafkaException as failure:
            # A refusal by the broker waits in the queue of callbacks.
            self._consumer.poll(0.1)
            self._raise_refusal()
            return self._clients.unreachable(error_of(failure))
        refusal = metadata.topics[topic].error
        self.topic_partitions = len(metadata.topics[topic].partitions)
        if refusal is None:
            return None
        if refusal.code() in REFUSED:
            raise UsageError(f"Kafka refuses access to topic {topic!r}: {refusal.str()}.")
        servers = self._clients.bootstrap_servers
        return f"Topic {topic!r} does not exist at {servers}; create it or correct kafka.topic."

    def subscribe(self, listener: RebalanceListener) -> None:
        """Join the group. Raises FatalError if Kafka refuses its offsets, StopRequested."""
        self._listener = listener
        if self._settings.start == "latest" and not listener.load_counted():
            self._start_offsets.skip_unless_known(self._committed, self.topic_partitions)
        self._subscribe()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._settings.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def close(self) -> None:
        """Leave the group; a static member's partitions stay reserved for its return until the session ends."""
        self._closing = True
        self._consumer.close()
        self._positions.clear()
        self.pending.clear()

    # -- reading ---------------------------------------------------------------------------------------------------

    def poll(self, max_messages: int, timeout_s: float) -> RawBatch | None:
        """Return up to `max_messages` new messages, None if there are none within `timeout_s`. Runs rebalances.

        Raises FatalError if this member is fenced or unauthorized, UsageError if its credentials are refused,
        StopRequested from a rebalance that a stop has cut short.
        """
        self._join_right_topic()
        if self.pending and self._monotonic() >= self._ask_again_s:
            self._assign(sorted(self.pending), wait_s=0.0)
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
        partitions = message_partitions(messages)
        extents = extents_of(partitions)
        if any(self._is_stale(messages[first]) for first, _ in extents.values()):
            # Fetched before a rebalance or a rewind that happened inside the same call.
            messages = [message for message in messages if not self._is_stale(message)]
            if not messages:
                return None
            partitions = message_partitions(messages)
            extents = extents_of(partitions)
        batch = raw_batch(messages, partitions, extents, self._clock)
        self._positions.update(batch.positions)
        for partition, (_, last_ms) in batch.times_ms.items():
            self._oldest_unread_s[partition] = last_ms / 1000
        return batch

    def _is_stale(self, message: Message) -> bool:
        return message_offset(message) < self._positions.get(message_partition(message), 1 << 62)

    def _on_message_error(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._end_offsets[message_partition(message)] = message_offset(message)
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._skip_lost(message_partition(message))
        elif code in FENCED or code == KafkaError._FATAL or error.fatal():
            raise FatalError(
                f"Kafka no longer accepts this worker ({error.str()}). Another worker with the replica id "
                f"{self._settings.member_id!r} may have joined: give every worker its own worker.replica_id."
            )
        elif code in REFUSED:
            raise FatalError(f"Kafka refuses this worker as a member of {self._settings.group_id!r}: {error.str()}")
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            log.warning("max.poll.interval.ms exceeded; rejoining the group.")
        else:
            log.warning("Kafka: %s", error.str())

    def pause(self, partitions: Collection[int]) -> None:
        """Stop fetching these assigned partitions, stay in the group. Holds until `resume` or a revoke."""
        self._paused.update(partitions)
        self._consumer.pause(self._topic_partitions(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Fetch paused partitions again, those that are still assigned."""
        self._paused.difference_update(partitions)
        self._consumer.resume(
            self._topic_partitions([p for p in partitions if p in self._positions and p not in self.blocked])
        )

    # -- positions -------------------------------------------------------------------------------------------------

    @property
    def assigned(self) -> Sequence[int]:
        """Assigned partitions, consumed or blocked."""
        return tuple(self._positions)

    @property
    def positions(self) -> dict[int, int]:
        """Consumed partition -> next offset to read."""
        return {p: offset for p, offset in self._positions.items() if p not in self.blocked}

    @property
    def caught_up(self) -> set[int]:
        """Consumed partitions whose end was reached by the last fetch."""
        return {p for p in self._positions if self._at_end(p)} - self.blocked

    def _at_end(self, partition: int) -> bool:
        return self._end_offsets.get(partition, -1) >= self._positions[partition]

    def commit(self, positions: Mapping[int, int]) -> Outcome:
        """Commit offsets for the group, outside any transaction. Raises FatalError if this member is fenced."""
        offsets = [TopicPartition(self._settings.topic, p, offset) for p, offset in positions.items()]
        try:
            results = self._consumer.commit(offsets=offsets, asynchronous=False) or []
            error = next((result.error for result in results if result.error is not None), None)
        except KafkaException as failure:
            error = error_of(failure)
        if error is None:
            return Outcome.COMMITTED
        if error.code() in MEMBERSHIP_LOST:
            log.warning("Lost group membership (%s); rewinding to the committed offsets.", error.str())
            return Outcome.DROPPED
        if error.fatal() or error.code() in FENCED:
            raise FatalError(
                f"Kafka no longer accepts this worker's commits ({error.str()}); is its worker.replica_id unique?"
            )
        log.warning("The offsets could not be committed (%s); retrying.", error.str())
        return Outcome.RETRY

    def group_metadata(self) -> Any:
        """Return what a transaction needs to commit offsets for this member."""
        return self._consumer.consumer_group_metadata()

    def rewind(self) -> None:
        """Read every assigned partition again from the group's committed offsets."""
        partitions = list(self._positions)
        if partitions:
            self._consumer.incremental_unassign(self._topic_partitions(partitions))
            self._positions.clear()
            self._assign(partitions, self._clients.callback_wait_s)

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

    def _topic_partitions(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._settings.topic, partition) for partition in partitions]

    def _assign(self, partitions: Sequence[int], wait_s: float) -> None:
        """Read partitions from where the group is. wait_s: longest wait for an offset that is not known yet."""
        assert self._listener is not None
        # First: what is committed between the two is then in the offsets, and no healthy partition is refused.
        self._listener.load_counted()
        starts, first = self._accepted_offsets(partitions, wait_s)
        partitions = list(starts)
        self._listener.load_state(partitions)
        self._positions.update(starts)
        for partition in partitions:
            self._end_offsets.pop(partition, None)
            self._oldest_unread_s.pop(partition, None)
        offsets = [TopicPartition(self._settings.topic, p, offset) for p, offset in starts.items()]
        self._consumer.incremental_assign(offsets)
        if first:
            self._listener.begin({partition: starts[partition] for partition in first})
        held = [assigned for assigned in offsets if assigned.partition in self._paused | self.blocked]
        if held:
            self._consumer.pause(held)

    def _accepted_offsets(self, partitions: Sequence[int], wait_s: float) -> tuple[dict[int, int], list[int]]:
        """Return partition -> where it starts, and which of them the group reads for the first time.

        Partitions that the listener does not accept become blocked. Those whose start is not known become pending, and
        have no entry.
        """
        assert self._listener is not None
        try:
            committed = self._committed.stable(partitions, wait_s)
        except Unanswered as failure:
            self._put_off(partitions, str(failure))
            return {}, []
        starts: dict[int, int] = {}
        first = []
        leaders_by_s = self._monotonic() + min(wait_s, LEADER_WAIT_S)
        for partition, offset in committed.items():
            try:
                left_s = max(leaders_by_s - self._monotonic(), 0.0)
                starts[partition] = self._start_offsets.first(partition, left_s) if offset is None else offset
            except Unanswered as failure:
                self._put_off([partition], str(failure))
                continue
            self.pending.pop(partition, None)
            if not self._listener.accept_offset(partition, offset):
                self.blocked.add(partition)
            elif offset is None:
                first.append(partition)
        return starts, first

    def _put_off(self, partitions: Sequence[int], reason: str) -> None:
        """Leave assigned partitions unread for now, and say so once."""
        self._ask_again_s = self._monotonic() + ASK_AGAIN_S
        for partition in partitions:
            if self.pending.get(partition) != reason:
                log.error(
                    "Partition %d of topic %s is not consumed: %s. Asking again every %.0f s; check kafka.topic.",
                    partition, self._settings.topic, reason, ASK_AGAIN_S,
                )  # fmt: skip
            self.pending[partition] = reason

    def _join_right_topic(self) -> None:
        """Join the group again where it has assigned partitions of another topic.

        It gives a static member that is back soon the assignment from before, though kafka.topic was changed meanwhile.
        """
        if self._join_again and self._monotonic() >= self._join_again_s:
            self._join_again = False
            self._join_again_s = self._monotonic() + ASK_AGAIN_S
            self._consumer.unsubscribe()
            self._subscribe()

    def _of_topic(self, assigned: Sequence[TopicPartition]) -> list[int]:
        """Return the partitions of this member's topic, and note those of another."""
        others = sorted({other.topic for other in assigned} - {self._settings.topic})
        if others and not self._join_again:
            self._join_again = True
            log.warning(
                "The group still assigns partitions of %s, which kafka.topic named before; joining again for %s.",
                ", ".join(others), self._settings.topic,
            )  # fmt: skip
        return [topic_partition.partition for topic_partition in assigned if topic_partition.topic not in others]

    def _skip_lost(self, partition: int) -> None:
        """Continue behind a gap: retention has removed records, or the topic was recreated."""
        position = self._positions.get(partition)
        if position is None:
            return
        low, _ = self._start_offsets.watermarks(partition, LEADER_WAIT_S)
        lost = max(low - position, 0)
        self.lost_records[partition] = self.lost_records.get(partition, 0) + lost
        log.error(
            "Partition %d has no offset %d any more; continuing at %d. %d records were removed before they were "
            "counted: raise the topic's retention or the number of workers.",
            partition, position, low, lost,
        )  # fmt: skip
        self._consumer.incremental_unassign(self._topic_partitions([partition]))
        self._positions[partition] = low
        self._consumer.incremental_assign([TopicPartition(self._settings.topic, partition, low)])
        if partition in self._paused | self.blocked:
            self._consumer.pause([TopicPartition(self._settings.topic, partition, low)])

    # -- callbacks: an exception that leaves one inside consume() loses a message, so none does ----------------------

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as failure:
            self._callback_failure = self._callback_failure or failure

    def _on_assign(self, _: Consumer, assigned: list[TopicPartition]) -> None:
        if self._closing:
            # Closing can run a rebalance that was under way. Its partitions are revoked at once, and a consumer that
            # closes gets no answer about offsets.
            return
        partitions = self._of_topic(assigned)

        def assign() -> None:
            self._assign(partitions, self._clients.callback_wait_s)
            assert self._listener is not None
            self._listener.on_assign(partitions)

        self._guarded(assign)
        if self._callback_failure is not None:
            # The library would assign what its callback has not.
            self._guarded(lambda: self._consumer.incremental_assign([]))

    def _on_revoke(self, _: Consumer, revoked: list[TopicPartition]) -> None:
        self._unassign(revoked, "on_revoke")

    def _on_lost(self, _: Consumer, lost: list[TopicPartition]) -> None:
        self._unassign(lost, "on_lost")

    def _unassign(self, removed: list[TopicPartition], event: Literal["on_revoke", "on_lost"]) -> None:
        topic = self._settings.topic
        partitions = [topic_partition.partition for topic_partition in removed if topic_partition.topic == topic]
        self._guarded(lambda: getattr(self._listener, event)(partitions))
        for partition in partitions:
            self._positions.pop(partition, None)
            self.pending.pop(partition, None)
            self._paused.discard(partition)
            self.blocked.discard(partition)

        def unassign() -> None:
            # One that is pending or of another topic was never assigned, and the library rejects it.
            held = {(partition.topic, partition.partition) for partition in self._consumer.assignment()}
            self._consumer.incremental_unassign([tp for tp in removed if (tp.topic, tp.partition) in held])

        self._guarded(unassign)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in REFUSED:
            self._refusal = error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.unreachable = self._clients.unreachable()
            if self._listener is not None:
                log.warning("%s Waiting for one to come back.", self.unreachable)

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise UsageError(
                f"Kafka at {self._clients.bootstrap_servers} refuses this worker's credentials ({self._refusal}); "
                "check sasl.username, sasl.password and the TLS settings under kafka.properties."
            )

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

from tokentrace.errors import ClientFailed, FatalError, MemberFailed, Unanswered, Unreachable, UsageError
from tokentrace.kafka.batch import extents_of, message_offset, message_partition, message_partitions, raw_batch
from tokentrace.kafka.broker_watch import BrokerWatch
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import FENCED, MEMBERSHIP_LOST, REFUSED, UNANSWERED, error_of
from tokentrace.kafka.lag import LagTracker
from tokentrace.kafka.membership import TUNING, RebalanceListener, SourceSettings
from tokentrace.kafka.moves import MESSAGES, Truncation, move_of, truncation_of
from tokentrace.kafka.offsets import StartOffsets, at_offset
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.topic_wait import await_topic
from tokentrace.kafka.unread import UnreadPartitions
from tokentrace.model.messages import RawBatch
from tokentrace.model.worker_stats import Lag

log = logging.getLogger(__name__)

#: Pause between two tries to find where a log that was cut continues.
CUT_RETRY_S: Final = 1.0
#: Time for the brokers to say where a log was cut off, before the bounds of the log alone decide.
CUT_WAIT_S: Final = 2.0
#: Pause before partitions without known offsets are asked for again, and between two joins for the right topic.
ASK_AGAIN_S: Final = 10.0


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
        self._lag = LagTracker(clock, monotonic)
        #: Partitions of the topic, assigned or not; 0 before `connect`.
        self.topic_partitions = 0
        #: Partitions that are not fetched until `resume`.
        self._paused: set[int] = set()
        self._closing = False
        self._callback_failure: BaseException | None = None
        self._refusal: str | None = None
        #: True after a commit that failed, of which some offsets may be committed.
        self.commit_in_doubt = False
        self._brokers = BrokerWatch(clients, settings.topic, monotonic)
        self.lost_records: dict[int, int] = {}
        self.truncated_records: dict[int, int] = {}
        #: Partition -> leader epoch of the record before its position.
        self._epochs: dict[int, int] = {}
        #: Assigned partitions that are held until the brokers compare the epoch of their position with the log's.
        self._unchecked: set[int] = set()
        #: Partitions without a record at their position -> where the brokers say that their log was cut off.
        self._cut: dict[int, int | None] = {}
        self._cut_due_s = 0.0
        #: Partition -> (committed generation of its log, from, to) of the last gap that was counted.
        self._reported: dict[int, tuple[int, int, int]] = {}
        #: Partition -> position that it was moved from last: what is still reported about that has been done.
        self._moved_from: dict[int, int] = {}
        #: Partitions that were taken away within this call of consume(), and those of them that were assigned again.
        self._removed: set[int] = set()
        self._reassigned: set[int] = set()
        #: Assigned partitions that must not be consumed: the listener does not accept their offsets.
        self.blocked: set[int] = set()
        #: Assigned partitions that are not read yet -> why; they are asked for again.
        self.pending: dict[int, str] = {}
        self._ask_again_s = 0.0
        #: True where the group's assignment is of another topic: only joining again changes it.
        self._join_again = False
        self._join_again_s = 0.0
        self._unread = UnreadPartitions(
            clients, settings.group_id, settings.topic, clock=monotonic, after_join=settings.protocol == "classic"
        )
        self.open()

    def open(self) -> None:
        """Make the consumer: at the start, and again after `close`."""
        settings, clients = self._settings, self._clients
        self._closing = self._join_again = False
        self._callback_failure = None
        self._consumer = clients.consumer(
            group_id=settings.group_id,
            settings=settings.consumer_settings(),
            defaults=TUNING,
            on_error=self._on_error,
        )
        self._start_offsets = StartOffsets(self._consumer, settings.topic, clients.stop)

    # -- joining and leaving ---------------------------------------------------------------------------------------

    def connect(self) -> bool:
        """Wait until the broker answers and the topic exists, and log it; False if a stop is requested first.

        Raises UsageError if the broker refuses the credentials.
        """

        def show(problem: str) -> None:
            if problem:
                # A refusal by the broker waits in the queue of callbacks. An error of the group would be lost with it.
                self._consumer.poll(0.1)
                self._raise_refusal()
            self.unreachable = problem

        self.topic_partitions = await_topic(self._consumer, self._clients, self._settings.topic, show)
        return bool(self.topic_partitions)

    def subscribe(self, listener: RebalanceListener) -> None:
        """Join the group. Raises FatalError if Kafka refuses its offsets, StopRequested."""
        self._listener = listener
        if self._settings.start == "latest" and not listener.load_counted():
            self._start_offsets.skip_unless_known(self.topic_partitions)
        self._unread.on_join()
        self._subscribe()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._settings.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def close(self) -> None:
        """Close the consumer. A dynamic member leaves the group; a static one stays in it until its session ends."""
        if self._closing:
            return
        self._closing = True
        self._consumer.close()
        self._positions.clear()
        self.pending.clear()

    @property
    def abandoned(self) -> bool:
        """True after `abandon`, until `open`."""
        return self._closing

    def abandon(self) -> None:
        """Close a consumer that has failed, without a word to the listener; `open` makes another."""
        self._listener = None
        for partition in [*self._positions, *self.pending]:
            self._forget(partition)
        self._paused.clear()
        self.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def poll(self, max_messages: int, timeout_s: float) -> RawBatch | None:
        """Return up to `max_messages` new messages, None if there are none within `timeout_s`. Runs rebalances.

        Raises FatalError if this member is fenced or unauthorized, UsageError if its credentials are refused,
        StopRequested from a rebalance that a stop has cut short.
        """
        if self._unread.due:
            self._look_for_unread()
        self._join_right_topic()
        if self.pending and self._monotonic() >= self._ask_again_s:
            self._assign(sorted(self.pending), wait_s=0.0)
        if self._unchecked:
            self._check_epochs()
        if self._cut and self._monotonic() >= self._cut_due_s:
            self._move_cut()
        self._removed.clear()
        self._reassigned.clear()
        messages = self._consumer.consume(max_messages, timeout_s)
        if self._callback_failure is not None:
            failure, self._callback_failure = self._callback_failure, None
            raise failure
        self._raise_refusal()
        if self._reassigned:
            messages = self._read_again(messages)
        # Mostly none has an error, which this finds without Python code per message.
        if any(map(Message.error, messages)):
            failed = [message for message in messages if message.error() is not None]
            messages = [message for message in messages if message.error() is None]
            for message in failed:
                self._on_message_error(message)
        if not messages:
            self._brokers.look(self._consumer)
            return None
        self._brokers.on_answer()
        return self._batch(messages)

    def epochs(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return partition -> leader epoch to commit with its position, where one is known."""
        return {partition: self._epochs[partition] for partition in partitions if partition in self._epochs}

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
        batch = raw_batch(messages, partitions, extents, self._clock, self._settings.group_id)
        self._positions.update(batch.positions)
        for partition, (_, last) in extents.items():
            epoch = messages[last].leader_epoch()
            if epoch is not None and epoch >= 0:
                self._epochs[partition] = epoch
        self._lag.on_read(batch.positions, batch.times_ms)
        return batch

    def _read_again(self, messages: list[Message]) -> list[Message]:
        """Return the messages without those of partitions that were taken away and assigned again within the call.

        They may have been fetched before that, with others of the same offsets behind them, so all are read again.
        """
        reassigned = self._reassigned & set(map(message_partition, messages))
        if not reassigned:
            return messages
        again = reassigned.intersection(self._positions)
        self._consumer.incremental_unassign(self._topic_partitions(again))
        self._fetch({partition: self._positions[partition] for partition in again})
        return [message for message in messages if message_partition(message) not in reassigned]

    def _fetch(self, positions: Mapping[int, int]) -> None:
        """Assign partitions to the consumer from these positions; those that are held are not fetched yet."""
        topic = self._settings.topic
        offsets = [at_offset(topic, p, position, self._epochs.get(p)) for p, position in positions.items()]
        self._consumer.incremental_assign(offsets)
        if held := [assigned for assigned in offsets if assigned.partition in self._held]:
            self._consumer.pause(held)

    def _is_stale(self, message: Message) -> bool:
        return message_offset(message) < self._positions.get(message_partition(message), 1 << 62)

    def _on_message_error(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._lag.on_end(message_partition(message), message_offset(message))
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._on_cut(message_partition(message), truncation_of(error.str()))
        elif code in FENCED or code == KafkaError._FATAL or error.fatal():
            raise MemberFailed(
                f"Kafka no longer accepts this worker ({error.str()}); is its worker.replica_id "
                f"{self._settings.member_id!r} unique?"
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

    @property
    def _held(self) -> set[int]:
        """Assigned partitions that must not be fetched now."""
        return self._paused | self.blocked | self._unchecked

    def resume(self, partitions: Collection[int]) -> None:
        """Fetch paused partitions again, those that are still assigned."""
        self._paused.difference_update(partitions)
        self._consumer.resume(
            self._topic_partitions([p for p in partitions if p in self._positions and p not in self._held])
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
        return {partition for partition in self._positions if self._lag.at_end(partition)} - self.blocked

    def commit(self, positions: Mapping[int, int]) -> Outcome:
        """Commit offsets for the group, outside any transaction. Raises FatalError if this member is fenced."""
        offsets = [at_offset(self._settings.topic, p, offset, self._epochs.get(p)) for p, offset in positions.items()]
        results: Sequence[TopicPartition] = ()
        try:
            results = self._consumer.commit(offsets=offsets, asynchronous=False) or []
            error = next((result.error for result in results if result.error is not None), None)
        except KafkaException as failure:
            error = error_of(failure)
        some = any(result.error is None for result in results)
        self.commit_in_doubt = error is not None and (some or error.code() in UNANSWERED)
        if error is None:
            return Outcome.COMMITTED
        if error.code() in MEMBERSHIP_LOST:
            log.warning("Lost group membership (%s); rewinding to the committed offsets.", error.str())
            return Outcome.DROPPED
        if error.fatal() or error.code() in FENCED:
            raise MemberFailed(
                f"Kafka no longer accepts this worker's commits ({error.str()}); is its worker.replica_id unique?"
            )
        log.warning("The offsets could not be committed (%s); retrying.", error.str())
        return Outcome.RETRY

    def group_metadata(self) -> Any:
        """Return what a transaction needs to commit offsets for this member."""
        return self._consumer.consumer_group_metadata()

    def rewind(self) -> None:
        """Read every assigned partition again from the group's committed offsets."""
        self._ask_again_s = 0.0
        partitions = list(self._positions)
        if partitions:
            self._consumer.incremental_unassign(self._topic_partitions(partitions))
            self._positions.clear()
            self._assign(partitions, self._clients.callback_wait_s)

    def on_committed(self, positions: Mapping[int, int]) -> None:
        """Note that these offsets are committed for the group."""
        self._lag.on_committed(positions)

    def lag(self) -> dict[int, Lag]:
        """Assigned partition -> Lag, from the high watermarks that came with the last fetches."""
        return self._lag.lags(self._positions, self._high_watermark, self.blocked)

    def _high_watermark(self, partition: int) -> int:
        topic_partition = TopicPartition(self._settings.topic, partition)
        return int(self._consumer.get_watermark_offsets(topic_partition, cached=True)[1])

    def log_end(self, partition: int) -> int | None:
        """Return the offset behind the last record of a partition, None if the brokers do not tell it at once."""
        try:
            return self._start_offsets.watermarks(partition, 0.0).end
        except Unanswered:
            return None

    def _topic_partitions(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._settings.topic, partition) for partition in partitions]

    def _assign(self, partitions: Sequence[int], wait_s: float) -> None:
        """Read partitions from where the group is; in an outage, put all of them off and raise it.

        wait_s: longest wait for an offset that is not known yet.
        """
        try:
            self._begin(partitions, wait_s)
        except (ClientFailed, Unreachable) as failure:
            # The group has assigned them, and does not do so again.
            for partition in partitions:
                self._forget(partition)
            self._put_off(dict.fromkeys(partitions, str(failure).rstrip(".")))
            raise

    def _begin(self, partitions: Sequence[int], wait_s: float) -> None:
        assert self._listener is not None
        # First: what is committed between the two is then in the offsets, and no healthy partition is refused.
        self._listener.load_counted()
        starts, unknown = self._start_offsets.find(partitions, wait_s)
        self._put_off(unknown)
        refused = self._listener.refuse_offsets(starts)
        first = {}
        for partition, start in starts.items():
            self._forget(partition)
            self._positions[partition] = start.offset
            self._lag.begin(partition, start.offset)
            if start.leader_epoch is not None:
                self._epochs[partition] = start.leader_epoch
                self._unchecked.add(partition)
            if partition in refused:
                self.blocked.add(partition)
            elif start.committed is None:
                first[partition] = start.offset
        self._listener.load_state(list(starts))
        self._reassigned.update(self._removed.intersection(starts))
        self._fetch({partition: start.offset for partition, start in starts.items()})
        if first:
            self._listener.begin(first)

    def _forget(self, partition: int) -> None:
        """Forget all that belongs to an earlier assignment of a partition."""
        self.pending.pop(partition, None)
        self.blocked.discard(partition)
        self._unchecked.discard(partition)
        for known in (self._positions, self._epochs, self._cut, self._moved_from):
            known.pop(partition, None)

    def _put_off(self, unknown: Mapping[int, str]) -> None:
        """Leave partitions unread for now, and say so once. unknown: partition -> why its start is not known."""
        self._ask_again_s = self._monotonic() + ASK_AGAIN_S
        for partition, reason in unknown.items():
            if self.pending.get(partition) != reason:
                log.error(
                    "Partition %d of topic %s is not consumed: %s. Asking again every %.0f s; check kafka.topic.",
                    partition, self._settings.topic, reason, ASK_AGAIN_S,
                )  # fmt: skip
            self.pending[partition] = reason

    def _look_for_unread(self) -> None:
        """Join the group again if no member reads some partitions: only a rebalance assigns them."""
        others = [p for p in range(self.topic_partitions) if p not in self._positions.keys() | self.pending]
        unread = self._unread.find(others, self._start_offsets.committed)
        if unread:
            log.warning("No member of the group reads the partitions %s; joining again.", unread)
            self._join_again = True

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

    def _check_epochs(self) -> None:
        """Let the brokers check the positions of new partitions, then fetch them.

        The library checks the epoch of a position in a seek, and never in an assignment (2.16). What it finds comes as
        an error in a message's place. Until then nothing is fetched: it would be counted, and found to be cut off then.
        """
        for partition in sorted(self._unchecked):
            epoch = self._epochs.get(partition)
            try:
                self._consumer.seek(at_offset(self._settings.topic, partition, self._positions[partition], epoch))
            except KafkaException as failure:
                error = error_of(failure)
                if error.code() in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS):
                    continue  # The assignment has not begun yet.
                log.warning("The log of partition %d could not be checked (%s).", partition, error.str())
            self._unchecked.discard(partition)
            self.resume([partition] if partition not in self._paused else [])

    def _on_cut(self, partition: int, truncation: Truncation | None) -> None:
        """Note that the log has no record at a partition's position. truncation: where it was cut off, if known."""
        if truncation is not None:
            done = self._moved_from.get(partition) == truncation.position > self._positions.get(partition, 0)
            if not done:
                self._cut[partition] = truncation.end
                self._cut_due_s = self._monotonic()
        elif partition not in self._cut:
            # The brokers may know the end by the epoch: they are asked once, and given time to answer.
            self._cut[partition] = None
            self._cut_due_s = self._monotonic() + CUT_WAIT_S
            if partition in self._epochs and partition in self._positions:
                self._ask_for_end(partition)

    def _ask_for_end(self, partition: int) -> None:
        """Let the brokers compare the epoch of a position beyond the log: the library seeks only from within."""
        try:
            end = self._start_offsets.watermarks(partition, 0.0).end
        except Unanswered:
            return
        self._consumer.incremental_unassign(self._topic_partitions([partition]))
        within = [TopicPartition(self._settings.topic, partition, end)]
        self._consumer.incremental_assign(within)
        self._consumer.pause(within)
        self._unchecked.add(partition)

    def _move_cut(self) -> None:
        """Continue partitions whose log has no record at their position any more, where it has the next."""
        self._cut_due_s = self._monotonic() + CUT_RETRY_S
        for partition, end in list(self._cut.items()):
            position = self._positions.get(partition)
            if partition in self._paused:
                # Records that the log may have lost wait for their schema, and are counted first.
                continue
            if position is not None:
                try:
                    self._move(partition, position, end)
                except Unanswered as failure:
                    log.warning("Partition %d cannot continue at offset %d: %s.", partition, position, failure)
                    continue
            del self._cut[partition]

    def _move(self, partition: int, position: int, end: int | None) -> None:
        """end: where the log was cut off, if that is known. Raises Unanswered while its bounds are not known."""
        assert self._listener is not None
        bounds = self._start_offsets.watermarks(partition, 0.0)
        # Kafka removes the offsets of a topic with it.
        recreated = self._start_offsets.committed.stable([partition], 0.0)[partition] is None
        counted = self._listener.counted(partition)
        move = move_of(position, bounds, counted=counted, truncated_at=end, recreated=recreated)
        to = position if move is None else move.to
        self._moved_from[partition] = position
        self._consumer.incremental_unassign(self._topic_partitions([partition]))
        self._positions[partition] = to
        self._epochs.pop(partition, None)
        self._lag.begin(partition, to)
        self._consumer.incremental_assign([TopicPartition(self._settings.topic, partition, to)])
        if move is None:
            log.warning("Partition %d had no offset %d for a while; continuing there.", partition, position)
            return
        # A commit that fails after it leads here again: the gap is the same one.
        found = self._listener.generation(partition), position, to
        is_new = self._reported.get(partition) != found
        self._reported[partition] = found
        gap = move.records if is_new else 0
        if is_new:
            log.error(MESSAGES[move.kind], partition, position, to, move.records)
        if move.kind in ("truncated", "recreated"):
            self.truncated_records[partition] = self.truncated_records.get(partition, 0) + gap
            self._listener.on_truncated(partition, to)
            return
        self.lost_records[partition] = self.lost_records.get(partition, 0) + gap
        self._listener.begin({partition: to})

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
            assert self._listener is not None
            try:
                self._assign(partitions, self._clients.callback_wait_s)
            finally:
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
        if self._listener is not None:
            self._guarded(lambda: getattr(self._listener, event)(partitions))
        self._removed.update(partitions)
        for partition in partitions:
            self._paused.discard(partition)
            self._forget(partition)
            self._lag.forget(partition)

        def unassign() -> None:
            # One that is pending or of another topic was never assigned, and the library rejects it.
            held = {(partition.topic, partition.partition) for partition in self._consumer.assignment()}
            self._consumer.incremental_unassign([tp for tp in removed if (tp.topic, tp.partition) in held])

        self._guarded(unassign)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in REFUSED:
            self._refusal = error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            problem = self._brokers.on_all_down()
            if self._listener is not None:
                log.warning("%s Waiting for one to come back.", problem)

    @property
    def unreachable(self) -> str:
        """Reason for which no broker can be reached, empty while one can."""
        return self._brokers.unreachable

    @unreachable.setter
    def unreachable(self, problem: str) -> None:
        self._brokers.unreachable = problem

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise UsageError(
                f"Kafka at {self._clients.bootstrap_servers} refuses this worker's credentials ({self._refusal}); "
                "check sasl.username, sasl.password and the TLS settings under kafka.properties."
            )

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
from tokentrace.kafka.assignment import Assignment
from tokentrace.kafka.batch import extents_of, message_offset, message_partition, message_partitions, raw_batch
from tokentrace.kafka.broker_watch import BrokerWatch
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import FENCED, MEMBERSHIP_LOST, REFUSED, UNANSWERED, error_of
from tokentrace.kafka.leaving import leave, run_rebalances
from tokentrace.kafka.log_check import LogCheck
from tokentrace.kafka.membership import TUNING, RebalanceListener, SourceSettings
from tokentrace.kafka.moves import truncation_of
from tokentrace.kafka.offsets import StartOffsets, at_offset
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.topic_wait import await_topic
from tokentrace.kafka.unread import UnreadPartitions
from tokentrace.model.messages import RawBatch
from tokentrace.model.worker_stats import Lag

log = logging.getLogger(__name__)

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
        self._assignment = Assignment(settings.topic, clock, monotonic)
        self._log_check = LogCheck(self._assignment, monotonic)
        #: Partitions of the topic, assigned or not; 0 before `connect`.
        self.topic_partitions = 0
        self._closing = False
        #: Topic and partition of what the group has assigned, read or not.
        self._given: set[tuple[str, int]] = set()
        #: Number of calls that the library has made about rebalances.
        self._callbacks = 0
        self._callback_failure: BaseException | None = None
        self._refusal: str | None = None
        #: True after a commit that failed, of which some offsets may be committed.
        self.commit_in_doubt = False
        self._brokers = BrokerWatch(clients, settings.topic, monotonic)
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
        self._given.clear()
        self._callback_failure = None
        self._consumer = clients.consumer(
            group_id=settings.group_id,
            settings=settings.consumer_settings(),
            defaults={**TUNING, **settings.fetch},
            on_error=self._on_error,
        )
        self._assignment.use(self._consumer)
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
        if self._settings.static:
            run_rebalances(self._consumer, lambda: self._callbacks)
        else:
            leave(self._consumer, lambda: self._given)
        self._consumer.close()
        self._assignment.positions.clear()
        self.pending.clear()

    @property
    def abandoned(self) -> bool:
        """True after `abandon`, until `open`."""
        return self._closing

    def abandon(self) -> None:
        """Close a consumer that has failed, without a word to the listener; `open` makes another."""
        self._listener = None
        partitions = [*self._assignment.positions, *self.pending]
        for partition in partitions:
            self._forget(partition)
        self._assignment.remove(partitions)
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
        self._log_check.run(self._start_offsets, self._listener)
        self._assignment.begin_call()
        messages = self._consumer.consume(max_messages, timeout_s)
        if self._callback_failure is not None:
            failure, self._callback_failure = self._callback_failure, None
            raise failure
        self._raise_refusal()
        messages = self._assignment.without_repeats(messages)
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
        epochs = self._assignment.epochs
        return {partition: epochs[partition] for partition in partitions if partition in epochs}

    def _batch(self, messages: list[Message]) -> RawBatch | None:
        partitions = message_partitions(messages)
        extents = extents_of(partitions)
        is_stale = self._assignment.is_stale
        if any(is_stale(messages[first]) for first, _ in extents.values()):
            # Fetched before a rebalance or a rewind that happened inside the same call.
            messages = [message for message in messages if not is_stale(message)]
            if not messages:
                return None
            partitions = message_partitions(messages)
            extents = extents_of(partitions)
        batch = raw_batch(messages, partitions, extents, self._clock, self._settings.group_id)
        self._assignment.on_read(batch, messages, extents)
        return batch

    def _on_message_error(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._assignment.on_end(message_partition(message), message_offset(message))
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._log_check.on_cut(message_partition(message), truncation_of(error.str()), self._start_offsets)
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
        self._assignment.pause(partitions)

    def resume(self, partitions: Collection[int]) -> None:
        """Fetch paused partitions again, those that are still assigned."""
        self._assignment.resume(partitions)

    # -- positions -------------------------------------------------------------------------------------------------

    @property
    def assigned(self) -> Sequence[int]:
        """Assigned partitions, consumed or blocked."""
        return tuple(self._assignment.positions)

    @property
    def positions(self) -> dict[int, int]:
        """Consumed partition -> next offset to read."""
        return {p: offset for p, offset in self._assignment.positions.items() if p not in self.blocked}

    @property
    def blocked(self) -> set[int]:
        """Assigned partitions that must not be consumed: the listener does not accept their offsets."""
        return self._assignment.blocked

    @property
    def caught_up(self) -> set[int]:
        """Consumed partitions whose end was reached by the last fetch."""
        return self._assignment.caught_up

    def commit(self, positions: Mapping[int, int]) -> Outcome:
        """Commit offsets for the group, outside any transaction. Raises FatalError if this member is fenced."""
        epochs = self._assignment.epochs
        offsets = [at_offset(self._settings.topic, p, offset, epochs.get(p)) for p, offset in positions.items()]
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
        if partitions := self._assignment.unfetch():
            self._assign(partitions, self._clients.callback_wait_s)

    def on_committed(self, positions: Mapping[int, int]) -> None:
        """Note that these offsets are committed for the group."""
        self._assignment.on_committed(positions)

    def lag(self) -> dict[int, Lag]:
        """Assigned partition -> Lag, from the high watermarks that came with the last fetches."""
        return self._assignment.lag()

    def log_end(self, partition: int) -> int | None:
        """Return the offset behind the last record of a partition, None if the brokers do not tell it at once."""
        try:
            return self._start_offsets.watermarks(partition, 0.0).end
        except Unanswered:
            return None

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
        for partition in starts:
            self._forget(partition)
        self._assignment.begin(starts, refused)
        self._listener.load_state(list(starts))
        self._assignment.fetch(starts)
        first = {p: start.offset for p, start in starts.items() if start.committed is None and p not in refused}
        if first:
            self._listener.begin(first)

    def _forget(self, partition: int) -> None:
        """Forget all that belongs to an earlier assignment of a partition."""
        self.pending.pop(partition, None)
        self._log_check.forget(partition)
        self._assignment.forget(partition)

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
        others = [p for p in range(self.topic_partitions) if p not in self._assignment.positions.keys() | self.pending]
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

    # -- callbacks: an exception that leaves one inside consume() loses a message, so none does ----------------------

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as failure:
            self._callback_failure = self._callback_failure or failure

    def _on_assign(self, _: Consumer, assigned: list[TopicPartition]) -> None:
        self._callbacks += 1
        self._given.update((partition.topic, partition.partition) for partition in assigned)
        if self._closing:
            # Closing runs a rebalance that was under way. Its partitions are revoked at once, and a consumer that
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
        self._callbacks += 1
        self._given.difference_update((partition.topic, partition.partition) for partition in removed)
        partitions = [topic_partition.partition for topic_partition in removed if topic_partition.topic == topic]
        if self._listener is not None:
            self._guarded(lambda: getattr(self._listener, event)(partitions))
        for partition in partitions:
            self._forget(partition)
        self._assignment.remove(partitions)

        def unassign() -> None:
            # One that is pending or of another topic was never assigned, and the library rejects it.
            held = {(partition.topic, partition.partition) for partition in self._consumer.assignment()}
            self._consumer.incremental_unassign([tp for tp in removed if (tp.topic, tp.partition) in held])

        self._guarded(unassign)

    def _on_error(self, error: KafkaError) -> None:
        self._clients.causes.note(error)
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

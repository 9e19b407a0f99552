"""Assignment: the partitions that a group member has, where each is read on, and which of them are held."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from confluent_kafka import Consumer, Message, TopicPartition

from tokentrace.kafka.batch import Extents, message_offset, message_partition
from tokentrace.kafka.lag import LagTracker
from tokentrace.kafka.offsets import Start, at_offset
from tokentrace.model.messages import RawBatch
from tokentrace.model.worker_stats import Lag

_UNASSIGNED = 1 << 62


class Assignment:
    """The assigned partitions of one topic, as the member's consumer fetches them.

    positions: partition -> next offset to read. epochs: partition -> leader epoch of the record before its position.
    blocked: partitions that must not be consumed, since their offsets are refused. unchecked: those that are held until
    the brokers have compared their epochs with the log's.
    """

    def __init__(self, topic: str, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """clock, monotonic: as in `LagTracker`."""
        self._topic = topic
        self._lag = LagTracker(clock, monotonic)
        self._paused: set[int] = set()
        #: Partitions that were taken away within this call of consume(), and those of them that were assigned again.
        self._removed: set[int] = set()
        self._reassigned: set[int] = set()
        self.positions: dict[int, int] = {}
        self.epochs: dict[int, int] = {}
        self.blocked: set[int] = set()
        self.unchecked: set[int] = set()

    def use(self, consumer: Consumer) -> None:
        """Take the consumer that fetches from now on."""
        self.consumer = consumer

    # -- coming and going --------------------------------------------------------------------------------------------

    def begin(self, starts: Mapping[int, Start], blocked: Collection[int]) -> None:
        """Add forgotten partitions, which `fetch` then reads from their starts."""
        for partition, start in starts.items():
            self.positions[partition] = start.offset
            self._lag.begin(partition, start.offset)
            if start.leader_epoch is not None:
                self.epochs[partition] = start.leader_epoch
                self.unchecked.add(partition)
        self.blocked.update(blocked)
        self._reassigned.update(self._removed.intersection(starts))

    def fetch(self, partitions: Iterable[int]) -> None:
        """Let the consumer fetch added partitions from their positions, and hold those that are not to be fetched."""
        offsets = [at_offset(self._topic, p, self.positions[p], self.epochs.get(p)) for p in partitions]
        self.consumer.incremental_assign(offsets)
        if held := [assigned for assigned in offsets if assigned.partition in self._held]:
            self.consumer.pause(held)

    def forget(self, partition: int) -> None:
        """Forget all that belongs to this assignment of a partition; its lag goes on if it is read again."""
        self.blocked.discard(partition)
        self.unchecked.discard(partition)
        self.positions.pop(partition, None)
        self.epochs.pop(partition, None)

    def remove(self, partitions: Iterable[int]) -> None:
        """Remove partitions that are taken away."""
        for partition in partitions:
            self._removed.add(partition)
            self._paused.discard(partition)
            self.forget(partition)
            self._lag.forget(partition)

    def unfetch(self) -> list[int]:
        """Let the consumer fetch nothing, and return the partitions that it fetched."""
        partitions = list(self.positions)
        if partitions:
            self.consumer.incremental_unassign(self.topic_partitions(partitions))
            self.positions.clear()
        return partitions

    # -- reading -----------------------------------------------------------------------------------------------------

    def begin_call(self) -> None:
        """Note that consume() is called now."""
        self._removed.clear()
        self._reassigned.clear()

    def without_repeats(self, messages: list[Message]) -> list[Message]:
        """Return the messages without those of partitions that were taken away and assigned again within the call.

        They may have been fetched before that, with others of the same offsets behind them, so all are read again.
        """
        if not self._reassigned:
            return messages
        repeated = self._reassigned & set(map(message_partition, messages))
        if again := repeated.intersection(self.positions):
            self.consumer.incremental_unassign(self.topic_partitions(again))
            self.fetch(again)
        return [message for message in messages if message_partition(message) not in repeated]

    def is_stale(self, message: Message) -> bool:
        """Return whether a message is of a partition that is not assigned, or before its position."""
        return message_offset(message) < self.positions.get(message_partition(message), _UNASSIGNED)

    def on_read(self, batch: RawBatch, messages: list[Message], extents: Extents) -> None:
        """Move the positions behind a batch."""
        self.positions.update(batch.positions)
        for partition, (_, last) in extents.items():
            epoch = messages[last].leader_epoch()
            if epoch is not None and epoch >= 0:
                self.epochs[partition] = epoch
        self._lag.on_read(batch.positions, batch.times_ms)

    def on_end(self, partition: int, offset: int) -> None:
        """Note that the readable log ends at this offset, behind all that was read."""
        self._lag.on_end(partition, offset)

    def on_committed(self, positions: Mapping[int, int]) -> None:
        """Note that these offsets are committed for the group."""
        self._lag.on_committed(positions)

    @property
    def caught_up(self) -> set[int]:
        """Consumed partitions whose end was reached by the last fetch."""
        return {partition for partition in self.positions if self._lag.at_end(partition)} - self.blocked

    def lag(self) -> dict[int, Lag]:
        """Return partition -> Lag, from the high watermarks that came with the last fetches."""
        return self._lag.lags(self.positions, self._high_watermark, self.blocked)

    def _high_watermark(self, partition: int) -> int:
        return int(self.consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)[1])

    # -- holding and moving ------------------------------------------------------------------------------------------

    @property
    def _held(self) -> set[int]:
        """Assigned partitions that must not be fetched now."""
        return self._paused | self.blocked | self.unchecked

    def is_paused(self, partition: int) -> bool:
        """Return whether a partition is paused."""
        return partition in self._paused

    def pause(self, partitions: Collection[int]) -> None:
        """Fetch nothing of these partitions until `resume` or their end."""
        self._paused.update(partitions)
        self.consumer.pause(self.topic_partitions(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Fetch paused partitions again, those that are still assigned."""
        self._paused.difference_update(partitions)
        held = self._held
        self.consumer.resume(self.topic_partitions([p for p in partitions if p in self.positions and p not in held]))

    def seek(self, partition: int) -> None:
        """Let the brokers compare the epoch of a partition's position with the log's. Raises KafkaException."""
        self.consumer.seek(at_offset(self._topic, partition, self.positions[partition], self.epochs.get(partition)))

    def checked(self, partition: int) -> None:
        """Fetch a partition whose epoch was compared, unless it is paused."""
        self.unchecked.discard(partition)
        self.resume([] if partition in self._paused else [partition])

    def hold_at(self, partition: int, offset: int) -> None:
        """Let the consumer stand at an offset from which nothing is fetched, until the epoch was compared."""
        self.consumer.incremental_unassign(self.topic_partitions([partition]))
        within = [TopicPartition(self._topic, partition, offset)]
        self.consumer.incremental_assign(within)
        self.consumer.pause(within)
        self.unchecked.add(partition)

    def move(self, partition: int, offset: int) -> None:
        """Read a partition on from another offset, whose epoch is not known."""
        self.consumer.incremental_unassign(self.topic_partitions([partition]))
        self.positions[partition] = offset
        self.epochs.pop(partition, None)
        self._lag.begin(partition, offset)
        self.consumer.incremental_assign([TopicPartition(self._topic, partition, offset)])

    def topic_partitions(self, partitions: Iterable[int]) -> list[TopicPartition]:
        """Return the partitions as the library names them."""
        return [TopicPartition(self._topic, partition) for partition in partitions]

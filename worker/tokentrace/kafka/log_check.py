"""Log check: whether the log of a partition still holds what its reader has read, and where it goes on if it does not.

The brokers compare the leader epoch of a position with the log's (KIP-320). They say where a log was cut off, also
where new records have taken the offsets of those that were lost. What to do then is in `moves`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from tokentrace.errors import Unanswered
from tokentrace.kafka.assignment import Assignment
from tokentrace.kafka.errors import error_of
from tokentrace.kafka.membership import RebalanceListener
from tokentrace.kafka.moves import MESSAGES, Truncation, move_of
from tokentrace.kafka.offsets import StartOffsets

log = logging.getLogger(__name__)

#: Pause between two tries to find where a log that was cut continues.
CUT_RETRY_S: Final = 1.0
#: Time for the brokers to say where a log was cut off, before the bounds of the log alone decide.
CUT_WAIT_S: Final = 2.0


class LogCheck:
    """The check of one member."""

    def __init__(self, assignment: Assignment, monotonic: Callable[[], float]) -> None:
        self._assignment = assignment
        self._monotonic = monotonic
        #: Partitions without a record at their position -> where the brokers say that their log was cut off.
        self._cut: dict[int, int | None] = {}
        self._cut_due_s = 0.0
        #: Partition -> (committed generation of its log, from, to) of the last gap that was logged.
        self._reported: dict[int, tuple[int, int, int]] = {}
        #: Partition -> position that it was moved from last: what is still reported about that has been done.
        self._moved_from: dict[int, int] = {}

    def forget(self, partition: int) -> None:
        """Forget what was found about an assignment of a partition."""
        self._cut.pop(partition, None)
        self._moved_from.pop(partition, None)

    def run(self, offsets: StartOffsets, listener: RebalanceListener | None) -> None:
        """Check new partitions, then fetch them, and move those whose log was cut off."""
        if self._assignment.unchecked:
            self._check_epochs()
        if self._cut and self._monotonic() >= self._cut_due_s:
            assert listener is not None
            self._move_cut(offsets, listener)

    def _check_epochs(self) -> None:
        """Let the brokers check the positions of new partitions, then fetch them.

        The library checks the epoch of a position in a seek, and never in an assignment (2.16). What it finds comes as
        an error in a message's place. Until then nothing is fetched: it would be counted, and found to be cut off then.
        """
        for partition in sorted(self._assignment.unchecked):
            try:
                self._assignment.seek(partition)
            except KafkaException as failure:
                error = error_of(failure)
                if error.code() in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS):
                    continue  # The assignment has not begun yet.
                log.warning("The log of partition %d could not be checked (%s).", partition, error.str())
            self._assignment.checked(partition)

    def on_cut(self, partition: int, truncation: Truncation | None, offsets: StartOffsets) -> None:
        """Note that the log has no record at a partition's position. truncation: where it was cut off, if known."""
        positions = self._assignment.positions
        if truncation is not None:
            done = self._moved_from.get(partition) == truncation.position > positions.get(partition, 0)
            if not done:
                self._cut[partition] = truncation.end
                self._cut_due_s = self._monotonic()
        elif partition not in self._cut:
            # The brokers may know the end by the epoch: they are asked once, and given time to answer.
            self._cut[partition] = None
            self._cut_due_s = self._monotonic() + CUT_WAIT_S
            if partition in self._assignment.epochs and partition in positions:
                self._ask_for_end(partition, offsets)

    def _ask_for_end(self, partition: int, offsets: StartOffsets) -> None:
        """Let the brokers compare the epoch of a position beyond the log: the library seeks only from within."""
        try:
            end = offsets.watermarks(partition, 0.0).end
        except Unanswered:
            return
        self._assignment.hold_at(partition, end)

    def _move_cut(self, offsets: StartOffsets, listener: RebalanceListener) -> None:
        """Continue partitions whose log has no record at their position any more, where it has the next."""
        self._cut_due_s = self._monotonic() + CUT_RETRY_S
        for partition, end in list(self._cut.items()):
            position = self._assignment.positions.get(partition)
            if self._assignment.is_paused(partition):
                # Records that the log may have lost wait for their schema, and are counted first.
                continue
            if position is not None:
                try:
                    self._move(partition, position, end, offsets, listener)
                except Unanswered as failure:
                    log.warning("Partition %d cannot continue at offset %d: %s.", partition, position, failure)
                    continue
            del self._cut[partition]

    def _move(
        self, partition: int, position: int, end: int | None, offsets: StartOffsets, listener: RebalanceListener
    ) -> None:
        """end: where the log was cut off, if that is known. Raises Unanswered while its bounds are not known."""
        bounds = offsets.watermarks(partition, 0.0)
        # Kafka removes the offsets of a topic with it.
        recreated = offsets.committed.stable([partition], 0.0)[partition] is None
        counted = listener.counted(partition)
        move = move_of(position, bounds, counted=counted, truncated_at=end, recreated=recreated)
        to = position if move is None else move.to
        self._moved_from[partition] = position
        self._assignment.move(partition, to)
        if move is None:
            log.warning("Partition %d had no offset %d for a while; continuing there.", partition, position)
            return
        # A commit that fails after it leads here again: the gap is the same one.
        found = listener.generation(partition), position, to
        if self._reported.get(partition) != found:
            self._reported[partition] = found
            log.error(MESSAGES[move.kind], partition, position, to, move.records)
        if move.kind in ("truncated", "recreated"):
            listener.on_truncated(partition, to, move.records)
        elif move.kind == "removed":
            listener.on_removed(partition, to, move.records)
        else:
            listener.begin({partition: to})

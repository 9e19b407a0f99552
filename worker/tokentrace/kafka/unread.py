"""Unread partitions: those that no member of the group reads, though the group is stable.

A static member that is back within its session gets the assignment from before. Partitions that were added meanwhile
are not part of it. Neither are those that it was giving up when it was killed: the second half of that cooperative
rebalance, which gives them to another member, never begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import ConsumerGroupState, KafkaException

from tokentrace.errors import Unanswered
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.errors import REFUSED, error_of
from tokentrace.kafka.offsets import CommittedOffsets
from tokentrace.kafka.reader import result_of

log = logging.getLogger(__name__)

#: Time from a join to the first look, and to the next one where the group is not stable then.
LOOK_S: Final = 10.0
#: Time for which a partition has no owner before it counts as unread. A member may take 10 s to give it up.
UNOWNED_S: Final = 15.0
#: Long: an answer that comes after its request has timed out can end the process, see `end_offsets`.
REQUEST_TIMEOUT_S: Final = 15.0


class UnreadPartitions:
    """Looks for the unread partitions of one topic after a join, until the group is stable and each has an owner."""

    def __init__(
        self, clients: KafkaClients, group_id: str, topic: str, *, clock: Callable[[], float], after_join: bool = True
    ) -> None:
        """after_join: whether to look at all."""
        self._clients = clients
        self._group_id = group_id
        self._topic = topic
        self._clock = clock
        self._after_join = after_join
        self._due_s: float | None = None
        self._unowned: set[int] = set()

    def on_join(self) -> None:
        """Look at the group soon."""
        self._due_s = self._clock() + LOOK_S if self._after_join else None
        self._unowned = set()

    @property
    def due(self) -> bool:
        """True when it is time for a look."""
        return self._due_s is not None and self._clock() >= self._due_s

    def find(self, others: Sequence[int], committed: CommittedOffsets) -> list[int]:
        """Return which of the partitions that this member does not read are read by none. A look: see `due`.

        Each partition that was ever read has a committed offset. Raises FatalError if Kafka refuses the offsets,
        StopRequested.
        """
        self._due_s = None
        if not others:
            return []
        try:
            never = [partition for partition, found in committed.stable(others, 0.0).items() if found is None]
        except Unanswered:
            self._due_s = self._clock() + LOOK_S
            return []
        return never or self._without_owner(set(others))

    def _without_owner(self, others: set[int]) -> list[int]:
        """Return the partitions that had no owner in the last look, and have none now."""
        owned = self._owned()
        if owned is None:
            self._due_s = self._clock() + LOOK_S if self._after_join else None
            return []
        before, self._unowned = self._unowned, others - owned
        if self._unowned:
            self._due_s = self._clock() + UNOWNED_S
        return sorted(before & self._unowned)

    def _owned(self) -> set[int] | None:
        """Return the partitions that a member owns, None while that is not known."""
        admin = self._clients.admin()
        answer = admin.describe_consumer_groups([self._group_id], request_timeout=REQUEST_TIMEOUT_S)[self._group_id]
        try:
            group = result_of(answer, self._clients.stop)
        except KafkaException as failure:
            error = error_of(failure)
            if error.code() in REFUSED:
                log.info("The group %s may not be described (%s).", self._group_id, error.str())
                self._after_join = False
            return None
        if group.state is not ConsumerGroupState.STABLE:
            return None
        assigned = [found for member in group.members for found in member.assignment.topic_partitions]
        return {found.partition for found in assigned if found.topic == self._topic}

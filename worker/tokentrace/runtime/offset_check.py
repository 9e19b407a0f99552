"""The offset check: compares the group's offsets with what the state has counted, before a partition is read.

The two are committed together, so they differ only where somebody has changed one of them. An offset below what is
counted would count spans again, and one whose state is gone would begin the totals again: both are refused, with the
way out. An offset that was set ahead skips spans, which is counted and said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tokentrace.commit import Committer
from tokentrace.kafka.offsets import Start
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.offset_mark import is_marked, marks_other_state

log = logging.getLogger(__name__)

#: Logged for a partition whose group offset is behind what is counted: partition, what the group has, counted offset.
SET_BACK: Final = (
    "Partition %d is not consumed: the group has %s for it, but spans up to offset %d are already counted and would be "
    "counted again. See `tokentrace state show`; then stop all workers, and set the offsets forward "
    "(`tokentrace state reset --offsets`). Only if the topic was recreated, or to count spans again on purpose, run "
    "`tokentrace state reset --positions` instead."
)
#: The same where the log ends before what is counted: partition, what the group has, end, counted offset.
RECREATED: Final = (
    "Partition %d is not consumed: the group has %s for it, and it ends at offset %d, before offset %d up to which "
    "spans are counted. If the topic was recreated, stop all workers and count everything that it holds "
    "(`tokentrace state reset --positions`). If it is an older copy, stop all workers and count only what is new "
    "(`tokentrace state reset --offsets`)."
)
#: The same for an offset that was committed with another state: partition, offset, counted offset, state topic.
STATE_LOST: Final = (
    "Partition %d is not consumed: spans up to offset %d were counted, but the state has them only up to offset %d. "
    "The state topic %s was deleted, or another one is configured. Stop all workers. Restore the topic from a copy and "
    "count what the copy lacks (`tokentrace state reset --offsets`). Only if there is none, begin the totals again at "
    "the group's offsets (`tokentrace state reset --positions`)."
)
#: Logged for an offset that was set ahead: partition, offset, counted offset, number of offsets between.
SET_AHEAD: Final = (
    "Partition %d continues at offset %d, to which the group's offset was set, but spans are counted only up to offset "
    "%d. Up to %d records are left out of the totals."
)
#: The same where nothing is counted of the partition.
FIRST: Final = (
    "Partition %d begins at offset %d, which the group has for it. The state has counted nothing of the partition: "
    "what was counted before, without exactly_once, is not part of the totals."
)


class Checked(NamedTuple):
    """Partitions that must not be consumed, and what is to be committed with this turn of others.

    begun: partition -> position. skipped: partition -> records that an offset which was set ahead leaves out.
    """

    refused: set[int]
    begun: dict[int, int]
    skipped: dict[int, int]


class OffsetCheck:
    """The check of one worker."""

    def __init__(
        self,
        *,
        committer: Committer,
        own_position: Callable[[int], int],
        log_end: Callable[[int], int | None],
    ) -> None:
        """own_position: up to which this worker has committed a partition. log_end: None where it is not known."""
        self._committer = committer
        self._own_position = own_position
        self._log_end = log_end
        self._counted: Mapping[int, LogPosition] = {}
        #: Partition -> (counted offset, group's offset) of the last gap that was logged.
        self._reported: dict[int, tuple[int, int]] = {}
        #: Partitions that were refused at their last check, since their state is gone.
        self.lost: set[int] = set()

    def load(self) -> bool:
        """Load how far any replica has counted by now. Return whether any has counted anything of the topic."""
        self._counted = self._committer.counted_up_to()
        return bool(self._counted)

    def known(self, partition: int) -> LogPosition:
        """Return the position up to which any replica has counted a partition."""
        return self._counted.get(partition, LogPosition(0, self._own_position(partition)))

    def counted(self, partition: int) -> int:
        """Return the offset up to which any replica has counted a partition, as of the last look; 0 if none has."""
        return self._counted.get(partition, LogPosition(0, 0)).offset

    def check(self, starts: Mapping[int, Start]) -> Checked:
        """Compare the group's offsets with what is counted."""
        if any(self._is_ahead(partition, start) for partition, start in starts.items()):
            # Other replicas count on. What the offsets include is in the state by now, maybe not at the look before.
            self.load()
        checked = Checked(set(), {}, {})
        for partition, start in starts.items():
            self.lost.discard(partition)
            if (start.committed or 0) < self.known(partition).offset:
                self._refuse(partition, start.committed)
                checked.refused.add(partition)
            elif self._is_ahead(partition, start) and not self._accept_ahead(partition, start, checked):
                self.lost.add(partition)
                checked.refused.add(partition)
        return checked

    def _is_ahead(self, partition: int, start: Start) -> bool:
        """Without a state, nothing is known to be ahead."""
        return self._committer.state_topic is not None and (start.committed or 0) > self.counted(partition)

    def _refuse(self, partition: int, offset: int | None) -> None:
        """Say why an offset behind what is counted is refused: it was set back, or a cluster was restored."""
        counted = self.known(partition).offset
        found = "no offset" if offset is None else f"offset {offset}"
        end = self._log_end(partition)
        if end is not None and end < counted:
            log.error(RECREATED, partition, found, end, counted)
        else:
            log.error(SET_BACK, partition, found, counted)

    def _accept_ahead(self, partition: int, start: Start, checked: Checked) -> bool:
        """Return whether to consume a partition from an offset that is ahead of the state; see `offset_mark`."""
        topic = self._committer.state_topic
        assert topic is not None
        assert start.committed is not None
        offset, counted = start.committed, self.counted(partition)
        if marks_other_state(start.metadata, topic.id):
            log.error(STATE_LOST, partition, offset, counted, topic.name)
            return False
        if is_marked(start.metadata):
            return True  # Counted with this state: by a replica whose record was removed, or cannot be read.
        end = self._log_end(partition)
        if end is not None and end < offset:
            return True  # The source finds that the offset does not exist, and continues at what is counted.
        if self._reported.get(partition) != (counted, offset):
            self._reported[partition] = counted, offset
            if counted:
                log.error(SET_AHEAD, partition, offset, counted, offset - counted)
            else:
                log.warning(FIRST, partition, offset)
        if counted:
            checked.skipped[partition] = offset - counted
        checked.begun[partition] = offset
        return True

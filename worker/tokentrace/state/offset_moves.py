"""Offset moves: how the offsets of a group are set to what is counted, for `tokentrace state`."""

from __future__ import annotations

from typing import NamedTuple

from tokentrace.kafka.moves import LogBounds
from tokentrace.kafka.offsets import Committed
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.offset_mark import marks_other_state


class Counted(NamedTuple):
    """Position up to which a partition is counted, and Unix time of the last commit of the replica that counted it."""

    position: LogPosition
    committed_at_s: float


class OffsetMove(NamedTuple):
    """A change of the group's offset for a partition, 0 if it has none.

    doubt: what is odd about the log, as of a recreated topic; empty if everything up to `to` is surely counted.
    """

    before: int
    to: int
    doubt: str


def differs(committed: Committed, counted: int, state_id: str) -> bool:
    """Return whether the group's offset is behind what is counted, or ahead of it with the mark of another state."""
    if committed.offset < counted:
        return True
    return committed.offset > counted > 0 and marks_other_state(committed.metadata, state_id)


def move_of(committed: int, counted: int, log: LogBounds, first_since: int) -> OffsetMove:
    """Return the move of a partition.

    first_since: offset of the first record since the last commit, -1 if there is none.
    """
    to, doubt = min(counted, log.end), ""
    if log.first == to:
        return OffsetMove(committed, to, "")  # It holds nothing that would be left out.
    if log.end < counted:
        doubt = f"ends at offset {log.end}, before offset {counted} up to which spans are counted"
    elif log.first < to and first_since == log.first:
        doubt = f"has no record from before the last commit, but spans up to offset {counted} are counted"
    return OffsetMove(committed, to, doubt)

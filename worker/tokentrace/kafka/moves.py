"""Moves: where a partition continues when its log has no record at the position of its reader any more."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

#: The text of librdkafka's error with the end of a log that was cut off; the error has no field for it.
_TRUNCATED: Final = re.compile(r"truncation detected at offset (\d+) .*broker end offset is (\d+)")

#: Kind of a move -> what is logged: partition, position, where it continues, number of records.
MESSAGES: Final = {
    "removed": "Partition %d has no offset %d any more; continuing at %d. %d records were removed before they were "
    "counted: raise the topic's retention or the number of workers.",
    "truncated": "Partition %d has lost its tail, up to offset %d; continuing at its new end, %d. The %d records "
    "that it lost stay counted, and new ones that take their offsets are counted too. Check the brokers for an unclean "
    "leader election, a lost disk or a restored copy.",
    "recreated": "Partition %d was recreated with its topic; offset %d was reached before. Continuing at its first "
    "offset, %d. The %d offsets of the earlier topic stay counted.",
    "ahead": "Partition %d has not reached offset %d, which the group had for it; continuing at %d, up to which spans "
    "are counted. %d records are left out.",
}


class LogBounds(NamedTuple):
    """Bounds of a partition's log. first: offset of its first record. end: offset behind the last."""

    first: int
    end: int


class Move(NamedTuple):
    """A reader's next position. to: where it continues. records: how many the log does not hold, or no longer.

    removed: retention took records before they were read. truncated: the log lost its tail, which was read.
    recreated: another log has taken the name. ahead: the group's offset was set beyond the log.
    """

    to: int
    kind: Literal["removed", "truncated", "recreated", "ahead"]
    records: int


def move_of(
    position: int, bounds: LogBounds, *, counted: int, truncated_at: int | None = None, recreated: bool = False
) -> Move | None:
    """Return where to continue, None where the position is within the log.

    counted: offset up to which the partition is known to be counted, 0 if none is. truncated_at: where the brokers
    say that the log which was read has ended; offsets from there on are of new records.
    """
    if recreated:
        return Move(bounds.first, "recreated", position)
    if position < bounds.first:
        return Move(bounds.first, "removed", bounds.first - position)
    if truncated_at is not None and truncated_at < position:
        end = min(max(truncated_at, bounds.first), bounds.end)
        return Move(end, "truncated", position - end)
    if position <= bounds.end:
        return None
    if 0 < counted <= bounds.end:
        return Move(max(counted, bounds.first), "ahead", 0)
    return Move(bounds.end, "truncated", position - bounds.end)


class Truncation(NamedTuple):
    """A log that was cut off. position: at which that was found. end: of what it kept."""

    position: int
    end: int


def truncation_of(error: str) -> Truncation | None:
    """Return the truncation that the text of an error reports, None for another error.

    The library compares the leader epoch of a position with the log's (KIP-320), so this is known even where new
    records have taken the offsets of those that were lost.
    """
    found = _TRUNCATED.search(error)
    return None if found is None else Truncation(int(found[1]), int(found[2]))

"""Gaps: rollups that the topic does not have any more, found from its bounds, and the hours that lack them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from tokentrace.ledger.store import Position, RollupGap


class RetainedLog(NamedTuple):
    """Bounds of the topic. since_us: Unix time of its first record, where that is of interest, else now."""

    topic_id: str
    first: int
    end: int
    since_us: int


def first_start(topic: str, log: RetainedLog) -> tuple[Position, RollupGap | None]:
    """Return the position of a new ledger, and what was counted before it."""
    position = Position(topic, log.topic_id, log.first, log.first, 0)
    if not log.first:
        return position, None
    return position, RollupGap(log.topic_id, 0, log.first, 0, log.since_us, "counted before the ledger began")


def find_gap(position: Position, log: RetainedLog) -> RollupGap | None:
    """Return the rollups between the position and the log, None where the log continues at the position."""
    since_us, continues = max(log.since_us, position.committed_at_us), log.first
    # An id is empty where the topic may not be described.
    if position.topic_id != log.topic_id and position.topic_id and log.topic_id:
        reason = "the topic was recreated"
    elif log.end < position.next_offset:
        # What is before the end is in the ledger, or took the place of what is.
        reason, continues = "the topic lost records that the ledger has", log.end
    elif log.first > position.next_offset:
        reason = "expired before they were read"
    else:
        return None
    return RollupGap(position.topic_id, position.next_offset, continues, position.committed_at_us, since_us, reason)


def describe(gap: RollupGap, topic: str) -> str:
    """Return a sentence that names the hours whose numbers are incomplete."""
    where = f"Rollups of topic {topic!r}"
    if gap.next_offset > gap.first_offset:
        where += f" from offset {gap.first_offset} to {gap.next_offset - 1}"
    return f"{where} are missing ({gap.reason}): {hours(gap)} lack what was counted then."


def hours(gap: RollupGap) -> str:
    """Return the hours in which the rollups were written, in words."""
    until = f"{_hour(gap.until_us)} UTC, and late spans of hours before,"
    if not gap.from_us:
        return f"the hours up to {until}"
    return f"the hours from {_hour(gap.from_us)} to {until}"


def _hour(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H}:00"

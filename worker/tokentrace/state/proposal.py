"""Proposal: everything that one commit makes durable, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokentrace.aggregate.dedup import DedupChanges
from tokentrace.aggregate.delta import Changes, MinuteRows
from tokentrace.model.messages import DeadLetter
from tokentrace.state.totals import Expiry, Totals


@dataclass(frozen=True, slots=True)
class Proposal:
    """One commit's content, the only argument of both guarantees. False when there is nothing to commit.

    totals: the replica's totals once this is committed. changes: the cells in which they differ, and by how much.
    by_minute: the increments by event minute and cell.
    positions: partition -> next offset to read; empty when only idle groups expire or series are shown.
    event_times_us: partition -> event time up to which its spans are counted, microseconds of Unix time.
    clamped: spans whose event time was implausible and was replaced by the broker's.
    dead_letters: messages that must be in the dead-letter topic before the offsets are committed.
    dedup: chunks of span ids to write and to delete. expiry: cells to delete, and where their sums go.
    shows: whether committed series may be shown in full with this, see `state.appearance`.

    Arrays are read-only views of the delta, valid until the delta changes.
    """

    totals: Totals
    changes: Changes
    by_minute: MinuteRows
    positions: Mapping[int, int]
    event_times_us: Mapping[int, int]
    clamped: int
    dead_letters: Sequence[DeadLetter]
    dedup: DedupChanges
    expiry: Expiry
    shows: bool = False

    def __bool__(self) -> bool:
        return bool(self.positions) or bool(self.expiry) or self.shows

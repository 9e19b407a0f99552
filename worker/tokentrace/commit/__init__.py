"""Commit: the step that makes a delta durable. One module a guarantee, all of them a `Committer`.

The loop computes what the totals will be, calls `commit`, and acts on the outcome alone: accept them, drop the
delta, or keep it and try again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from tokentrace.aggregate.dedup import NO_DEDUP_CHANGES, DedupChanges, DedupChunk
from tokentrace.aggregate.delta import Changes, Delta
from tokentrace.state.totals import NOTHING_EXPIRED, Expiry, Totals


class Outcome(Enum):
    """What became of a commit.

    COMMITTED: durable; accept the totals. DROPPED: this member no longer owns what it counted; clear the delta and
    read again from the group's offsets. RETRY: not durable yet; keep the delta and commit it again.
    """

    COMMITTED = "ok"
    DROPPED = "dropped"
    RETRY = "failed"


class Committer(Protocol):
    """Makes deltas durable."""

    def start(self) -> Totals | None:
        """Prepare, before the group is joined; what this replica has committed in earlier runs, if that is kept.

        Raises FatalError when this replica may not run.
        """

    #: Input partition -> offset below which spans are known to be counted already; complete after `start`.
    counted_up_to: Mapping[int, int]

    def commit(
        self,
        delta: Delta,
        totals: Totals,
        changes: Changes,
        memory: DedupChanges = NO_DEDUP_CHANGES,
        ended: Expiry = NOTHING_EXPIRED,
    ) -> Outcome:
        """Make the delta durable: its dead letters, its offsets and, where the guarantee asks for it, its totals.

        totals: what the ledger holds once this is committed. changes: the cells in which it differs.
        memory: what changes in the memory of spans. ended: what expires; the delta may then be empty.

        A dead letter that was delivered for good leaves the delta; all else in it stays as it is.
        """

    def seen(self, partitions: Sequence[int]) -> Mapping[int, Sequence[DedupChunk]] | None:
        """What is committed of the memory of spans, of partitions that are about to be counted; None: it is not kept.

        Raises FatalError when it cannot be read.
        """

    def close(self) -> None:
        """Free the broker connections."""

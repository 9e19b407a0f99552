"""The replica's state: what is committed, what is counted since, and the one way from the second to the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokentrace.aggregate.dedup import DedupChunk, Deduplicator
from tokentrace.aggregate.delta import Delta
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.worker_stats import DedupStats
from tokentrace.state.ledger import Ledger
from tokentrace.state.proposal import Proposal
from tokentrace.state.totals import Totals


class ReplicaState:
    """The committed totals and span ids, and the delta that was counted since. Used by the consumer thread alone.

    Exactness rests on this order:

    1. `proposal = state.prepare()` computes everything that changes, and changes nothing.
    2. `outcome = committer.commit(proposal)` makes the proposal durable, whole or not at all.
    3. `state.apply(proposal)` publishes it, if and only if the outcome is COMMITTED.

    A crash before 2 ends has changed nothing that anyone could read. A crash between 2 and 3 loses only memory, which a
    restart restores from what 2 wrote. Applying first would show a scrape values that a crash takes back; clearing the
    delta first would lose spans when 2 fails. After a failed commit the delta is kept, and the next proposal contains
    it again (RETRY), or it is discarded, and its records are read again from the committed offsets (DROPPED).
    """

    def __init__(self, *, delta: Delta, ledger: Ledger, deduplicator: Deduplicator) -> None:
        self.delta = delta
        self._ledger = ledger
        self._deduplicator = deduplicator

    @property
    def snapshot(self) -> Snapshot:
        """The committed totals. May be read from any thread: it is replaced, never changed."""
        return self._ledger.snapshot

    # -- the commit --------------------------------------------------------------------------------------------------

    def prepare(self) -> Proposal:
        """Return what committing the delta now makes durable."""
        delta, committed = self.delta, self._ledger.totals
        totals, changes = self._ledger.preview(delta)
        return Proposal(
            totals=totals,
            changes=changes,
            by_minute=delta.by_minute(),
            positions=dict(delta.positions),
            event_times_us=dict(delta.event_times_us),
            clamped=delta.clamped,
            dead_letters=tuple(delta.dead_letters),
            dedup=self._deduplicator.preview(delta),
            expiry=self._ledger.find_expired(totals),
            shows=committed.newest_s > committed.shown_until_s < totals.shown_until_s,
        )

    def apply(self, proposal: Proposal) -> None:
        """Publish a proposal that has become durable, and begin an empty delta.

        Expiry renumbers the cells, so the delta's numbers are invalid from here on.
        """
        self._ledger.apply(proposal.totals, proposal.changes, proposal.expiry)
        self._deduplicator.apply(proposal.dedup)
        self.delta.clear()

    def discard(self) -> None:
        """Drop what is not committed; its records must be read again from the committed offsets."""
        self.delta.clear()

    def keep(self) -> None:
        """Publish the delta though nobody knows whether its offsets are committed. Those that are not are read again.

        The known positions stay, so that the group's offset is accepted whichever of the two it is.
        """
        self.delta.positions.update({partition: self.position(partition) for partition in self.delta.positions})
        self.apply(self.prepare())

    # -- around it ---------------------------------------------------------------------------------------------------

    def restore(self, totals: Totals) -> None:
        """Start from what an earlier run has committed."""
        self._ledger.restore(totals)

    def restart(self, totals: Totals) -> None:
        """Continue from what is committed, which includes a commit whose answer was lost."""
        self.delta.clear()
        self._ledger.restart(totals)

    def position(self, partition: int) -> int:
        """Return the offset up to which this replica has committed a partition, 0 before its first commit."""
        return self._ledger.totals.positions.get(partition, 0)

    def generation(self, partition: int) -> int:
        """Return the generation of a partition's log that this replica has committed, 0 for the first."""
        return self._ledger.totals.generations.get(partition, 0)

    def refresh(self) -> None:
        """Let scores leave the quality window while nothing is committed."""
        self._ledger.refresh()

    def load(self, partitions: Sequence[int], chunks: Mapping[int, Sequence[DedupChunk]]) -> None:
        """Replace the span ids of newly assigned partitions by their committed ones. chunks: partition -> those."""
        self._deduplicator.load(partitions, chunks, self.delta)

    def revoke(self, partitions: Sequence[int]) -> None:
        """Drop the span ids of partitions that belong to another member now."""
        self._deduplicator.revoke(partitions)

    def dedup_stats(self) -> dict[int, DedupStats]:
        """Return how many span ids are remembered, by partition."""
        return self._deduplicator.stats()

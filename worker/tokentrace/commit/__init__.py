"""Commit: the step that makes a proposal durable. One module a guarantee, all of them a `Committer`.

`state.ReplicaState` documents the order of prepare, commit and apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from tokentrace.aggregate.dedup import DedupChunk
from tokentrace.errors import ClientFailed
from tokentrace.kafka.outcome import Outcome
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.proposal import Proposal
from tokentrace.state.totals import Totals

__all__ = ["Committer", "Outcome", "StateTopic"]


class StateTopic(NamedTuple):
    """The topic of the durable state. id: given by Kafka when it was created; empty where it is not known."""

    name: str
    id: str


class Committer(Protocol):
    """Makes proposals durable.

    in_doubt: whether the offsets of the last proposal may be committed though its counts are not durable.
    """

    in_doubt: bool

    @property
    def state_topic(self) -> StateTopic | None:
        """Topic of the state that is committed with the offsets, from `start` on; None without such a state."""

    def start(self) -> Totals | None:
        """Prepare, before the group is joined. Return what earlier runs have committed, None where none is kept.

        May be called again after `close`, as long as it has not returned. Raises ClientFailed or Unreachable in an
        outage, another FatalError when this replica may not run.
        """

    def recover(self, failure: ClientFailed) -> Totals | None:
        """Start again with new clients, after `close`. Return what is committed, None where that is in memory.

        failure: the same object in each try. Raises ReplicaIdTaken when another process has this replica id, FatalError
        when one may have it, and ClientFailed or Unreachable when Kafka does not answer yet.
        """

    def counted_up_to(self) -> Mapping[int, LogPosition]:
        """Return input partition -> position below which spans are counted already, by any replica, as of now.

        Called at every assignment, before the group's offsets are read: other replicas count meanwhile. Raises
        FatalError when it cannot be read.
        """

    def commit(self, proposal: Proposal) -> Outcome:
        """Make a proposal durable: its dead letters, its offsets and, where the guarantee includes it, its totals.

        Raises FatalError when no commit of this worker can succeed any more.
        """

    def dedup_chunks(self, partitions: Sequence[int]) -> Mapping[int, Sequence[DedupChunk]]:
        """Return the committed span ids of partitions, without an entry where none are kept durably.

        Raises FatalError when they cannot be read.
        """

    def close(self) -> None:
        """Close the broker connections."""

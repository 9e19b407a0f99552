"""Outcome: the result of a commit, whichever way it was made."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The result of a commit; the values are those of the metric's label.

    COMMITTED: durable. DROPPED: this member lost its partitions; discard the changes and read again from the
    committed offsets. RETRY: nothing is durable; commit the same changes again.
    """

    COMMITTED = "ok"
    DROPPED = "dropped"
    RETRY = "failed"

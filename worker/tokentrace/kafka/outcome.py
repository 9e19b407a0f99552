"""Outcome: the result of a commit, whichever way it was made."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The result of a commit; the values are those of the metric's label.

    COMMITTED: durable; apply the changes. DROPPED: this member lost its partitions; discard the changes and rewind to
    the committed offsets. RETRY: not durable; keep the changes and commit them again.
    """

    COMMITTED = "ok"
    DROPPED = "dropped"
    RETRY = "failed"

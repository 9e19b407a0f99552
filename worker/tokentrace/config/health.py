"""Section `health`: when a replica is not ready."""

from __future__ import annotations

from tokentrace.config.fields import PositiveDuration
from tokentrace.config.section import Section


class Health(Section):
    """Readiness of a replica."""

    max_commit_age: PositiveDuration | None = None
    """Time for which records of a partition may wait, and none be committed, in a replica that is ready; 30s, or three
    times worker.commit_interval if that is longer, if unset."""

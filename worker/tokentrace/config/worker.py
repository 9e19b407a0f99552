"""Section `worker`: batches, commits and the identity of a replica."""

from __future__ import annotations

import re
import socket
from typing import Annotated, Final, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from tokentrace.config.fields import Duration, PositiveDuration
from tokentrace.config.section import NonEmpty, Section, located

_ORDINAL: Final = re.compile(r"-(\d+)$")


class Deduplicate(Section):
    """Deduplication: counts a span only once if a producer sent it twice."""

    by: Literal["span_id"] = "span_id"
    """Identity of a span in its partition: the span id, within its trace."""
    window: PositiveDuration = 600.0
    """Shortest time for which a counted span is remembered, by the messages' timestamps up to now."""
    max_ids: Annotated[StrictInt, Field(ge=1)] = 1_000_000
    """Most remembered spans per partition, 40 to 80 bytes each; the oldest are evicted first."""


class WorkerSection(Section):
    """Batches, commits and identity of a worker."""

    replica_id: NonEmpty = Field(default_factory=socket.gethostname)
    """Identity of this replica, unique in the group and stable across restarts."""
    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """Delivery guarantee of the counters across a crash."""
    commit_interval: PositiveDuration = 1.0
    """Time between commits; a commit also updates the metrics."""
    batch_size: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    """Most messages in a batch, and about as many calls where messages hold several spans."""
    batch_wait: PositiveDuration = 0.1
    """Longest wait for a full batch."""
    memory_limit: Annotated[StrictInt, Field(ge=256 << 20)] | None = None
    """Memory of this process in bytes, by which the queue and batches are bounded; the cgroup's limit if unset, or half
    of the machine's memory where that has none."""
    drain_timeout: Duration = 30.0
    """Longest wait for the final scrape after SIGTERM."""
    session_timeout: PositiveDuration = 45.0
    """Time without heartbeats after which the group reassigns a replica's partitions."""
    leave_on_stop: StrictBool = False
    """Leave the group at a stop, so that other replicas read on in seconds; a restart then moves partitions."""
    min_replicas: Annotated[StrictInt, Field(ge=0)] | None = None
    """Number of replicas that always run: those whose replica_id ends in -N, with N from it on, leave on stop."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity of logged messages."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """Log format, text or one JSON object per line; auto is text on a terminal."""
    deduplicate: Deduplicate | None = None
    """Deduplication; off unless set."""

    @model_validator(mode="after")
    def _has_ordinal(self) -> WorkerSection:
        if self.min_replicas is not None and self.ordinal is None:
            what = f"requires a worker.replica_id that ends in -N, and it is {self.replica_id!r}"
            raise located((("min_replicas",), what))
        return self

    @property
    def ordinal(self) -> int | None:
        """The number at the end of a replica_id such as tokentrace-2, as a StatefulSet gives it to a pod."""
        found = _ORDINAL.search(self.replica_id)
        return None if found is None else int(found[1])

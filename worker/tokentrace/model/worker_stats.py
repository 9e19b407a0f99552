"""The worker's own health: plain numbers that the loop writes and the HTTP thread reads.

`Recorder` belongs to the consumer thread alone. `snapshot` freezes it into a `Health`, which is published by one
reference assignment; exposition and the health endpoint read the last published one and share no lock with the loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

#: Upper bounds of the health histograms: messages a batch, and seconds of a commit.
BATCH_BOUNDS: Final = (1, 10, 100, 500, 1000, 2000, 5000, 10000, 20000)
SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Stages of the loop whose time is accounted, in the order in which a span meets them.
STAGES: Final = ("poll", "decode", "validate", "deduplicate", "index", "price", "aggregate", "commit", "pause")


class Lag(NamedTuple):
    """How far one assigned partition is behind: records, and seconds since the oldest unread one was produced."""

    records: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's counts (not cumulative, the last is +Inf) over `bounds`, and the sum of observations."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(slots=True)
class Observations:
    """A growing Distribution."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def freeze(self) -> Distribution:
        return Distribution(self.bounds, tuple(self.counts), self.sum)


@dataclass(frozen=True, slots=True)
class Health:
    """One moment of a worker's life.

    lag: assigned partition -> Lag; a revoked partition is not in it.
    commits: outcome (ok, dropped, failed) -> count. rebalances: event (assign, revoke, lost) -> count.
    registry_requests: outcome (ok, not_found, error) -> count.
    schemas: (schema, path) -> 1, where path is columnar or fastavro.
    last_*_s: Unix time, 0 before the first. not_ready: why it is not ready, empty when it is.
    unreachable: why no broker can be reached, empty while one can.
    lost_records: partition -> records that the topic's retention removed before they were read.
    refused_partitions: assigned, but not consumed, since the group's offsets are behind what is counted already.
    remembered: partition -> the span ids that are remembered of it, where repeated spans are looked for.
    """

    replica_id: str
    guarantee: str
    started_at_s: float
    lag: Mapping[int, Lag]
    stage_seconds: Mapping[str, float]
    batch_sizes: Distribution
    commit_seconds: Distribution
    commits: Mapping[str, int]
    rebalances: Mapping[str, int]
    registry_requests: Mapping[str, int]
    schemas: Mapping[tuple[str, str], int]
    last_turn_at_s: float
    last_commit_at_s: float
    last_commit_ok: bool
    restore_seconds: float
    paused: bool
    not_ready: str
    unreachable: str
    lost_records: Mapping[int, int]
    refused_partitions: tuple[int, ...] = ()
    remembered: Mapping[int, DedupStats] = field(default_factory=dict)


@dataclass(slots=True)
class Recorder:
    """What the consumer thread writes as it goes."""

    replica_id: str
    guarantee: str
    started_at_s: float
    lag: dict[int, Lag] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    batch_sizes: Observations = field(default_factory=lambda: Observations(BATCH_BOUNDS))
    commit_seconds: Observations = field(default_factory=lambda: Observations(SECONDS_BOUNDS))
    commits: dict[str, int] = field(default_factory=lambda: {"ok": 0, "dropped": 0, "failed": 0})
    rebalances: dict[str, int] = field(default_factory=lambda: {"assign": 0, "revoke": 0, "lost": 0})
    registry_requests: Mapping[str, int] = field(default_factory=dict)
    schemas: Mapping[tuple[str, str], int] = field(default_factory=dict)
    last_turn_at_s: float = 0.0
    last_commit_at_s: float = 0.0
    last_commit_ok: bool = True
    restore_seconds: float = 0.0
    paused: bool = False
    not_ready: str = "starting"
    unreachable: str = ""
    lost_records: dict[int, int] = field(default_factory=dict)
    refused_partitions: tuple[int, ...] = ()
    remembered: Mapping[int, DedupStats] = field(default_factory=dict)

    def snapshot(self) -> Health:
        return Health(
            replica_id=self.replica_id,
            guarantee=self.guarantee,
            started_at_s=self.started_at_s,
            lag=dict(self.lag),
            stage_seconds=dict(self.stage_seconds),
            batch_sizes=self.batch_sizes.freeze(),
            commit_seconds=self.commit_seconds.freeze(),
            commits=dict(self.commits),
            rebalances=dict(self.rebalances),
            registry_requests=dict(self.registry_requests),
            schemas=dict(self.schemas),
            last_turn_at_s=self.last_turn_at_s,
            last_commit_at_s=self.last_commit_at_s,
            last_commit_ok=self.last_commit_ok,
            restore_seconds=self.restore_seconds,
            paused=self.paused,
            not_ready=self.not_ready,
            unreachable=self.unreachable,
            lost_records=dict(self.lost_records),
            refused_partitions=self.refused_partitions,
            remembered=dict(self.remembered),
        )


class DedupStats(NamedTuple):
    """How much is remembered of one partition: ids, how many seconds they reach back, and ids forgotten early."""

    ids: int
    seconds: int
    early: int

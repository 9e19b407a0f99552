"""The worker's own numbers, and the metrics that are made of them.

The consumer thread alone writes `WorkerStats`. It publishes copies by one reference assignment, so exposition and the
health endpoint share no lock with the loop. `WORKER_METRICS` declares each metric once: exposition and
docs/metrics.md are made from it.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, NamedTuple

from prometheus_client import Histogram

from tokentrace import __version__
from tokentrace.model.snapshot import Snapshot

#: Upper bounds of the histograms: records of a batch, and seconds of a commit.
BATCH_BOUNDS: Final = (1, 10, 100, 500, 1000, 2000, 5000, 10000, 20000)
SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Stages of the loop whose time is accounted, in the order in which a span meets them.
STAGES: Final = ("poll", "decode", "validate", "deduplicate", "index", "price", "aggregate", "commit", "pause")


class Lag(NamedTuple):
    """Lag of an assigned partition.

    records: offsets from the committed position to the end of the log. seconds: time since the oldest of the records
    was produced. stalled_s: moment on the monotonic clock since which records wait and none is committed, 0 while that
    is not so.
    """

    records: int
    seconds: float
    stalled_s: float = 0.0


class DedupStats(NamedTuple):
    """Deduplication state of a partition: ids held, seconds they reach back, ids evicted inside the window."""

    ids: int
    seconds: int
    early: int


def _histogram_over(bounds: tuple[float, ...]) -> Histogram:
    """Make a histogram that no registry knows; its line in WORKER_METRICS names it."""
    return Histogram("observations", "", buckets=bounds, registry=None)


@dataclass(slots=True, kw_only=True)
class WorkerStats:
    """Counts and state of the consumer thread.

    lag: assigned partition -> Lag; a revoked partition is not in it.
    commits: outcome (ok, dropped, failed) -> count. rebalances: event (assign, revoke, lost) -> count.
    registry_requests: outcome (ok, not_found, error) -> count.
    schemas: (schema, path) -> 1, where path is columnar or fastavro.
    truncated_letters: reason -> dead letters that refer to a message that was too large for their topic.
    started_at_s, last_commit_at_s: Unix time, 0 before the first commit.
    started_s, last_turn_s, last_commit_s: the same moments and the last turn of the loop on the monotonic clock, from
    which ages are computed: the other one may be set. not_ready: why this replica is not ready, empty when it is.
    unreachable: why no broker can be reached, empty while one can.
    recoveries: times that the Kafka clients failed and were replaced.
    refused_partitions: assigned, but not consumed, since the group's offsets are behind what is counted already.
    pending_partitions: assigned, but not read yet -> why: their offsets are not known, or the topic has no such one.
    remembered: partition -> its deduplication state; empty without worker.deduplicate.
    memory_limit: bytes that this process may use. memory_shares: place (queue, answer, batch, dead_letters, pages) ->
    bytes at most.
    budget_used, budget_limit: unit (series, bytes) -> what the groups can come to in a scrape, and the most of it.
    max_commit_age_s: time for which records of a partition may wait, and none be committed, in a replica that is ready.
    """

    replica_id: str
    guarantee: str
    started_at_s: float
    max_commit_age_s: float = math.inf
    lag: dict[int, Lag] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    batch_sizes: Histogram = field(default_factory=lambda: _histogram_over(BATCH_BOUNDS))
    commit_seconds: Histogram = field(default_factory=lambda: _histogram_over(SECONDS_BOUNDS))
    commits: dict[str, int] = field(default_factory=lambda: {"ok": 0, "dropped": 0, "failed": 0})
    rebalances: dict[str, int] = field(default_factory=lambda: {"assign": 0, "revoke": 0, "lost": 0})
    registry_requests: Mapping[str, int] = field(default_factory=dict)
    schemas: Mapping[tuple[str, str], int] = field(default_factory=dict)
    truncated_letters: Mapping[str, int] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    last_turn_s: float = 0.0
    last_commit_s: float = 0.0
    last_commit_at_s: float = 0.0
    last_commit_ok: bool = True
    restore_seconds: float = 0.0
    recoveries: int = 0
    paused: bool = False
    not_ready: str = "starting"
    unreachable: str = ""
    refused_partitions: tuple[int, ...] = ()
    pending_partitions: Mapping[int, str] = field(default_factory=dict)
    remembered: Mapping[int, DedupStats] = field(default_factory=dict)
    memory_limit: int = 0
    memory_shares: Mapping[str, int] = field(default_factory=dict)
    budget_used: Mapping[str, int] = field(default_factory=dict)
    budget_limit: Mapping[str, int] = field(default_factory=dict)

    def waiting_for(self, now_s: float) -> str:
        """Return the reason for which this replica is not ready, empty when it is. now_s: on the monotonic clock."""
        if problem := self.unreachable or self.not_ready:
            return problem
        if self.refused_partitions and set(self.refused_partitions) >= self.lag.keys():
            return f"all partitions are refused, {list(self.refused_partitions)}: the log says why"
        problems = [f"partition {p}: {reason}" for p, reason in sorted(self.pending_partitions.items())]
        stalled_s = self.stalled_seconds(now_s)
        if late := sorted(partition for partition, age_s in stalled_s.items() if age_s > self.max_commit_age_s):
            age_s = max(stalled_s[partition] for partition in late)
            problems.append(f"records of the partitions {late} wait, and none was committed for {age_s:.0f} s")
        return "; ".join(problems)

    def stalled_seconds(self, now_s: float) -> dict[int, float]:
        """Return partition -> time for which records wait and none is committed, 0 where that is not so."""
        return {
            partition: max(now_s - lag.stalled_s, 0.0) if lag.stalled_s else 0.0
            for partition, lag in sorted(self.lag.items())
        }

    def copy(self) -> WorkerStats:
        """Return a copy to publish: later changes do not reach it.

        The histograms are shared, since prometheus_client's may be read while they are observed.
        """
        changes: dict[str, Any] = {}
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, Mapping):
                changes[column.name] = dict(value)
        return replace(self, **changes)


class Moment(NamedTuple):
    """Inputs of one scrape: the published stats, the committed totals and the time on the monotonic clock."""

    stats: WorkerStats
    snapshot: Snapshot
    now_s: float


@dataclass(frozen=True, slots=True)
class WorkerMetric:
    """One metric of the worker: what it is called, and how it is read.

    name: without `tokentrace_worker_` and without the suffix that a counter or an info has in the exposition.
    get: a number, or with labels a mapping of label value (a tuple of them for several labels) -> number. An info
    gives its labels and their values, a histogram prometheus_client's.
    """

    kind: Literal["gauge", "counter", "histogram", "info"]
    name: str
    help: str
    get: Callable[[Moment], Any]
    labels: tuple[str, ...] = ()


Numbers = float | Mapping[Any, float]


def _gauge(name: str, help_: str, get: Callable[[Moment], Numbers], *labels: str) -> WorkerMetric:
    return WorkerMetric("gauge", name, help_, get, labels)


def _counter(name: str, help_: str, get: Callable[[Moment], Numbers], *labels: str) -> WorkerMetric:
    return WorkerMetric("counter", name, help_, get, labels)


def _histogram(name: str, help_: str, get: Callable[[Moment], Histogram]) -> WorkerMetric:
    return WorkerMetric("histogram", name, help_, get)


def _info(name: str, help_: str, get: Callable[[Moment], Mapping[str, str]]) -> WorkerMetric:
    return WorkerMetric("info", name, help_, get)


def _ordered(values: Mapping[Any, Any], attribute: str = "") -> dict[Any, Any]:
    """The values by ascending key, or an attribute of each."""
    return {key: getattr(value, attribute) if attribute else value for key, value in sorted(values.items())}


def _build(moment: Moment) -> dict[str, str]:
    return {"version": __version__, "python": platform.python_version(), "replica_id": moment.stats.replica_id}


def _commit_age_s(moment: Moment) -> float:
    return max(moment.now_s - (moment.stats.last_commit_s or moment.stats.started_s), 0.0)


#: Every metric of the worker, in the order of exposition. For a new one: a line here, and the place that counts it.
#: At every scrape, spans = counted + rejected + duplicate + ignored; spans = polled where a record is one span.
WORKER_METRICS: Final = (
    _info("build", "What runs here.", _build),
    _gauge("ready", "1 when this replica counts, 0 while it starts, waits or drains.",
        lambda m: not m.stats.waiting_for(m.now_s)),
    _gauge("start_time_seconds", "Unix time at which this worker started.", lambda m: m.stats.started_at_s),
    _gauge("assigned_partitions", "Partitions that this replica reads.", lambda m: len(m.stats.lag)),
    _gauge("refused_partitions",
        "Partitions that are not consumed, since the group's offsets are behind what is counted.",
        lambda m: len(m.stats.refused_partitions)),
    _gauge("pending_partitions",
        "Assigned partitions that are not consumed yet, since their offsets are not known or the topic lacks them.",
        lambda m: len(m.stats.pending_partitions)),
    _gauge("lag_records", "Records from the committed position to the end of the log, by partition.",
        lambda m: _ordered(m.stats.lag, "records"), "partition"),
    _gauge("lag_seconds", "Time since the oldest record that is not committed was produced, by partition.",
        lambda m: _ordered(m.stats.lag, "seconds"), "partition"),
    _gauge("stalled_seconds", "Time for which records wait and none is committed, 0 while they are, by partition.",
        lambda m: m.stats.stalled_seconds(m.now_s), "partition"),
    _counter("polled_records", "Records polled, and committed.",
        lambda m: _ordered(m.snapshot.partitions, "polled"), "partition"),
    _counter("spans", "Spans in the records polled; a record that cannot be read is one.",
        lambda m: _ordered(m.snapshot.partitions, "spans"), "partition"),
    _counter("counted_records", "Spans counted.",
        lambda m: _ordered(m.snapshot.partitions, "counted"), "partition"),
    _counter("rejected_records", "Records or spans not counted: dead letters, tombstones, replays of other groups.",
        lambda m: _ordered(m.snapshot.partitions, "rejected"), "partition"),
    _counter("duplicate_records", "Spans not counted, since worker.deduplicate had seen them.",
        lambda m: _ordered(m.snapshot.partitions, "duplicates"), "partition"),
    _counter("ignored_spans", "Spans of OpenTelemetry that are no calls of a model.",
        lambda m: _ordered(m.snapshot.partitions, "ignored"), "partition"),
    _counter("truncated_dead_letters", "Dead letters that refer to a message too large for their topic.",
        lambda m: _ordered(m.stats.truncated_letters), "reason"),
    _gauge("remembered_spans", "Spans that would be recognised.",
        lambda m: _ordered(m.stats.remembered, "ids"), "partition"),
    _gauge("remembered_seconds", "How far back spans would be recognised.",
        lambda m: _ordered(m.stats.remembered, "seconds"), "partition"),
    _counter("forgotten_spans", "Spans forgotten within worker.deduplicate.window, since there were more than max_ids.",
        lambda m: _ordered(m.stats.remembered, "early"), "partition"),
    _histogram("batch_records", "Records of a batch.", lambda m: m.stats.batch_sizes),
    _counter("stage_seconds", "Time of the loop by stage.", lambda m: m.stats.stage_seconds, "stage"),
    _histogram("commit_duration_seconds", "Duration of a commit.", lambda m: m.stats.commit_seconds),
    _counter("commits", "Commits by outcome.", lambda m: m.stats.commits, "outcome"),
    _gauge("last_commit_timestamp_seconds", "Unix time of the last commit, 0 before it.",
        lambda m: m.stats.last_commit_at_s),
    _gauge("last_commit_success", "1 when the last commit succeeded.", lambda m: m.stats.last_commit_ok),
    _gauge("last_commit_age_seconds", "Time since the last commit, or since the start.", _commit_age_s),
    _counter("rebalances", "Rebalances by event.", lambda m: m.stats.rebalances, "event"),
    _counter("recoveries", "Times that the Kafka clients failed and were replaced by new ones.",
        lambda m: m.stats.recoveries),
    _gauge("restore_duration_seconds", "Time that the last restore of the totals took.",
        lambda m: m.stats.restore_seconds),
    _counter("registry_requests", "Schema registry requests by outcome.",
        lambda m: m.stats.registry_requests, "outcome"),
    _gauge("paused", "1 while a partition waits for the schema registry.", lambda m: m.stats.paused),
    _gauge("schema_decoder", "1 for each writer schema met, with the path that decodes it.",
        lambda m: _ordered(m.stats.schemas), "schema", "path"),
    _gauge("series", "Series that the groups can come to.", lambda m: m.stats.budget_used.get("series", 0)),
    _gauge("series_limit", "Most series that the groups can come to: metrics.max_series.",
        lambda m: m.stats.budget_limit.get("series", 0)),
    _gauge("exposition_bytes", "Bytes that a scrape of the groups can come to, uncompressed.",
        lambda m: m.stats.budget_used.get("bytes", 0)),
    _gauge("exposition_limit_bytes",
        "Most bytes that a scrape of the groups can come to, by metrics.max_exposition_bytes and the memory limit.",
        lambda m: m.stats.budget_limit.get("bytes", 0)),
    _gauge("memory_limit_bytes", "Memory that this process may use: worker.memory_limit, or what it was found to be.",
        lambda m: m.stats.memory_limit),
    _gauge("memory_share_bytes",
        "Most bytes of messages: fetched ahead, in a broker's answer, polled, and as dead letters before their commit; "
        "and of pages on their way to scrapers.",
        lambda m: m.stats.memory_shares, "place"),
)  # fmt: skip

"""The worker's own metrics, `tokentrace_worker_*`, from its published Health and the snapshot's audit.

Few series, so they are the client library's metric objects and its own formatting. Names are declared here once.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from tokentrace import __version__
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.worker_stats import Distribution, Health

PREFIX: Final = "tokentrace_worker_"

_process = ProcessCollector(namespace="tokentrace_worker", registry=None)


def health_metrics(health: Health, snapshot: Snapshot, now_s: float) -> Iterator[Metric]:
    """Every worker family at this moment."""
    build = {"version": __version__, "python": platform.python_version(), "replica_id": health.replica_id}
    yield InfoMetricFamily(PREFIX + "build", "What runs here.", build)
    yield _gauge(
        "ready", "1 when this replica counts, 0 while it starts, waits or drains.", float(not health.not_ready)
    )
    yield _gauge("start_time_seconds", "Unix time at which this worker started.", health.started_at_s)
    yield _gauge("assigned_partitions", "Partitions that this replica reads.", len(health.lag))
    yield _gauge(
        "refused_partitions",
        "Partitions that are not consumed, since the group's offsets are behind what is counted.",
        len(health.refused_partitions),
    )
    records = GaugeMetricFamily(PREFIX + "lag_records", "Records not read yet, by partition.", labels=["partition"])
    seconds = GaugeMetricFamily(
        PREFIX + "lag_seconds",
        "Age of the position where records are left to read, by partition.",
        labels=["partition"],
    )
    for partition, lag in sorted(health.lag.items()):
        records.add_metric([str(partition)], lag.records)
        seconds.add_metric([str(partition)], lag.seconds)
    yield from (records, seconds)
    yield from _audit(snapshot)
    lost = CounterMetricFamily(
        PREFIX + "lost_records", "Records that retention removed before they were read.", labels=["partition"]
    )
    for partition, count in sorted(health.lost_records.items()):
        lost.add_metric([str(partition)], count)
    yield lost
    yield from _remembered(health)
    yield _histogram("batch_records", "Records of a batch.", health.batch_sizes)
    stages = CounterMetricFamily(PREFIX + "stage_seconds", "Time of the loop by stage.", labels=["stage"])
    for stage, spent_s in health.stage_seconds.items():
        stages.add_metric([stage], spent_s)
    yield stages
    yield _histogram("commit_duration_seconds", "Duration of a commit.", health.commit_seconds)
    yield _by("commits", "Commits by outcome.", "outcome", health.commits)
    yield _gauge("last_commit_timestamp_seconds", "Unix time of the last commit, 0 before it.", health.last_commit_at_s)
    yield _gauge("last_commit_success", "1 when the last commit succeeded.", float(health.last_commit_ok))
    since_s = now_s - (health.last_commit_at_s or health.started_at_s)
    yield _gauge("last_commit_age_seconds", "Time since the last commit, or since the start.", max(since_s, 0.0))
    yield _by("rebalances", "Rebalances by event.", "event", health.rebalances)
    yield _gauge("restore_duration_seconds", "Time that the last restore of the totals took.", health.restore_seconds)
    yield _by("registry_requests", "Schema registry requests by outcome.", "outcome", health.registry_requests)
    yield _gauge("paused", "1 while counting waits for the schema registry.", float(health.paused))
    decoders = GaugeMetricFamily(
        PREFIX + "schema_decoder",
        "1 for each writer schema met, with the path that decodes it.",
        labels=["schema", "path"],
    )
    for (schema, path), value in sorted(health.schemas.items()):
        decoders.add_metric([schema, path], value)
    yield decoders
    yield from _process.collect()


def _audit(snapshot: Snapshot) -> Iterator[Metric]:
    """Committed records by partition: at every scrape, polled = counted + rejected + duplicate."""
    for index, (name, help_) in enumerate(
        (
            ("polled_records", "Records polled, and committed."),
            ("counted_records", "Records counted as a span."),
            ("rejected_records", "Records not counted; all but tombstones are dead letters."),
            ("duplicate_records", "Spans not counted, since worker.deduplicate had seen them."),
        )
    ):
        family = CounterMetricFamily(PREFIX + name, help_, labels=["partition"])
        for partition, audit in sorted(snapshot.partitions.items()):
            family.add_metric([str(partition)], audit[index])
        yield family


def _remembered(health: Health) -> Iterator[Metric]:
    """What worker.deduplicate remembers, by partition."""
    ids = GaugeMetricFamily(PREFIX + "remembered_spans", "Spans that would be recognised.", labels=["partition"])
    seconds = GaugeMetricFamily(
        PREFIX + "remembered_seconds", "How far back spans would be recognised.", labels=["partition"]
    )
    early = CounterMetricFamily(
        PREFIX + "forgotten_spans",
        "Spans forgotten within worker.deduplicate.window, since there were more than max_ids.",
        labels=["partition"],
    )
    for partition, each in sorted(health.remembered.items()):
        ids.add_metric([str(partition)], each.ids)
        seconds.add_metric([str(partition)], each.seconds)
        early.add_metric([str(partition)], each.early)
    yield from (ids, seconds, early)


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, help_, value)


def _by(name: str, help_: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, help_, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, help_: str, distribution: Distribution) -> Metric:
    buckets, total = [], 0
    for bound, count in zip((*distribution.bounds, float("inf")), distribution.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
    return HistogramMetricFamily(PREFIX + name, help_, buckets=buckets, sum_value=distribution.sum)

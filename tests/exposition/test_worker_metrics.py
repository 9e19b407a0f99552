"""The worker's own families: every line of the table is exposed and documented."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.harness import Harness
from tokentrace.exposition import Renderer, collect_worker_metrics, docs
from tokentrace.model.snapshot import PartitionAudit
from tokentrace.model.worker_stats import WORKER_METRICS, DedupStats, Lag, Moment, WorkerMetric, WorkerStats

VALUE = "tokentrace_worker_"


def new_stats() -> WorkerStats:
    return WorkerStats(replica_id="replica-0", guarantee="exactly_once", started_at_s=5.0, started_s=5.0)


def exposed(stats: WorkerStats, partitions: dict[int, PartitionAudit] | None = None, now_s: float = 10.0) -> list[str]:
    """Samples of the worker as text, without the prefix and without those of the process."""
    snapshot = replace(Harness().ledger.snapshot, partitions=partitions or {})
    text = Renderer({}).render(snapshot, collect_worker_metrics(Moment(stats, snapshot, now_s)), "text").decode()
    return [
        line.removeprefix(VALUE)
        for line in text.splitlines()
        if line.startswith(VALUE) and not line.startswith(VALUE + "process_")
    ]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"not_ready": ""}, ["ready 1.0"]),
        ({"not_ready": "starting"}, ["ready 0.0"]),
        ({}, ["start_time_seconds 5.0", "last_commit_timestamp_seconds 0.0", "last_commit_age_seconds 5.0"]),
        ({"last_commit_at_s": 1e9}, ["last_commit_timestamp_seconds 1e+09", "last_commit_age_seconds 5.0"]),
        ({"last_commit_s": 8.0}, ["last_commit_age_seconds 2.0"]),
        ({"last_commit_ok": False, "paused": True}, ["last_commit_success 0.0", "paused 1.0"]),
        ({"restore_seconds": 0.75}, ["restore_duration_seconds 0.75"]),
        ({"refused_partitions": (1, 5)}, ["refused_partitions 2.0"]),
        ({"memory_limit": 512, "memory_shares": {"queue": 32}}, ["memory_limit_bytes 512.0"]),
        ({"memory_shares": {"queue": 32}}, ['memory_share_bytes{place="queue"} 32.0']),
        ({"budget_used": {"series": 85, "bytes": 9000}}, ["series 85.0", "exposition_bytes 9000.0"]),
        ({"budget_limit": {"series": 200, "bytes": 64}}, ["series_limit 200.0", "exposition_limit_bytes 64.0"]),
        (
            {"lag": {3: Lag(4, 1.5, 7.5), 1: Lag(0, 0.0)}},
            [
                "assigned_partitions 2.0",
                'lag_records{partition="1"} 0.0',
                'lag_records{partition="3"} 4.0',
                'lag_seconds{partition="1"} 0.0',
                'lag_seconds{partition="3"} 1.5',
                'stalled_seconds{partition="1"} 0.0',
                'stalled_seconds{partition="3"} 2.5',
            ],
        ),
        (
            {"remembered": {6: DedupStats(10, 20, 3)}},
            [
                'remembered_spans{partition="6"} 10.0',
                'remembered_seconds{partition="6"} 20.0',
                'forgotten_spans_total{partition="6"} 3.0',
            ],
        ),
        ({"stage_seconds": {"decode": 1.25}}, ['stage_seconds_total{stage="decode"} 1.25']),
        ({"commits": {"failed": 2}}, ['commits_total{outcome="failed"} 2.0']),
        ({"rebalances": {"lost": 1}}, ['rebalances_total{event="lost"} 1.0']),
        ({"registry_requests": {"not_found": 1}}, ['registry_requests_total{outcome="not_found"} 1.0']),
        (
            {"schemas": {("z", "columnar"): 1, ("a", "fastavro"): 1}},
            ['schema_decoder{path="fastavro",schema="a"} 1.0', 'schema_decoder{path="columnar",schema="z"} 1.0'],
        ),
    ],
)
def test_worker_metrics_show_what_the_worker_counted(changes: dict[str, Any], lines: list[str]) -> None:
    names = {line.partition("{")[0].partition(" ")[0] for line in lines}
    found = exposed(replace(new_stats(), **changes))
    assert [line for line in found if line.partition("{")[0].partition(" ")[0] in names] == lines


def test_worker_metrics_audit_the_committed_records_by_partition() -> None:
    audits = {2: PartitionAudit(polled=9, counted=5, rejected=3, duplicates=1), 0: PartitionAudit(7, 7, 0, 0)}
    found = [line for line in exposed(new_stats(), audits) if "_records_total{" in line]
    gaps = [line for line in found if line.startswith(("lost", "truncated", "skipped"))]
    assert len(gaps) == 6
    assert all(line.endswith(" 0") for line in gaps)
    assert found[len(gaps) :] == [
        'polled_records_total{partition="0"} 7.0',
        'polled_records_total{partition="2"} 9.0',
        'counted_records_total{partition="0"} 7.0',
        'counted_records_total{partition="2"} 5.0',
        'rejected_records_total{partition="0"} 0.0',
        'rejected_records_total{partition="2"} 3.0',
        'duplicate_records_total{partition="0"} 0.0',
        'duplicate_records_total{partition="2"} 1.0',
    ]


def test_worker_histograms_count_an_observation_in_the_first_bucket_that_takes_it() -> None:
    stats = new_stats()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 10.5):
        stats.commit_seconds.observe(seconds)
    found = [line.rpartition(" ") for line in exposed(stats) if line.startswith("commit_duration_seconds")]
    counts = {name: value for name, _, value in found}
    assert list(counts.values()) == ["2.0", *["3.0"] * 11, "4.0", "5.0", "5.0", "20.5021"]
    assert next(iter(counts)) == 'commit_duration_seconds_bucket{le="0.001"}'
    assert list(counts)[-3:] == [
        'commit_duration_seconds_bucket{le="+Inf"}',
        "commit_duration_seconds_count",
        "commit_duration_seconds_sum",
    ]


def test_worker_metrics_are_valid_openmetrics() -> None:
    snapshot = Harness().ledger.snapshot
    text = (
        Renderer({})
        .render(snapshot, collect_worker_metrics(Moment(new_stats(), snapshot, 10.0)), "openmetrics")
        .decode()
    )
    types = {family.name: family.type for family in parse_openmetrics(text)}
    assert {f"tokentrace_worker_{metric.name}": metric.kind for metric in WORKER_METRICS}.items() <= types.items()


def test_a_worker_metric_is_one_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    line = WorkerMetric("counter", "wakeups", "Times the loop woke.", lambda m: {"poll": m.stats.last_turn_s}, ("by",))
    monkeypatch.setattr("tokentrace.exposition.worker_metrics.WORKER_METRICS", (line,))
    assert exposed(replace(new_stats(), last_turn_s=3.0)) == ['wakeups_total{by="poll"} 3.0']
    assert "| `tokentrace_worker_wakeups_total` | counter | by | Times the loop woke. |" in docs.worker_families()

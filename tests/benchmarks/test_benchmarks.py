"""The benchmarks run, and their object has the keys that readers rely on. Nothing here is timed."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter

import pytest
from benchmarks.__main__ import KEYS, run
from benchmarks.baselines import FastavroDict, FastavroPrometheus
from benchmarks.effort import Effort
from benchmarks.measure import Measure, in_turns, table
from benchmarks.rig import Harness
from benchmarks.workload import HEADER, SCHEMAS, workload

from tests.services.kafka import KafkaBroker
from tokentrace.model.measures import Layout

TINY = Effort(
    repeats=1,
    process_repeats=1,
    spans=400,
    baseline_spans=100,
    distinct=2_000,
    topic_spans=30_000,
    groups=(10,),
    more_groups=(),
    series=(1_000,),
    memory_groups=(10,),
    memory_spans=1_000,
    scraped_series=1_000,
    commit_interval="10ms",
    seconds=0.5,
    guarantee_spans={"10ms": 30_000},
    alert_spans=30_000,
    restored_groups=(10,),
    rules=20,
    alert_groups=100,
    ledger_hours=1,
)


@pytest.mark.long
def test_the_object_has_every_key_and_the_table_every_figure_on_a_real_kafka(
    kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.__main__.running_broker", lambda: contextlib.nullcontext(kafka))
    figures, found = run(TINY)
    text = table(figures)
    assert [title.split()[0] for title in (figure.title for figure in figures)] == list("abcdefghijklm")
    assert all(figure.title in text for figure in figures)
    found = json.loads(json.dumps(found))
    for section, keys in KEYS.items():
        for key in keys:
            key = key.replace("10000", "10").replace("_1s", "_10ms")
            assert found[section][key] > 0, (section, key)
    assert found["machine"]["cores"] > 0


def test_without_a_kafka_what_needs_one_is_null() -> None:
    _, found = run(TINY, "ac")
    assert found["decode_aggregate"]["vs_prometheus_client"] > 0
    assert found["exposition"]["vs_prometheus_client"] > 0
    assert found["end_to_end"] == {"vs_bare_consume": None, "vs_serial_bound": None, "spans_per_s": None}
    assert found["memory"] == {"rss_mb_10000_groups": None}
    assert found["latency"] == {"p99_s": None}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_baselines_count_what_tokentrace_counts(kind: str) -> None:
    """A baseline that did less would flatter."""
    load = workload(kind, 500, 20)
    rig = Harness(load)
    snapshot = rig.commit(rig.count())
    totals = snapshot.values.sum(axis=0)
    plain, client = FastavroDict(load.schema), FastavroPrometheus(load.schema)
    plain.count(load.messages)
    client.count(load.messages)
    sums = [sum(total[column] for total in plain.totals.values()) for column in range(6)]
    names = ("spans", "cost_nano_usd", "prompt_tokens", "completion_tokens", "cached_prompt_tokens", "reasoning_tokens")
    expected = [int(totals[Layout.column(name)]) for name in names]
    assert math.isclose(sums.pop(1) * 1e9, expected.pop(1), rel_tol=1e-6)
    assert sums == expected
    in_client: Counter[str] = Counter()
    for family in client.registry.collect():
        for sample in family.samples:
            in_client[sample.name] += sample.value
    assert in_client["tokentrace_spans_total"] == 500
    assert in_client["tokentrace_tokens_total"] == expected[1] + expected[2]
    for name, histogram in snapshot.layout.histograms.items():
        count = int(totals[histogram.buckets].sum())
        assert in_client[f"tokentrace_{name}_count"] == count, name
    column = {"latency_ms": 7, "ttft_ms": 9, "prompt_tokens": 11, "completion_tokens": 12, "eval_score": 13}
    for name, histogram in snapshot.layout.histograms.items():
        buckets = [
            sum(bucket) for bucket in zip(*(total[column[name]] for total in plain.totals.values()), strict=True)
        ]
        assert buckets == totals[histogram.buckets].tolist(), name


def test_messages_are_as_large_and_the_groups_as_many_as_asked_for() -> None:
    small, default, wide, attributes = (workload(kind, 3_000, 1_000) for kind in SCHEMAS)
    assert [len(load.messages) for load in (small, default, wide, attributes)] == [3_000] * 4
    assert 140 < default.mean_bytes() - HEADER < 190
    assert small.mean_bytes() < default.mean_bytes() < wide.mean_bytes()
    assert len(wide.schema["fields"]) == 60
    rig = Harness(default)
    assert rig.commit(rig.count()).groups_count == 1_000


def test_a_ratio_is_the_median_of_the_turns_ratios() -> None:
    first, second = in_turns(3, iter([2.0, 40.0, 6.0]).__next__, iter([1.0, 10.0, 2.0]).__next__)
    assert first == Measure((2.0, 40.0, 6.0))
    assert first.over(second).median == 3.0
    assert first.text(" M/s", 2) == "3.00 M/s [1.00..20.0]"

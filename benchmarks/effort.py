"""Effort: how much of everything a run does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Effort:
    """Amount of work in a run of the benchmarks; spans are counted per turn unless another unit is given."""

    repeats: int  # turns of a figure
    process_repeats: int
    spans: int  # of the decode figure
    baseline_spans: int  # of the slower baselines
    distinct: int  # messages that the topics repeat
    topic_spans: int  # in the topic of the end-to-end figure
    groups: tuple[int, ...]
    more_groups: tuple[int, ...]  # further group counts of the end-to-end figure
    series: tuple[int, ...]
    memory_groups: tuple[int, ...]
    memory_spans: int
    scraped_series: int
    commit_interval: str  # of the end-to-end figure; a run needs several commits
    seconds: float  # of the figures that run for a fixed time
    guarantee_spans: Mapping[str, int]  # commit interval -> spans in the topic, enough for several commits
    alert_spans: int  # in the topic of the alerts
    restored_groups: tuple[int, ...]  # groups whose totals a restart reads
    rules: int
    alert_groups: int
    ledger_hours: int  # of rollups of alert_groups groups


FULL: Final = Effort(
    repeats=9,
    process_repeats=5,
    spans=200_000,
    baseline_spans=10_000,
    distinct=200_000,
    topic_spans=4_000_000,
    groups=(10, 1_000, 50_000),
    more_groups=(10_000,),
    series=(1_000, 10_000, 100_000),
    memory_groups=(1_000, 10_000, 50_000),
    memory_spans=2_000_000,
    scraped_series=100_000,
    commit_interval="1s",
    seconds=20.0,
    guarantee_spans={"100ms": 10_000_000, "1s": 10_000_000, "5s": 25_000_000},
    alert_spans=10_000_000,
    restored_groups=(10_000, 100_000),
    rules=1_000,
    alert_groups=10_000,
    ledger_hours=3,
)
QUICK: Final = Effort(
    repeats=3,
    process_repeats=1,
    spans=100_000,
    baseline_spans=5_000,
    distinct=200_000,
    topic_spans=1_200_000,
    groups=(1_000,),
    more_groups=(),
    series=(10_000,),
    memory_groups=(10_000,),
    memory_spans=500_000,
    scraped_series=100_000,
    commit_interval="300ms",
    seconds=4.0,
    guarantee_spans={"100ms": 3_000_000, "1s": 3_000_000},
    alert_spans=3_000_000,
    restored_groups=(10_000,),
    rules=1_000,
    alert_groups=10_000,
    ledger_hours=1,
)

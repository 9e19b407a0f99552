"""Effort: how much of everything a run does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Effort:
    """repeats: turns of a figure. spans: of the decode figure, a turn. baseline_spans: of the slower baselines, a turn.
    topic_spans: in the topic of the end-to-end figure. commit_interval: of the end-to-end figure; a run needs several
    commits. seconds: of the figures that go by the clock. more_groups: over which the worker is measured end to end
    besides. guarantee_spans: in the topic of the guarantees, by commit interval: enough for some commits. alert_spans:
    in the topic of the alerts. restored_groups: of which a restart reads the totals. rules, alert_groups: that are
    evaluated."""

    repeats: int
    process_repeats: int
    spans: int
    baseline_spans: int
    topic_spans: int
    groups: tuple[int, ...]
    more_groups: tuple[int, ...]
    series: tuple[int, ...]
    memory_groups: tuple[int, ...]
    memory_spans: int
    scraped_series: int
    commit_interval: str
    seconds: float
    guarantee_spans: Mapping[str, int]
    alert_spans: int
    restored_groups: tuple[int, ...]
    rules: int
    alert_groups: int


FULL: Final = Effort(
    repeats=9,
    process_repeats=5,
    spans=200_000,
    baseline_spans=10_000,
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
)
QUICK: Final = Effort(
    repeats=3,
    process_repeats=1,
    spans=100_000,
    baseline_spans=5_000,
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
)

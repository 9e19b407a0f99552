"""The quality window: the mean of the scores that were committed within the last minutes."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import LAYOUT, Harness, qualities
from tests.spanfactory import message, span
from tokentrace.aggregate.delta import Changes
from tokentrace.state.quality import QualityWindow

GPT = ("gpt-4o", "openai")


def scored(*scores: float, **fields: str) -> list[bytes | None]:
    return [message(span(cost_usd=0.0, attributes={"eval.score": score}, **fields)) for score in scores]


def test_quality_is_the_mean_over_the_window() -> None:
    rig = Harness(quality_window_s=300.0)
    rig.count([*scored(0.25, 0.5), *scored(0.0, model="claude", provider="anthropic")])
    rig.commit()
    rig.clock.now_s += 100
    rig.count(scored(0.75, 1.0, caller="other"))
    assert qualities(rig.commit()) == {GPT: 0.625, ("claude", "anthropic"): 0.0}


def test_quality_is_absent_without_scores() -> None:
    rig = Harness()
    rig.count([message(span())])
    assert qualities(rig.commit()) == {}


@pytest.mark.parametrize("by", ["refresh", "commit"])
def test_scores_leave_with_the_end_of_the_window(by: str) -> None:
    rig = Harness(quality_window_s=300.0)
    start_s = rig.clock.now_s
    rig.count(scored(0.25))
    rig.commit()
    rig.clock.now_s = start_s + 100
    rig.count(scored(0.75))
    rig.commit()
    seen = {}
    for age_s in (299, 300, 399, 400):
        rig.clock.now_s = start_s + age_s
        if by == "refresh":
            rig.ledger.refresh()
        else:
            rig.count([message(span())])
            rig.commit()
        seen[age_s] = qualities(rig.ledger.snapshot)
    assert seen == {299: {GPT: 0.5}, 300: {GPT: 0.75}, 399: {GPT: 0.75}, 400: {}}


def test_the_score_histogram_keeps_what_left_the_window() -> None:
    rig = Harness(quality_window_s=300.0)
    rig.count(scored(0.25, 0.75))
    rig.commit()
    rig.clock.now_s += 1000
    rig.ledger.refresh()
    histogram = LAYOUT.histograms["eval_score"]
    assert rig.ledger.snapshot.values[0, histogram.sum] == 1_000_000
    assert qualities(rig.ledger.snapshot) == {}


def test_a_refresh_without_change_keeps_the_snapshot() -> None:
    rig = Harness(quality_window_s=300.0)
    rig.count(scored(0.5))
    snapshot = rig.commit()
    rig.clock.now_s += 299
    rig.ledger.refresh()
    assert rig.ledger.snapshot is snapshot


def test_scores_of_a_dropped_delta_are_not_in_the_window() -> None:
    rig = Harness()
    rig.count(scored(0.5))
    rig.ledger.preview(rig.delta)
    rig.delta.clear()
    rig.count([message(span())])
    assert qualities(rig.commit()) == {}


def commit_of(scores: dict[int, int]) -> Changes:
    """Changes in which each cell has one score, in millionths, and each third cell none."""
    histogram = LAYOUT.histograms["eval_score"]
    cells = np.array(sorted(scores), np.int64)
    values = np.zeros((len(cells), LAYOUT.width), np.int64)
    for row, cell in enumerate(cells.tolist()):
        if cell % 3:
            values[row, histogram.first + cell % 11] = 1
            values[row, histogram.sum] = scores[cell]
    return Changes(cells, values)


COMMIT = st.tuples(st.integers(0, 20), st.dictionaries(st.integers(0, 8) | st.just(200), st.integers(0, 10**6)))


@given(st.lists(COMMIT, max_size=12), st.integers(1, 40))
def test_a_window_holds_the_commits_that_are_younger_than_it(
    commits: list[tuple[int, dict[int, int]]], window_s: int
) -> None:
    window = QualityWindow(LAYOUT, window_s)
    recent: deque[tuple[int, dict[int, int]]] = deque()
    now_s = 0
    for wait_s, scores in commits:
        now_s += wait_s
        window.add(commit_of(scores), now_s)
        recent.append((now_s, {cell: score for cell, score in scores.items() if cell % 3}))
        old = [score for score in recent if score[0] <= now_s - window_s]
        assert window.expire(now_s) == any(scores for _, scores in old)
        recent = deque(score for score in recent if score not in old)
        sums, counts = [0] * 250, [0] * 250
        for _, kept in recent:
            for cell, score in kept.items():
                sums[cell] += score
                counts[cell] += 1
        assert tuple(array.tolist() for array in window.copy(250)) == (sums, counts)
        assert [array.tolist() for array in window.copy(3)] == [sums[:3], counts[:3]]

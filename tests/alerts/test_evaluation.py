"""Evaluation against a simulation in plain Python that looks at the spans themselves."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.alerts.helpers import FIRST, Feed, Record, evaluation_of, rule, spans_of
from tests.alerts.oracle import METRICS, in_window, matching
from tests.harness import LAYOUT
from tests.spanfactory import span
from tokentrace.alerts.evaluation import AlertTransition
from tokentrace.alerts.rules import COST, COST_HIGH, MEASURES, NARROW, TOKENS, TOKENS_HIGH, WIDE, Rule
from tokentrace.alerts.windows import SUMS, Windows
from tokentrace.model.dimensions import Dimension
from tokentrace.model.wide import LIMIT, joined

MINUTES = 40
COMPARE = {
    "gt": lambda value, threshold: value > threshold,
    "gte": lambda value, threshold: value >= threshold,
    "lt": lambda value, threshold: value < threshold,
    "lte": lambda value, threshold: value <= threshold,
}
#: Thresholds that traffic of `random_span` crosses now and then.
THRESHOLDS: dict[str, list[float]] = {
    "total_cost": [500.0, 2000.0], "cost_per_span": [100.0, 250.0], "span_count": [4.0, 12.0],
    "error_rate": [0.1, 0.3], "error_count": [1.0, 3.0], "timeout_rate": [0.0, 0.1],
    "latency_p50": [400.0, 1000.0], "latency_p95": [1000.0, 20000.0], "latency_p99": [25000.0],
    "ttft_p95": [300.0, 900.0], "prompt_token_p95": [1000.0, 200000.0], "total_tokens": [100_000.0, 600_000.0],
    "quality_score": [0.4, 0.75],
}  # fmt: skip


def observations(metric: str, spans: list[Record]) -> int:
    if metric == "quality_score":
        return sum("eval.score" in span["attributes"] for span in spans)
    column = {"l": "latency_ms", "t": "ttft_ms"}.get(metric[0]) if metric.endswith(("p50", "p95", "p99")) else None
    return sum(bool(span[column]) for span in spans) if column and metric[:4] in ("late", "ttft") else len(spans)


def simulate(spans: list[Record], rule: Rule, last_minute: int) -> list[tuple[Any, ...]]:
    """(status, labels, at_s, value, spans) of every event up to the end of the last minute."""
    globs = {n: g for n, g in zip(("model", "provider", "caller"), rule.selection.globs, strict=True) if g}
    chosen = matching(spans, **globs, **dict(rule.selection.dimension_globs))
    first = min(span["ended_at"] for span in spans) // 60_000_000
    instances = sorted({tuple(span[label] for label in rule.selection.group_by) for span in chosen})
    firing: dict[tuple[str, ...], int] = {}
    fired: dict[tuple[str, ...], int] = {}
    events = []
    for end in range(first + 1, last_minute + 2):
        if end % rule.interval:
            continue
        at_s = end * 60
        resolved, new = [], []
        for labels in instances or ([()] if not rule.selection.group_by else []):
            selected = [s for s in chosen if tuple(s[label] for label in rule.selection.group_by) == labels]
            window = in_window(selected, at_s, rule.window * 60)
            value = METRICS[rule.metric](window)
            breached = (
                not math.isnan(value)
                and COMPARE[rule.op](value, rule.threshold)
                and observations(rule.metric, window) >= rule.min_spans
                and (window or not rule.selection.group_by)
            )
            if labels in firing and not breached:
                del firing[labels]
                resolved.append(("resolved", labels, at_s, value, len(window)))
            elif breached and labels not in firing and at_s - fired.get(labels, 0) >= rule.cooldown_s:
                firing[labels] = fired[labels] = at_s
                new.append(("firing", labels, at_s, value, len(window)))
        events += resolved + new
    return events


def same(found: list[AlertTransition], expected: list[tuple[Any, ...]]) -> None:
    key = [(event.at_s, event.status == "firing", event.labels) for event in found]
    transitions = [(at_s, status == "firing", labels) for status, labels, at_s, _, _ in expected]
    assert sorted(key) == sorted(transitions)
    values = {(e.at_s, e.status, e.labels): (e.value, e.spans) for e in found}
    for status, labels, at_s, value, count in expected:
        assert values[at_s, status, labels] == (pytest.approx(value, rel=1e-9, nan_ok=True), count)


RULES = st.builds(
    lambda metric, pick, op, window, interval, cooldown, min_spans, glob, group_by: rule(
        metric=metric, op=op, threshold=THRESHOLDS[metric][pick % len(THRESHOLDS[metric])], window=f"{window}m",
        **({"interval": f"{interval}m"} if interval else {}), **({"cooldown": f"{cooldown}m"} if cooldown else {}),
        min_spans=min_spans, filter=glob, group_by=group_by,
    ),
    st.sampled_from(sorted(METRICS)), st.integers(0, 1), st.sampled_from(sorted(COMPARE)), st.integers(1, 25),
    st.integers(0, 4), st.integers(0, 12), st.integers(0, 6),
    st.sampled_from([{}, {"model": "GPT-*"}, {"provider": "*"}, {"caller": "?*", "model": "*o*"}, {"model": "none"}]),
    st.sampled_from([(), ("model",), ("caller", "provider")]),
)  # fmt: skip


@given(RULES, st.integers(0, 1 << 20), st.integers(1, 120), st.integers(1, 7))
def test_evaluation_fires_as_the_oracle_does(rule: Rule, seed: int, count: int, step: int) -> None:
    """The result depends neither on the rule nor on the steps of event time, one minute or seven."""
    spans = spans_of(seed, count, MINUTES)
    evaluation = evaluation_of(rule)
    feed = Feed(evaluation)
    events = []
    random.Random(seed).shuffle(spans)
    for last in range(FIRST + step - 1, FIRST + MINUTES + step, step):
        assert feed.give(span for span in spans if last - step < span["ended_at"] // 60_000_000 <= last) == 0
        minute = min(last, FIRST + MINUTES - 1)
        if evaluation.windows.now is None and evaluation.windows.first_minute is None:
            continue
        events += evaluation.advance(minute)
    same(events, simulate(spans, rule, FIRST + MINUTES - 1))
    assert evaluation.states["r"].firings == sum(event.status == "firing" for event in events)


@pytest.mark.parametrize("group_by", [(), ("retry",), ("model", "user"), ("retry", "caller")])
@pytest.mark.parametrize("glob", [{}, {"user": "U1*"}, {"model": "gpt-*", "retry": "[01]"}, {"user": "none"}])
def test_evaluation_by_dimensions_fires_as_the_oracle_does(glob: dict[str, str], group_by: tuple[str, ...]) -> None:
    chosen = rule(metric="span_count", threshold=2.0, window="4m", filter=glob, group_by=group_by)
    spans = spans_of(len(glob) + 10 * len(group_by), 300, MINUTES)
    evaluation = evaluation_of(chosen, rule("other", threshold=1e9))
    feed = Feed(evaluation, [Dimension(name, f"attributes.{name}") for name in ("user", "retry", "stream")])
    feed.give(spans)
    # Where the oracle looks for labels.
    labelled = [{**one, "user": one["attributes"]["user"], "retry": str(one["attributes"]["retry"])} for one in spans]
    same(evaluation.advance(FIRST + MINUTES - 1), simulate(labelled, chosen, FIRST + MINUTES - 1))


def test_rule_without_dimensions_keeps_the_digest_that_it_had() -> None:
    """It names the alerts of earlier releases."""
    assert rule(filter={"model": "gpt-*"}, group_by=("caller",)).subject == "48441f08c2f1adae"
    assert rule(filter={"team": "a"}).subject != rule(filter={}).subject


def test_evaluation_fires_and_resolves_a_continuing_breach_once() -> None:
    spans = [{**span, "cost_usd": 3.0} for span in spans_of(1, 200, 20)]
    evaluation = evaluation_of(rule(window="1m", threshold=2.0))
    Feed(evaluation).give(spans)
    events = evaluation.advance(FIRST + 25)
    assert [event.status for event in events] == ["firing", "resolved"]
    assert [event.at_s // 60 - FIRST for event in events] == [1, 21]


def test_evaluation_counts_late_spans_in_the_windows_of_their_minute() -> None:
    evaluation = evaluation_of(rule(metric="span_count", window="5m", op="gte", threshold=3))
    feed = Feed(evaluation)
    spans = [{**span, "ended_at": FIRST * 60_000_000 + 5} for span in spans_of(2, 3, 1)]
    assert feed.give(spans[:1]) == 0
    assert evaluation.advance(FIRST + 2) == []
    assert feed.give(spans[1:]) == 2
    assert [(event.at_s // 60 - FIRST, event.value) for event in evaluation.advance(FIRST + 9)] == [(4, 3.0), (6, 0.0)]
    assert feed.give(spans) == 3, "far too late for any window"
    assert evaluation.windows.first_minute is None


def test_evaluation_of_absurd_costs_is_exact() -> None:
    """20,000 spans of 999,999 USD in each of two minutes: more than 64 bits of nano-USD, then none."""
    evaluation = evaluation_of(
        rule("cost", window="2m", threshold=0.0), rule("each", metric="cost_per_span", window="1m", threshold=0.0)
    )
    feed = Feed(evaluation)
    for minute in (FIRST, FIRST + 1):
        feed.give([span(cost_usd=999_999.0, ended_at=minute * 60_000_000 + 5)] * 20_000)
    found = []
    for minute in range(FIRST, FIRST + 5):
        evaluation.advance(minute)
        found.append([evaluation.states[name].value for name in ("cost", "each")])
    whole = 20_000 * 999_999.0
    assert found == [[whole, 999_999.0], [2 * whole, 999_999.0], [whole, None], [None, None], [None, None]]


def exact(sums: Any, low: int, high: int) -> list[int]:
    numbers: list[int] = (joined(sums[:, low], sums[:, high]) if sums.shape[1] == WIDE else sums[:, low]).tolist()
    return numbers


def test_windows_of_ordinary_spans_stay_narrow() -> None:
    evaluation = evaluation_of(rule(window="5m"))
    Feed(evaluation).give(spans_of(1, 500, 5))
    evaluation.advance(FIRST + 5)
    assert evaluation.windows.sums(5, SUMS, 1).shape == (1, NARROW)


LARGEST_ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, LIMIT - 1) | st.just(LIMIT - 1)), max_size=30
)


@given(LARGEST_ROWS, st.integers(1, 4))
def test_windows_of_the_largest_rows_are_exact(rows: list[tuple[int, int, int]], window: int) -> None:
    """rows: (minute, group, cost and both token counts). Some come before their minute is complete, some late."""
    windows = Windows(LAYOUT, [rule(window=f"{window}m"), rule(window="5m")])
    cost, prompt, completion = (LAYOUT.column(name) for name in ("cost_nano_usd", "prompt_tokens", "completion_tokens"))
    large = np.isin(windows.columns.needed, [cost, prompt, completion])
    given_rows = []
    for step in range(8):
        if step == 2:
            windows.begin(1)
        elif step > 2:
            windows.advance()
        for minute, group, amount in rows[step::8]:
            windows.add(minute, np.array([group]), 0, np.where(large, amount, 1)[None])
            given_rows.append((minute, group, amount))
        if windows.now is None:
            continue
        for length in {window, 5}:
            sums = windows.sums(length, SUMS, 3)
            expected = [0, 0, 0]
            for minute, group, amount in given_rows:
                if windows.now - length < minute <= windows.now:
                    expected[group] += amount
            assert exact(sums, COST, COST_HIGH) == expected
            assert exact(sums, TOKENS, TOKENS_HIGH) == [2 * number for number in expected]


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_windows_read_again_equal_the_windows_before(cut: int) -> None:
    """A successor continues at any minute exactly as its predecessor would have."""
    rules = [
        rule("a", metric="latency_p95", window="12m", threshold=5000),
        rule("b", metric="quality_score", op="lt", window="3m", threshold=0.6, group_by=["model"]),
        rule("c", metric="total_cost", window="25m", threshold=1500.0),
    ]
    spans = spans_of(cut, 400, MINUTES)
    whole, before, after = evaluation_of(*rules), evaluation_of(*rules), evaluation_of(*rules)
    Feed(whole).give(spans)
    Feed(before).give(spans)
    kept = [span for span in spans if span["ended_at"] // 60_000_000 > FIRST + cut - 25]
    Feed(after).give(kept)
    expected = whole.advance(FIRST + MINUTES)
    events = before.advance(FIRST + cut)
    after.windows.begin(FIRST + cut)
    after.states = before.states
    events += after.advance(FIRST + MINUTES)
    assert [(e.rule.name, e.status, e.labels, e.at_s, e.spans) for e in events] == [
        (e.rule.name, e.status, e.labels, e.at_s, e.spans) for e in expected
    ]
    assert [event.value for event in events] == pytest.approx([event.value for event in expected], nan_ok=True)


def test_alert_transition_has_the_same_id_in_every_process() -> None:
    event = AlertTransition("firing", rule(), ("x",), 60, 1.0, 2)
    assert event.id("g") == AlertTransition("firing", rule(), ("x",), 60, 5.0, 9).id("g")
    others = [
        AlertTransition("resolved", rule(), ("x",), 60, 1.0, 2).id("g"),
        AlertTransition("firing", rule(), ("y",), 60, 1.0, 2).id("g"),
        AlertTransition("firing", rule(), ("x",), 120, 1.0, 2).id("g"),
        event.id("h"),
        AlertTransition("firing", rule(threshold=2), ("x",), 60, 1.0, 2).id("g"),
    ]  # fmt: skip
    assert len({event.id("g"), *others}) == 6


def test_measures_cover_every_metric() -> None:
    assert set(MEASURES) == set(METRICS) == set(THRESHOLDS)


def test_instance_without_spans_in_the_window_resolves() -> None:
    """Nobody knows all the names that there could be, so a grouped rule cannot miss one."""
    few = rule(metric="span_count", op="lt", threshold=3.0, window="2m", interval="1m", group_by=["caller"])
    evaluation = evaluation_of(few)
    ended_us = FIRST * 60_000_000 + 1
    Feed(evaluation).give([span(caller="a", started_at=ended_us, ended_at=ended_us) for _ in range(5)])
    Feed(evaluation).give([span(caller="b", started_at=ended_us, ended_at=ended_us)])
    events = evaluation.advance(FIRST + 10)
    assert [(event.status, event.labels, event.at_s // 60 - FIRST) for event in events] == [
        ("firing", ("b",), 1),
        ("resolved", ("b",), 3),
    ]


def test_rule_without_group_by_fires_on_an_empty_window() -> None:
    evaluation = evaluation_of(rule(metric="span_count", op="lt", threshold=3.0, window="2m", interval="1m"))
    ended_us = FIRST * 60_000_000 + 1
    Feed(evaluation).give([span(started_at=ended_us, ended_at=ended_us) for _ in range(5)])
    events = evaluation.advance(FIRST + 10)
    assert [(event.status, event.at_s // 60 - FIRST, event.spans) for event in events] == [("firing", 3, 0)]


@pytest.mark.parametrize(
    "other",
    [
        {"threshold": 2.0},
        {"window": "6m"},
        {"interval": "2m"},
        {"min_spans": 9},
        {"op": "gte"},
        {"metric": "span_count"},
    ],
    ids=str,
)
def test_rule_id_changes_with_what_decides_whether_the_rule_fires(other: dict[str, Any]) -> None:
    assert rule().rule_id != rule(**other).rule_id
    assert rule().rule_id == rule(severity="critical", cooldown="2h").rule_id

"""A backtest gives what live evaluation gives, and what the spans say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alerts.helpers import FIRST, spans_of
from tests.alerts.test_evaluation import same, simulate
from tests.harness import LAYOUT, Harness, raw_batch
from tests.spanfactory import message, span
from tokentrace.alerts.backtest import Backtest
from tokentrace.config import Config
from tokentrace.runtime.alerting import alert_rules

RULES: dict[str, dict[str, Any]] = {
    "spend": {"metric": "total_cost", "op": "gt", "threshold": 1500.0, "window": "25m"},
    "poor": {"metric": "quality_score", "op": "lt", "threshold": 0.6, "window": "3m", "group_by": ["model"]},
    "slow": {"metric": "latency_p95", "op": "gt", "threshold": 5000.0, "window": "12m", "cooldown": "7m"},
    "few": {"metric": "span_count", "op": "lt", "threshold": 8.0, "window": "10m", "interval": "7m"},
}


def backtest_of(**rules: dict[str, Any]) -> Backtest:
    kafka = {"bootstrap_servers": "x:1", "topic": "spans"}
    alerts = [{"name": name, **fields} for name, fields in rules.items()]
    config = Config.model_validate({"kafka": kafka, "alerts": alerts})
    rig = Harness()
    return Backtest(
        pipeline=rig.engine, groups=rig.groups, layout=LAYOUT, rules=alert_rules(config), group_id=config.kafka.group_id
    )


def give(backtest: Backtest, spans: list[dict[str, Any]], batch: int = 50) -> None:
    values = [message(span) for span in spans]
    batches = (raw_batch(values[first : first + batch]) for first in range(0, len(values), batch))
    backtest.take(batches)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_backtest_fires_what_the_spans_say(seed: int, in_order: bool) -> None:
    """Each rule is evaluated up to its first evaluation after the last span, in whatever order the spans come."""
    spans = spans_of(seed, 300, 33)
    if in_order:
        spans.sort(key=lambda span: span["ended_at"])
    backtest = backtest_of(**RULES)
    give(backtest, spans)
    events = backtest.events()
    assert backtest.spans == len(spans)
    last = max(span["ended_at"] for span in spans) // 60_000_000
    for name in RULES:
        (rule,) = (rule for rule in backtest._rules if rule.name == name)
        end = -(-(last + 1) // rule.interval) * rule.interval
        same([event for event in events if event.rule.name == name], simulate(spans, rule, end - 1))
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)


def test_backtest_of_absurd_costs_is_exact() -> None:
    """One batch is more than 64 bits of nano-USD."""
    backtest = backtest_of(spend={"metric": "total_cost", "op": "gt", "threshold": 1.0, "window": "5m"})
    give(backtest, [span(cost_usd=999_999.0)] * 20_000, batch=20_000)
    assert [(event.value, event.spans) for event in backtest.events()] == [(20_000 * 999_999.0, 20_000)]


def test_backtest_ends_with_the_first_evaluation_of_each_rule_after_the_last_span() -> None:
    busy = {"metric": "span_count", "op": "gte", "threshold": 1.0, "window": "3m"}
    backtest = backtest_of(one=busy | {"interval": "1m"}, seven=busy | {"interval": "7m", "window": "10m"})
    ended_us = (FIRST + 1) * 60_000_000
    give(backtest, [{**span, "ended_at": ended_us} for span in spans_of(1, 4, 1)])
    seventh = -(-(FIRST + 2) // 7) * 7 - FIRST
    assert seventh > 5, "by then, `one` would have resolved"
    assert [(event.rule.name, event.status, event.at_s // 60 - FIRST) for event in backtest.events()] == [
        ("one", "firing", 2),
        ("seven", "firing", seventh),
    ]


def test_backtest_without_spans_fires_nothing() -> None:
    assert backtest_of(**RULES).events() == []


def test_backtest_counts_the_spans_that_have_no_price() -> None:
    backtest = backtest_of(**RULES)
    spans = spans_of(1, 4, 1)
    give(backtest, [{**spans[0], "model": "unknown-model", "provider": "nobody", "cost_usd": None}, *spans[1:]])
    assert (backtest.spans, backtest.unpriced) == (4, 1)


def test_backtest_leaves_out_spans_without_a_possible_time() -> None:
    backtest = backtest_of(**RULES)
    batch = raw_batch([message(span) for span in spans_of(1, 4, 1)], now_s=0.0)
    backtest.take([batch])
    assert (backtest.spans, backtest.left_out, backtest.events()) == (4, 4, [])

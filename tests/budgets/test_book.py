"""Budgets over rollups: exact for every period and group, durable, and each threshold once. Without Kafka."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.alerts.helpers import FIRST, Record
from tests.alerts.rollups import Topics
from tests.budgets.oracle import nano, place_of, sums_of, thresholds_of
from tests.spanfactory import random_span
from tokentrace.alerts.ownership import Ownership
from tokentrace.budgets.budget import Budget
from tokentrace.config.budgets import BudgetSection
from tokentrace.state.schemas import decode_record

MINUTE_US = 60_000_000

BUDGETS: list[dict[str, Any]] = [
    {"name": "all", "amount": 3000, "time_zone": "Europe/Berlin"},
    {"name": "search", "amount": "1234.567890123", "period": "day", "time_zone": "Asia/Kolkata",
     "filter": {"caller": "*s*"}, "group_by": ["model"], "thresholds": [1, 50, 100, 200]},
    {"name": "callers", "amount": 5000, "period": "week", "time_zone": "America/New_York",
     "group_by": ["caller", "provider"]},
]  # fmt: skip


def budget(**fields: Any) -> Budget:
    return Budget.of(BudgetSection.model_validate({"name": "b", "amount": 10, "time_zone": "Europe/Berlin", **fields}))


def minute_of(text: str) -> int:
    """A minute in UTC, counted from FIRST."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) // 60 - FIRST


def span_at(text: str, cost_usd: float, **fields: Any) -> Record:
    ended_us = (minute_of(text) + FIRST) * MINUTE_US + 59_999_999
    return random_span(random.Random(0)) | {
        "started_at": ended_us - 1, "ended_at": ended_us, "cost_usd": cost_usd, **fields
    }  # fmt: skip


def verdicts(topics: Topics) -> dict[Any, Mapping[str, Any]]:
    found = [verdict for known in topics.budget_store().verdicts.values() for verdict in known.values()]
    return {place_of(verdict): verdict for verdict in found}


def shown(topics: Topics) -> dict[tuple[str, ...], tuple[str, str]]:
    """(period, group...) -> (verdict, spent)."""
    return {
        (period, *(value for _, value in group)): (verdict["verdict"], verdict["spent_usd"])
        for (_, period, group), verdict in verdicts(topics).items()
    }


def firings(topics: Topics) -> list[tuple[Any, int]]:
    """(place, percent) of every alert that was ever committed."""
    alerts = [decode_record(value, "budget-alert") for key, value in topics.alerts if value and b"budget-alert" in key]
    return [
        ((alert["alert"], alert["budget"]["period"], tuple(alert["group"].items())), alert["budget"]["percent"])
        for alert in alerts
    ]


def percents(topics: Topics) -> list[int]:
    return [percent for _, percent in firings(topics)]


def step(topics: Topics, *budgets: Budget, spans: Iterable[Record], until: str) -> Ownership:
    """A new owner reads all, commits and is gone."""
    topics.commit(minute_of(until), spans)
    owner = topics.acquire(budgets=budgets)
    topics.read(owner)
    topics.drain(owner)
    return owner


def traffic(seed: int, count: int, first: str, last: str) -> list[Record]:
    """Spans that ended between these times, and come in any order."""
    rng = random.Random(seed)
    begin_us, end_us = ((minute_of(text) + FIRST) * MINUTE_US for text in (first, last))
    spans = []
    for _ in range(count):
        ended_us = rng.randrange(begin_us, end_us)
        spans.append(random_span(rng) | {"started_at": ended_us - 1, "ended_at": ended_us})
    return spans


@pytest.mark.parametrize("seed", range(4))
def test_owners_that_die_at_any_point_leave_every_sum_exact_and_fire_each_threshold_once(seed: int) -> None:
    """Days with a change of clocks and a month's boundary, read while they are written, by owners that crash."""
    rng = random.Random(seed)
    spans = traffic(seed, 600, "2026-03-27 00:00", "2026-04-02 12:00")
    budgets = [Budget.of(BudgetSection.model_validate(section)) for section in BUDGETS]
    topics = Topics()
    topics.commit(minute_of("2026-03-27 00:00"))
    owner = topics.acquire(budgets=budgets)
    for number, part in enumerate(spans[first : first + 15] for first in range(0, len(spans), 15)):
        topics.commit(minute_of("2026-03-27 00:00") + number * 240, part, partition=number % 2, partitions=2)
        topics.read(owner)
        fate = rng.random()
        if fate < 0.6:
            transition = owner.pending(topics.now_s, draining=fate < 0.5)
            if transition is not None and fate >= 0.55:
                # It dies before it knows that this is committed.
                topics.alerts += transition.records
                topics.budgets += transition.budget_records
                owner = topics.acquire(budgets=budgets)
            elif transition is not None:
                topics.write(owner, transition)
        elif fate < 0.8:
            owner = topics.acquire(budgets=budgets)
    topics.read(owner)
    topics.drain(owner)
    sums = sums_of(BUDGETS, spans)
    found = verdicts(topics)
    assert {place: nano(verdict["spent_usd"]) for place, verdict in found.items()} == dict(sums.spent)
    assert {place: verdict["spans"] for place, verdict in found.items()} == dict(sums.spans)
    assert all(verdict["since"] is None for verdict in found.values())
    fired = firings(topics)
    assert len(fired) == len(set(fired))
    assert set(fired) == thresholds_of(BUDGETS, sums)
    assert {place: set(verdict["reached_percent"]) for place, verdict in found.items()} == {
        place: {percent for other, percent in fired if other == place} for place in found
    }


def test_a_span_counts_to_the_month_in_which_it_ended_however_late_it_comes() -> None:
    topics, one = Topics(), budget()
    step(topics, one, spans=[span_at("2026-08-31 21:59", 4.0)], until="2026-08-31 21:59")
    step(topics, one, spans=[span_at("2026-08-31 22:00", 1.0)], until="2026-08-31 22:10")
    assert shown(topics) == {("2026-08",): ("ok", "4"), ("2026-09",): ("ok", "1")}
    step(topics, one, spans=[span_at("2026-08-31 21:58", 4.000000001)], until="2026-09-20 00:00")
    assert shown(topics) == {("2026-08",): ("warning", "8.000000001"), ("2026-09",): ("ok", "1")}
    assert firings(topics) == [(("b", "2026-08", ()), 50), (("b", "2026-08", ()), 80)]


def test_a_closed_period_is_kept_for_a_time_and_spans_after_that_are_counted_as_expired() -> None:
    topics, one = Topics(), budget(period="day", keep="2d")
    step(topics, one, spans=[span_at("2026-08-01 10:00", 1.0)], until="2026-08-01 12:00")
    step(topics, one, spans=[span_at("2026-08-01 11:00", 1.0)], until="2026-08-03 21:58")
    assert shown(topics)["2026-08-01",] == ("ok", "2")
    owner = step(topics, one, spans=[span_at("2026-08-01 11:00", 1.0)], until="2026-08-03 22:00")
    owner = step(topics, one, spans=[span_at("2026-08-01 11:00", 1.0)], until="2026-08-03 22:01")
    assert ("2026-08-01",) not in shown(topics)
    assert owner.snapshot().budgets[0].counters.expired_spans == 1
    owner = step(topics, one, spans=[], until="2026-08-03 22:02")
    assert owner.snapshot().budgets[0].counters.expired_spans == 1


def test_groups_beyond_the_limit_are_counted_together() -> None:
    topics, one = Topics(), budget(group_by=["caller"], max_groups=2)
    for caller in "abcadb":
        owner = step(topics, one, spans=[span_at("2026-08-01 10:00", 1.0, caller=caller)], until="2026-08-01 12:00")
    assert {key[1:]: spent for key, (_, spent) in shown(topics).items()} == {
        ("a",): "2", ("b",): "2", ("__overflow__",): "2"
    }  # fmt: skip
    assert owner.snapshot().budgets[0].counters.overflowed_spans == 2


def test_a_new_budget_begins_with_the_rollups_that_are_there_and_says_since_when() -> None:
    topics = Topics()
    for day in (1, 2, 3):
        topics.commit(minute_of(f"2026-08-0{day} 12:00"), [span_at(f"2026-08-0{day} 10:00", 3.0)])
    # Retention has removed the first.
    topics.first, topics.rollups = 1, topics.rollups[1:]
    step(topics, budget(), spans=[], until="2026-08-04 00:00")
    (verdict,) = verdicts(topics).values()
    assert (verdict["spent_usd"], verdict["since"]) == ("6", "2026-08-02T12:02:00Z")
    # What is reached already in a period that goes on fires, once.
    assert percents(topics) == [50]
    step(topics, budget(), spans=[span_at("2026-09-02 10:00", 1.0)], until="2026-09-03 00:00")
    assert {period: verdict["since"] for (_, period, _), verdict in verdicts(topics).items()} == {
        "2026-08": "2026-08-02T12:02:00Z", "2026-09": None
    }  # fmt: skip


def test_a_new_budget_fires_nothing_for_periods_that_are_over() -> None:
    topics = Topics()
    topics.commit(minute_of("2026-08-03 12:00"), [span_at(f"2026-08-0{day} 10:00", 11.0) for day in (1, 2, 3)])
    step(topics, budget(period="day"), spans=[], until="2026-08-03 13:00")
    assert {place[1] for place, _ in firings(topics)} == {"2026-08-03"}
    assert {key: verdict for key, (verdict, _) in shown(topics).items()} == dict.fromkeys(
        [("2026-08-01",), ("2026-08-02",), ("2026-08-03",)], "exceeded"
    )


def test_a_changed_amount_applies_to_the_period_that_goes_on_and_arms_its_thresholds_again() -> None:
    topics = Topics()
    step(topics, budget(), spans=[span_at("2026-07-20 10:00", 9.0)], until="2026-07-20 12:00")
    step(topics, budget(), spans=[span_at("2026-08-20 10:00", 11.0)], until="2026-08-20 12:00")
    assert percents(topics) == [50, 80, 50, 80, 100]
    step(topics, budget(amount=20), spans=[], until="2026-08-20 12:01")
    assert shown(topics) == {("2026-07",): ("warning", "9"), ("2026-08",): ("warning", "11")}
    assert {verdict["limit_usd"] for verdict in verdicts(topics).values()} == {"10", "20"}
    # Half of the new amount is spent, of which the alert has told for the old one.
    assert percents(topics) == [50, 80, 50, 80, 100]
    step(topics, budget(amount=20), spans=[span_at("2026-08-20 10:00", 9.0)], until="2026-08-20 12:02")
    assert percents(topics) == [50, 80, 50, 80, 100, 80, 100]
    # A lower one is exceeded at once.
    step(topics, budget(amount=1, thresholds=[100, 150]), spans=[], until="2026-08-20 12:03")
    assert percents(topics)[7:] == [150]


def test_a_removed_budget_and_one_that_sums_other_spans_leave_nothing_behind() -> None:
    topics = Topics()
    spans = [span_at("2026-08-20 10:00", 9.0, model=name) for name in ("a", "b")]
    step(topics, budget(), budget(name="c", group_by=["model"]), spans=spans, until="2026-08-20 12:00")
    assert len(verdicts(topics)) == 3
    step(topics, budget(filter={"model": "a"}), spans=[], until="2026-08-20 12:01")
    store = topics.budget_store()
    assert {name: len(found) for name, found in store.verdicts.items() if found} == {"b": 1}
    assert [*store.budgets] == ["b"]
    assert shown(topics) == {("2026-08",): ("warning", "9")}


def test_an_owner_that_removed_what_was_there_goes_on_and_removes_nothing_more() -> None:
    topics, spans = Topics(), [span_at("2026-08-20 10:00", 1.0)]
    step(topics, budget(), spans=spans, until="2026-08-20 12:00")
    # The same key, of a budget that selects the same spans by other words.
    owner = step(topics, budget(filter={"model": "*"}), spans=spans, until="2026-08-20 12:01")
    for minute in ("2026-08-20 12:02", "2026-08-20 12:03"):
        assert shown(topics) == {("2026-08",): ("ok", "2")}
        topics.commit(minute_of(minute))
        topics.read(owner)
        topics.drain(owner)


def test_a_record_that_is_lost_makes_its_budget_begin_again() -> None:
    topics = Topics()
    spans = [span_at("2026-08-20 10:00", 9.0, model=name) for name in ("a", "b")]
    one = budget(group_by=["model"])
    step(topics, one, spans=spans, until="2026-08-20 12:00")
    del topics.budgets[next(at for at, (key, _) in enumerate(topics.budgets) if key.startswith(b'["verdict"'))]
    step(topics, one, spans=spans, until="2026-08-20 12:01")
    assert [spent for _, spent in shown(topics).values()] == ["18", "18"]


def test_budgets_continue_where_they_were_though_an_evaluator_without_them_went_on() -> None:
    topics = Topics()
    step(topics, budget(), spans=[span_at("2026-08-20 10:00", 1.0)], until="2026-08-20 12:00")
    step(topics, spans=[span_at("2026-08-20 10:00", 1.0)], until="2026-08-20 12:01")
    step(topics, budget(), spans=[span_at("2026-08-20 10:00", 1.0)], until="2026-08-20 12:02")
    assert shown(topics) == {("2026-08",): ("ok", "3")}
    assert verdicts(topics)["b", "2026-08", ()]["since"] is None


def test_a_gap_in_the_rollups_is_said_in_the_verdicts() -> None:
    topics = Topics()
    step(topics, budget(), spans=[span_at("2026-08-20 10:00", 1.0)], until="2026-08-20 12:00")
    topics.commit(minute_of("2026-08-21 12:00"), [span_at("2026-08-21 10:00", 1.0)])
    topics.first, topics.rollups = 2, []
    step(topics, budget(), spans=[span_at("2026-08-22 10:00", 1.0)], until="2026-08-22 12:00")
    (verdict,) = verdicts(topics).values()
    assert (verdict["spent_usd"], verdict["since"]) == ("2", "2026-08-22T12:02:00Z")


def test_a_budget_without_groups_has_a_verdict_before_anything_is_spent() -> None:
    topics = Topics()
    owner = topics.acquire(budgets=[budget()])
    topics.read(owner)
    for minute in ("2026-08-31 21:50", "2026-08-31 21:59"):
        topics.commit(minute_of(minute))
    topics.read(owner)
    topics.drain(owner)
    assert shown(topics) == {("2026-08",): ("ok", "0"), ("2026-09",): ("ok", "0")}


def test_gauges_are_of_the_current_period_with_a_forecast() -> None:
    topics, one = Topics(), budget(amount=100, period="day", time_zone="UTC", group_by=["caller"])
    spans = [span_at(f"2026-08-0{day} 05:00", float(day), caller="c") for day in (1, 2)]
    owner = step(topics, one, spans=spans, until="2026-08-02 05:59")
    (view,) = owner.snapshot().budgets
    (line,) = view.lines
    amounts = (line.spent_nano_usd, line.limit_nano_usd, line.forecast_nano_usd)
    assert (line.labels, amounts) == (("c",), (2 * 10**9, 100 * 10**9, 8 * 10**9))


def test_the_position_goes_on_with_event_time_where_no_verdict_changes() -> None:
    topics, one = Topics(), budget(group_by=["caller"])
    step(topics, one, spans=[span_at("2026-08-20 10:00", 5.0)], until="2026-08-20 12:00")
    before = len(topics.budgets)
    step(topics, one, spans=[], until="2026-08-20 12:30")
    written = {key: json.loads(value or b"") for key, value in topics.budgets[before:]}
    assert written == {
        b'["position"]': {"version": 1, "offset": 2, "replica": "r", "as_of": "2026-08-20T12:31:00Z"}
    }  # fmt: skip


def test_a_verdict_is_json_that_says_everything_about_its_place() -> None:
    topics, one = Topics(), budget(group_by=["caller"], thresholds=[50])
    step(topics, one, spans=[span_at("2026-08-20 10:00", 5.0, caller="c")], until="2026-08-20 12:00")
    key, value = next((key, value) for key, value in topics.budgets if key.startswith(b'["verdict"'))
    assert key == b'["verdict","b","2026-08",["c"]]'
    assert json.loads(value or b"") == {
        "version": 1, "budget": "b", "group": {"caller": "c"}, "period": "2026-08",
        "starts_at": "2026-07-31T22:00:00Z", "ends_at": "2026-08-31T22:00:00Z", "verdict": "warning",
        "spent_usd": "5", "limit_usd": "10", "reached_percent": [50], "spans": 1, "since": None,
        "as_of": "2026-08-20T12:01:00Z",
    }  # fmt: skip

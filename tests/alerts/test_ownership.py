"""Ownership: the same rollups give the same alerts, once, however often the evaluator changes."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pytest

from tests.alerts.helpers import FIRST, Record, rule, spans_of
from tests.alerts.rollups import Topics, at_s, facts, kinds
from tests.spanfactory import span
from tokentrace import __version__
from tokentrace.alerts.delivery import Outcome
from tokentrace.alerts.ownership import COMMIT_INTERVAL_S, FIRST_LOOK_BACK_S, OUTCOME_INTERVAL_S, Ownership
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.store import AlertStore, parse_key, topic_record
from tokentrace.alerts.watermark import GRACE_US, MINUTE_US
from tokentrace.state.schemas import decode_record

HTTP = {"delivery": {"type": "http", "url": "http://hook"}}
#: Fires while its window, of two minutes, holds more than five spans.
BUSY: dict[str, Any] = {"metric": "span_count", "op": "gt", "threshold": 5.0, "window": "2m", **HTTP}


def ended_in(minute: int, count: int, **fields: Any) -> list[Record]:
    ended_us = round(at_s(minute) * 1e6) + 30_000_000
    return [span(ended_at=ended_us, started_at=ended_us - 1_000, **fields) for _ in range(count)]


def busy_minutes(*minutes: int, until: int, late: int = 0) -> Topics:
    """A rollup a minute from 0 to `until`, with ten spans in each of these minutes."""
    topics = Topics()
    for minute in range(until + 1):
        topics.commit(minute, ended_in(minute, 10 if minute in minutes else 0))
    return topics


def owner_of(topics: Topics, *rules: Rule, **fields: Any) -> Ownership:
    """An owner that has evaluated all that there is, and committed nothing."""
    owner = topics.acquire(*rules, **fields)
    topics.read(owner)
    return owner


# -- taking over ---------------------------------------------------------------------------------------------------


MANY = [
    rule("slow", metric="latency_p95", window="12m", threshold=5000),
    rule("poor", metric="quality_score", op="lt", window="3m", threshold=0.6, group_by=["model"], **HTTP),
    rule("spend", metric="total_cost", window="25m", threshold=1500.0, interval="1m", cooldown="7m"),
]


@cache
def traffic() -> tuple[list[tuple[float, bytes]], list[Any]]:
    """Rollups of 40 minutes, and the alerts that an owner finds who is never interrupted."""
    topics, spans = Topics(), spans_of(7, 400, 40)
    for minute in range(40):
        topics.commit(minute, [span for span in spans if span["ended_at"] // 60_000_000 == FIRST + minute])
    owner = topics.acquire(*MANY)
    found = []
    for end in range(topics.end + 1):
        topics.read(owner, end)
        found += topics.drain(owner).alerts
    return topics.rollups, facts(found)


@pytest.mark.parametrize("committed", range(0, 40, 5))
@pytest.mark.parametrize("lost", [0, 7])
def test_ownership_taken_over_gives_the_same_alerts_once(committed: int, lost: int) -> None:
    """`committed` rollups are evaluated and committed, `lost` more are evaluated and not; another owner comes after."""
    topics = Topics()
    topics.rollups, expected = traffic()
    assert len(expected) > 30
    before = topics.acquire(*MANY)
    topics.read(before, committed)
    first = topics.drain(before).alerts
    topics.read(before, min(committed + lost, topics.end))
    found_in_vain = before.pending(topics.now_s, draining=True)
    assert found_in_vain is not None
    after = owner_of(topics, *MANY)
    second = topics.drain(after).alerts
    assert facts([*first, *second]) == expected
    assert facts(second)[: len(found_in_vain.alerts)] == facts(found_in_vain.alerts)


def test_ownership_lost_between_evaluating_and_committing_leaves_nothing() -> None:
    topics = busy_minutes(2, until=4)
    before = topics.acquire(rule(**BUSY))
    topics.read(before, 2)
    topics.drain(before)
    topics.read(before)
    vain = before.pending(topics.now_s)
    assert vain is not None
    assert kinds(vain.alerts) == [("firing", 2), ("resolved", 4)]
    assert before.undelivered() == [], "nothing is delivered before it is committed"
    after = topics.acquire(rule(**BUSY))
    topics.read(after, after.position)
    assert after.undelivered() == []
    assert (after.position, after.snapshot().states["r"].firings) == (2, 0)
    topics.read(after)
    assert facts(topics.drain(after).alerts) == facts(vain.alerts)


def test_ownership_remembers_what_is_firing() -> None:
    topics = busy_minutes(2, 3, 4, until=3)
    assert kinds(topics.drain(owner_of(topics, rule(**BUSY))).alerts) == [("firing", 2)]
    topics.commit(4, ended_in(4, 10))
    topics.commit(5)
    topics.commit(6)
    after = owner_of(topics, rule(**BUSY))
    assert kinds(topics.drain(after).alerts) == [("resolved", 6)]
    assert after.snapshot().states["r"].firings == 1


def test_ownership_remembers_a_cool_down() -> None:
    cooling = rule(**BUSY | {"window": "1m", "cooldown": "10m"})
    topics = busy_minutes(0, until=1)
    assert kinds(topics.drain(owner_of(topics, cooling)).alerts) == [("firing", 0), ("resolved", 1)]
    for minute in range(2, 13):
        topics.commit(minute, ended_in(minute, 10))
    assert kinds(topics.drain(owner_of(topics, cooling)).alerts) == [("firing", 10)]


def test_ownership_shows_the_values_of_the_owner_before_until_the_next_minute() -> None:
    topics = busy_minutes(0, until=0)
    topics.drain(owner_of(topics, rule(**BUSY), rule("other", **BUSY)))
    after = topics.acquire(rule(**BUSY), rule("other", **BUSY | {"op": "gte"}), rule("new", **BUSY))
    topics.read(after)
    shown = after.snapshot()
    assert {name: state.value for name, state in shown.states.items()} == {"r": 10.0, "other": None, "new": None}
    assert shown.time_s == at_s(1)
    topics.commit(1)
    topics.read(after)
    assert {state.value for state in after.snapshot().states.values()} == {10.0}


# -- where to read, and what fires nothing ---------------------------------------------------------------------------


def test_ownership_reads_what_the_longest_window_needs_and_evaluates_from_the_position() -> None:
    topics = busy_minutes(20, until=30)
    long = rule("long", **BUSY | {"window": "15m", "interval": "1m"})
    topics.drain(owner_of(topics, long))
    for minute in range(31, 40):
        topics.commit(minute)
    after = topics.acquire(rule(**BUSY), long)
    # 15 minutes, and two for clocks that are ahead, back from the end of minute 30.
    assert (after.start, after.position) == (13, 31)
    topics.read(after, 31)
    assert after.pending(topics.now_s, draining=True).events == ()  # type: ignore[union-attr]
    topics.read(after)
    (resolved,) = topics.drain(after).alerts
    assert (resolved["alert"], kinds([resolved])) == ("long", [("resolved", 35)])


def test_first_ownership_of_a_group_fires_nothing_of_what_is_history() -> None:
    topics = busy_minutes(5, 12, until=15)
    ten = rule(**BUSY | {"window": "10m", "interval": "1m"})
    written_s = [at for at, _ in topics.rollups]
    owner = topics.acquire(ten, started_s=written_s[15] + 1.0 + FIRST_LOOK_BACK_S)
    assert (owner.start, owner.position) == (3, 16)
    topics.read(owner)
    assert topics.drain(owner).alerts == ()
    topics.alerts.clear()
    owner = topics.acquire(ten, started_s=written_s[14] - 1.0 + FIRST_LOOK_BACK_S)
    assert (owner.start, owner.position) == (3, 14)
    topics.read(owner)
    (firing,) = topics.drain(owner).alerts
    # The history fills the windows: minutes 5 and 12 are both in the one that ends with minute 14.
    assert (kinds([firing]), firing["value"]) == ([("firing", 14)], 20.0)


def test_first_ownership_of_a_group_waits_for_rollups() -> None:
    topics = Topics()
    owner = owner_of(topics, rule(**BUSY))
    assert owner.evaluating
    transition = topics.drain(owner)
    assert (transition.alerts, transition.position) == ((), 0)
    topics.commit(0, ended_in(0, 10))
    after = owner_of(topics, rule(**BUSY))
    assert kinds(topics.drain(after).alerts) == [("firing", 0)]


@pytest.mark.parametrize(("first", "written", "position"), [(0, 3, 3), (20, 4, 20)], ids=["recreated", "retention"])
def test_ownership_goes_on_where_the_rollups_it_wanted_are_gone(
    first: int, written: int, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Before: position 10. Then the topic was recreated and has fewer records, or begins behind the position."""
    topics = busy_minutes(until=9)
    topics.drain(owner_of(topics, rule(**BUSY)))
    topics.rollups, topics.first = [], first
    for minute in range(10, 10 + written):
        topics.commit(minute, ended_in(minute, 10))
    with caplog.at_level(logging.WARNING):
        owner = topics.acquire(rule(**BUSY))
    assert f"continues at offset {position}" in caplog.text
    assert owner.position == position
    topics.commit(10 + written, ended_in(10 + written, 10))
    topics.read(owner)
    assert kinds(topics.drain(owner).alerts) == [("firing", 10)]


def test_ownership_that_finds_its_position_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    topics = busy_minutes(until=9)
    topics.drain(owner_of(topics, rule(**BUSY)))
    topics.acquire(rule(**BUSY))
    assert caplog.text == ""


def test_ownership_remembers_what_each_partition_has_reached() -> None:
    topics = Topics()
    topics.commit(0, ended_in(0, 10), partitions=2)
    topics.drain(owner_of(topics, rule(**BUSY)))
    topics.commit(1, partitions=2)
    second = owner_of(topics, rule(**BUSY))
    assert (topics.drain(second).alerts, second.snapshot().time_s) == ((), 0.0), "partition 1 is waited for"
    topics.commit(9, partition=1, partitions=2)
    third = owner_of(topics, rule(**BUSY))
    assert (kinds(topics.drain(third).alerts), third.snapshot().time_s) == ([("firing", 0)], at_s(2))


def test_ownership_remembers_a_partition_whose_rollups_it_does_not_read_again() -> None:
    topics = Topics()
    topics.commit(30, partition=1, partitions=2, written_s=at_s(0))
    for minute in range(10):
        topics.commit(minute, partitions=2)
    topics.drain(owner_of(topics, rule(**BUSY)))
    topics.commit(10, ended_in(10, 10), partitions=2)
    after = owner_of(topics, rule(**BUSY))
    assert after.start > 1
    assert kinds(topics.drain(after).alerts) == [("firing", 10)]


def test_ownership_stores_how_far_it_has_come() -> None:
    topics = busy_minutes(0, until=3)
    owner = owner_of(topics, rule(**BUSY | {"window": "10m"}), replica="replica-1")
    (value,) = (value for key, value in topics.drain(owner, 5.0).records if parse_key(key) == ("evaluator", ""))
    assert decode_record(value or b"", "alert-evaluator") == {
        "replica": "replica-1", "version": __version__, "at": 5_000_000, "heard_at": round(topics.now_s * 1e6),
        "position": 4, "minute": FIRST + 3, "source_partitions": 1,
        "reached": {"0": (FIRST + 4) * MINUTE_US + GRACE_US}, "late": 0, "clamped": 0, "values": {"r": 10.0},
    }  # fmt: skip


# -- counts ---------------------------------------------------------------------------------------------------------


def test_ownership_counts_late_and_clamped_spans_once_over_take_overs() -> None:
    topics = busy_minutes(0, until=3)
    before = owner_of(topics, rule(**BUSY | {"window": "10m"}))
    topics.commit(4, [*ended_in(1, 3), *ended_in(4, 5)], clamped=2)
    topics.read(before)
    topics.drain(before)
    assert (before.snapshot().late, before.snapshot().clamped) == (3, 2)
    after = owner_of(topics, rule(**BUSY | {"window": "10m"}))
    assert (after.snapshot().late, after.snapshot().clamped) == (3, 2)
    topics.commit(5, ended_in(2, 4), clamped=1)
    topics.read(after)
    topics.drain(after)
    assert (after.snapshot().late, after.snapshot().clamped) == (7, 3)
    assert owner_of(topics, rule(**BUSY)).snapshot().late == 7


# -- silences ---------------------------------------------------------------------------------------------------------


def silence(topics: Topics, name: str, until_s: float) -> tuple[bytes, bytes | None]:
    record = topic_record("silence", name, {"until": round(until_s * 1e6), "asked_at": 0})
    topics.alerts.append(record)
    return record


def test_silence_keeps_an_alert_from_delivery_and_not_from_the_record() -> None:
    topics = busy_minutes(0, until=0)
    owner = owner_of(topics, rule(**BUSY), rule("loud", **BUSY))
    assert owner.apply_silence(*silence(topics, "r", at_s(60)))
    transition = topics.drain(owner)
    assert {alert["alert"]: alert["silenced"] for alert in transition.alerts} == {"r": True, "loud": False}
    assert [alert["alert"] for alert, _ in transition.deliveries] == ["loud"]
    assert [alert["alert"] for alert, _ in owner.undelivered()] == ["loud"]
    assert owner.snapshot().states["r"].firings == 1
    assert owner.snapshot().silenced == {"r": at_s(60)}


def test_silence_outlives_its_owner_and_ends_in_event_time() -> None:
    topics = busy_minutes(until=1)
    topics.drain(owner_of(topics, rule(**BUSY)))
    silence(topics, "r", at_s(6))
    for minute in range(2, 10):
        topics.commit(minute, ended_in(minute, 10 if minute in (2, 7) else 0))
    transition = topics.drain(owner_of(topics, rule(**BUSY)))
    assert [(*kinds([alert]), alert["silenced"]) for alert in transition.alerts] == [
        (("firing", 2), True),
        (("resolved", 4), True),
        (("firing", 7), False),
        (("resolved", 9), False),
    ]


def test_silence_is_all_that_an_owner_takes_from_the_alerts_topic() -> None:
    """It reads its own records back: they change nothing."""
    topics = busy_minutes(0, until=0)
    owner = owner_of(topics, rule(**BUSY))
    transition = topics.drain(owner)
    before = owner.snapshot()
    assert [owner.apply_silence(key, value) for key, value in transition.records] == [False] * len(transition.records)
    assert not owner.apply_silence(b"other", None)
    assert owner.snapshot() == before


# -- deliveries ----------------------------------------------------------------------------------------------------


def test_ownership_continues_a_delivery_until_its_outcome_is_committed() -> None:
    topics = busy_minutes(0, until=0)
    before = owner_of(topics, rule(**BUSY))
    ((alert, delivery),) = topics.drain(before).deliveries
    assert (delivery.url, before.snapshot().pending) == ("http://hook", 1)
    second = owner_of(topics, rule(**BUSY))
    assert [found["id"] for found, _ in second.undelivered()] == [alert["id"]]
    second.apply_outcome(Outcome(alert["id"], "r", "delivered", 1), topics.now_s)
    assert second.undelivered() == []
    third = owner_of(topics, rule(**BUSY))
    assert [found["id"] for found, _ in third.undelivered()] == [alert["id"]], "its outcome was not committed"
    topics.drain(second)
    assert second.snapshot().pending == 0
    assert owner_of(topics, rule(**BUSY)).undelivered() == []


def test_ownership_counts_failed_rounds_over_take_overs() -> None:
    topics = busy_minutes(0, until=0)
    owner = owner_of(topics, rule(**BUSY))
    ((alert, _),) = topics.drain(owner).deliveries
    owner.apply_outcome(Outcome(alert["id"], "r", "failed", 3), topics.now_s)
    topics.drain(owner)
    owner = owner_of(topics, rule(**BUSY))
    assert owner.snapshot().delivery_failed == {"r": 1}
    assert len(owner.undelivered()) == 1
    owner.apply_outcome(Outcome(alert["id"], "r", "given_up", 9), topics.now_s)
    topics.drain(owner)
    assert (owner.snapshot().delivery_failed, owner_of(topics, rule(**BUSY)).undelivered()) == ({"r": 1}, [])


def test_ownership_does_not_deliver_what_goes_to_kafka_only() -> None:
    topics = busy_minutes(0, until=0)
    owner = owner_of(topics, rule(**BUSY | {"delivery": {"type": "kafka"}}))
    transition = topics.drain(owner)
    assert (len(transition.alerts), transition.deliveries, owner.undelivered()) == (1, (), [])
    assert owner_of(topics, rule(**BUSY)).undelivered() == [], "its rule delivered to Kafka when it fired"


# -- rules that are not what they were ---------------------------------------------------------------------------------


def test_ownership_removes_a_removed_rule_and_its_deliveries() -> None:
    topics = busy_minutes(0, until=0)
    topics.drain(owner_of(topics, rule(**BUSY), rule("gone", **BUSY)))
    after = owner_of(topics, rule(**BUSY))
    assert [alert["alert"] for alert, _ in after.undelivered()] == ["r"]
    transition = topics.drain(after)
    removed = [parse_key(key) for key, value in transition.records if value is None]
    assert removed == [("rule", "gone")]
    store = AlertStore()
    for key, value in topics.alerts:
        store.apply(key, value)
    assert set(store.rules) == {"r"}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"threshold": 8.0}, []),
        ({"threshold": 100.0}, [("resolved", 1)]),
        ({"op": "gte"}, [("firing", 1)]),
        ({"group_by": ["model"]}, [("firing", 1)]),
    ],
    ids=str,
)
def test_ownership_keeps_the_state_of_a_rule_while_its_subject_stays(changed: dict[str, Any], found: list[Any]) -> None:
    topics = busy_minutes(0, until=0)
    topics.drain(owner_of(topics, rule(**BUSY)))
    topics.commit(1, ended_in(1, 10))
    after = owner_of(topics, rule(**BUSY | changed))
    assert kinds(topics.drain(after).alerts) == found
    assert after.snapshot().states["r"].firings == 1 + (found[:1] == [("firing", 1)])


# -- when it commits ---------------------------------------------------------------------------------------------------


def test_pending_is_nothing_until_the_log_is_read_up_to_the_position() -> None:
    topics = busy_minutes(0, until=5)
    topics.drain(owner_of(topics, rule(**BUSY)))
    after = topics.acquire(rule(**BUSY))
    topics.read(after, 5)
    assert after.pending(topics.now_s, draining=True) is None
    assert [after.catch_up(6), after.catch_up(6)] == [True, False]
    transition = after.pending(topics.now_s)
    assert transition is not None
    assert (transition.events, transition.position) == ((), 6)


def test_pending_is_due_at_once_for_alerts_and_in_intervals_for_the_rest() -> None:
    topics = busy_minutes(until=3)
    owner, now_s = owner_of(topics, rule(**BUSY)), 1000.0
    first = owner.pending(now_s)
    assert first is not None, "a new rule is stored at once"
    assert {parse_key(key) for key, _ in first.records} == {("rule", "r"), ("evaluator", "")}
    topics.write(owner, first)
    assert owner.pending(now_s + 100.0) is None, "nothing has changed"
    topics.commit(4)
    topics.read(owner)
    assert owner.pending(now_s + COMMIT_INTERVAL_S - 0.01) is None
    position = owner.pending(now_s + COMMIT_INTERVAL_S)
    assert position is not None
    assert {parse_key(key) for key, _ in position.records} == {("evaluator", "")}
    topics.write(owner, position)
    now_s = position.at_s
    topics.commit(5, ended_in(5, 10))
    topics.read(owner)
    alerts = owner.pending(now_s)
    assert alerts is not None
    ((alert, _),) = alerts.deliveries
    assert {parse_key(key) for key, _ in alerts.records} == {("alert", alert["id"]), ("rule", "r"), ("evaluator", "")}
    topics.write(owner, alerts)
    owner.apply_outcome(Outcome(alert["id"], "r", "delivered", 1), now_s)
    assert owner.pending(now_s + OUTCOME_INTERVAL_S - 0.01) is None
    outcome = owner.pending(now_s + OUTCOME_INTERVAL_S)
    assert outcome is not None
    assert {parse_key(key) for key, _ in outcome.records} == {("delivery", alert["id"]), ("evaluator", "")}


def test_pending_changes_nothing() -> None:
    topics = busy_minutes(0, until=0)
    owner = owner_of(topics, rule(**BUSY))
    assert owner.pending(topics.now_s) == owner.pending(topics.now_s)


def test_snapshot_stays_as_it_was_committed() -> None:
    topics = busy_minutes(0, until=0)
    owner = owner_of(topics, rule(**BUSY))
    topics.drain(owner)
    shown = owner.snapshot()
    assert [instance.firing for instance in shown.states["r"].instances.values()] == [True]
    silence_ = silence(topics, "r", at_s(9))
    topics.commit(3)
    topics.read(owner)
    owner.apply_silence(*silence_)
    topics.drain(owner)
    assert [instance.firing for instance in shown.states["r"].instances.values()] == [True]
    assert (shown.states["r"].value, shown.silenced) == (10.0, {})
    assert owner.snapshot().states["r"].value is None

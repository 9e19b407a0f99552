"""The store: what a new evaluator knows of the one before, and what it makes of rules that are not what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Message

from tests.alerts.helpers import FIRST, Feed, evaluation_of, rule
from tests.kafka.fakes import ScriptedClients
from tests.spanfactory import span
from tokentrace.alerts.evaluation import AlertTransition, Evaluation
from tokentrace.alerts.payload import alert_record
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.store import KEPT_US, AlertStore, alert_kind, parse_key, rule_record, rule_state, topic_record
from tokentrace.state.schemas import record_schemas

NOW_US = FIRST * 60_000_000


def in_minute(minute: int, count: int, **fields: Any) -> list[dict[str, Any]]:
    ended_us = (FIRST + minute) * 60_000_000 + 30_000_000
    return [span(ended_at=ended_us, started_at=ended_us - 1_000, **fields) for _ in range(count)]


def handed_over(before: Evaluation, *rules: Rule) -> Evaluation:
    """Return an evaluation that continues with these rules from the stored state."""
    store = AlertStore()
    for name, state in before.states.items():
        known = next(rule for rule in before.rules if rule.name == name)
        store.apply(*topic_record("rule", name, rule_record(known, state, 3)))
    after = evaluation_of(*rules)
    for changed_rule in rules:
        if changed_rule.name in store.rules:
            after.states[changed_rule.name] = rule_state(changed_rule, store.rules[changed_rule.name])
    return after


def fired_then_changed(first: Rule, second: Rule) -> list[AlertTransition]:
    """Return the transitions of the minute after a hand-over; `first` was firing over ten spans a minute."""
    before = evaluation_of(first)
    Feed(before).give(in_minute(0, 10))
    assert [event.status for event in before.advance(FIRST)] == ["firing"]
    after = handed_over(before, second)
    feed = Feed(after)
    # The windows are read again from the rollups.
    feed.give(in_minute(0, 10))
    after.windows.begin(FIRST)
    feed.give(in_minute(1, 10))
    return after.advance(FIRST + 1)


BASE: dict[str, Any] = {"metric": "span_count", "op": "gt", "threshold": 5.0, "window": "5m"}


@pytest.mark.parametrize(
    "changed",
    [{}, {"threshold": 8.0}, {"window": "2m"}, {"cooldown": "1h"}, {"severity": "critical"}, {"min_spans": 2}],
    ids=str,
)
def test_tuned_rule_that_is_firing_does_not_fire_again(changed: dict[str, Any]) -> None:
    assert fired_then_changed(rule(**BASE), rule(**{**BASE, **changed})) == []


@pytest.mark.parametrize("changed", [{"threshold": 1000.0}, {"min_spans": 100}, {"window": "1m", "threshold": 10.0}])
def test_tuned_rule_resolves_alerts_below_its_threshold(changed: dict[str, Any]) -> None:
    (event,) = fired_then_changed(rule(**BASE), rule(**{**BASE, **changed}))
    assert event.status == "resolved"


@pytest.mark.parametrize(
    "changed",
    [
        {"metric": "error_count"},
        {"op": "lt"},
        {"filter": {"model": "none*"}},
        {"metric": "total_tokens", "threshold": 1e9},
    ],
    ids=str,
)
def test_rule_state_of_a_changed_subject_is_dropped(changed: dict[str, Any]) -> None:
    assert fired_then_changed(rule(**BASE), rule(**{**BASE, **changed})) == []


def test_rule_state_of_a_changed_subject_lets_the_rule_fire() -> None:
    (event,) = fired_then_changed(rule(**BASE), rule(**{**BASE, "group_by": ["model"]}))
    assert (event.status, event.labels) == ("firing", (span()["model"],))


def test_rule_state_holds_the_cool_down() -> None:
    cooling = rule(**BASE | {"window": "1m", "cooldown": "10m"})
    before = evaluation_of(cooling)
    Feed(before).give(in_minute(0, 10))
    assert [event.status for event in before.advance(FIRST + 1)] == ["firing", "resolved"]
    after = handed_over(before, cooling)
    after.windows.begin(FIRST + 1)
    feed = Feed(after)
    fired = []
    for minute in range(2, 14):
        feed.give(in_minute(minute, 10))
        fired += [(minute, event.status) for event in after.advance(FIRST + minute)]
    assert fired == [(10, "firing")]


def test_rule_state_keeps_counts_when_the_subject_changes() -> None:
    known = rule(**BASE)
    before = evaluation_of(known)
    Feed(before).give(in_minute(0, 10))
    before.advance(FIRST)
    record = rule_record(known, before.states["r"], 3)
    other = rule_state(rule(**{**BASE, "op": "lt"}), record)
    assert (other.firings, other.fired_at_s, other.instances) == (1, (FIRST + 1) * 60, {})


def event_of(of_rule: Rule, minute: int) -> AlertTransition:
    return AlertTransition("firing", of_rule, (), (FIRST + minute) * 60, 7.0, 7)


def test_pending_alerts_are_those_without_an_outcome() -> None:
    http = {"delivery": {"type": "http", "url": "http://hook"}}
    rules = {
        "waits": rule("waits", **BASE, **http),
        "done": rule("done", **BASE, **http),
        "topic": rule("topic", **BASE, delivery={"type": "kafka"}),
        "quiet": rule("quiet", **BASE, **http),
    }
    store = AlertStore()
    for name, of_name in rules.items():
        record = alert_record(event_of(of_name, 0), "g", NOW_US / 1e6, silenced=name == "quiet")
        store.apply(*topic_record("alert", record["id"], record))
        if name == "done":
            store.apply(*topic_record("delivery", record["id"], {"outcome": "delivered", "at": NOW_US, "tries": 1}))
    assert [record["alert"] for record in store.pending()] == ["waits"]


def test_store_expires_old_alerts_and_removed_rules() -> None:
    here, gone = rule("here", **BASE), rule("gone", **BASE)
    store = AlertStore()
    for stored_rule in (here, gone):
        state = evaluation_of(stored_rule).states[stored_rule.name]
        store.apply(*topic_record("rule", stored_rule.name, rule_record(stored_rule, state, 0)))
        store.apply(*topic_record("silence", stored_rule.name, {"until": NOW_US, "asked_at": NOW_US}))
    records = [
        alert_record(event_of(here, minute), "g", (NOW_US - age_us) / 1e6, False)
        for minute, age_us in enumerate([KEPT_US + 1_000_000, KEPT_US - 1_000_000])
    ]
    for record in records:
        store.apply(*topic_record("alert", record["id"], record))
        store.apply(*topic_record("delivery", record["id"], {"outcome": "delivered", "at": NOW_US, "tries": 1}))
    removed = store.expired(NOW_US, ["here"], ["here", "budget"])
    assert {parse_key(key) for key, _ in removed} == {
        ("alert", records[0]["id"]), ("delivery", records[0]["id"]), ("rule", "gone"), ("silence", "gone"),
    }  # fmt: skip
    assert {value for _, value in removed} == {None}
    for key, value in removed:
        store.apply(key, value)
    assert store.expired(NOW_US, ["here"], ["here", "budget"]) == []
    assert set(store.alerts) == {records[1]["id"]}


def test_parse_key_ignores_other_keys() -> None:
    assert [parse_key(key) for key in (None, b"", b"x", b"{}", b"[]", b'["other","a"]', b"[1]")] == [None] * 7
    assert parse_key(b'["evaluator"]') == ("evaluator", "")


class AlertsTopic:
    """The alerts topic, in the place of its reader."""

    def __init__(self, *records: tuple[bytes, bytes | None]) -> None:
        self.records = records

    def read_to_end(self, _: object) -> Iterator[Message]:
        for offset, (key, value) in enumerate(self.records):
            yield Message(topic="alerts", partition=0, offset=offset, key=key, value=value)


@pytest.mark.parametrize("damage", [lambda value: b"", lambda value: value[:-1], lambda value: b"junk"])
def test_store_leaves_out_records_that_cannot_be_read_and_names_them(
    damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    silences = [topic_record("silence", name, {"until": 7_000_000, "asked_at": 0}) for name in ("a", "b", "c")]
    (key_a, value_a), (key_b, value_b), _ = silences
    topic = AlertsTopic(*silences, (key_a, damage(value_a or b"")), (key_b, damage(value_b or b"")), (key_b, value_b))
    monkeypatch.setattr("tokentrace.alerts.store.TopicReader", lambda *_: topic)
    store = AlertStore.read(ScriptedClients(), "alerts", "g")
    assert (store.silenced, store.unreadable, store.end) == ({"b": 7.0, "c": 7.0}, 1, 6)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("The record at offset 3 of topic 'alerts', partition 0, key '[\"silence\",\"a\"]' cannot")


def test_alerts_of_rules_keep_the_first_release_schema_and_those_of_budgets_have_a_kind_of_their_own() -> None:
    """Release 0.1.0 does not read schemas from headers in this topic; it passes over kinds that it does not know."""
    record = alert_record(event_of(rule("x", **BASE), 0), "g", NOW_US / 1e6, silenced=False)
    key, value = topic_record(alert_kind(record), record["id"], record)
    assert value is not None
    assert value.startswith(record_schemas().first_prefix("alert"))
    assert parse_key(key) == ("alert", record["id"])
    assert alert_kind(record | {"budget": {}}) == "budget-alert"

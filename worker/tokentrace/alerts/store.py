"""Alert store: the alerts topic. It holds alerts, outcomes of deliveries, rule states, silences, and a position.

The topic has one compacted partition. The evaluator's records are written in transactions with its position in the
rollups, so a new owner reads the state before an evaluation or after it. Any replica may write a silence.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tokentrace.alerts.evaluation import AlertInstance, RuleState
from tokentrace.alerts.rules import Rule
from tokentrace.errors import UnreadableRecord
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.reader import TopicReader
from tokentrace.state.checksums import require_intact
from tokentrace.state.headers import Headers
from tokentrace.state.schemas import decode_record, encode_record
from tokentrace.state.unreadable import RecordPlace

log = logging.getLogger(__name__)

#: The next evaluator that takes over removes alerts that were recorded longer ago than this.
KEPT_US: Final = 30 * 24 * 3600 * 1_000_000
_SCHEMAS: Final = {
    "alert": "alert",
    "budget-alert": "budget-alert",
    "delivery": "alert-delivery",
    "rule": "alert-rule",
    "evaluator": "alert-evaluator",
    "silence": "alert-silence",
}

_LEFT_OUT: Final = "the state of its rule is lost, its silence ends, or its alert is delivered again or not at all."

TopicRecord = tuple[bytes, bytes | None]


def topic_record(kind: str, name: str | None, record: Mapping[str, Any] | None) -> TopicRecord:
    """Return key and value of a record of the alerts topic. record: None is a tombstone."""
    key = json.dumps([kind] if name is None else [kind, name], separators=(",", ":"), ensure_ascii=False).encode()
    return key, None if record is None else encode_record(_SCHEMAS[kind], record)


def alert_kind(alert: Mapping[str, Any]) -> str:
    """Return the kind of an alert's record: release 0.1.0 reads those of rules, and passes over those of budgets."""
    return "budget-alert" if "budget" in alert else "alert"


def parse_key(key: bytes | None) -> tuple[str, str] | None:
    """Return (kind, name), or None for a key that is not one of this topic."""
    try:
        parts = json.loads(key or b"")
    except ValueError:
        return None
    if not isinstance(parts, list) or not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        return None
    return (parts[0], parts[1] if len(parts) == 2 else "") if parts[0] in _SCHEMAS else None


@dataclass(slots=True)
class AlertStore:
    """The topic's content: records by name, in the shape of their schemas.

    end: the offset behind the last one. unreadable: keys whose last record could not be read; they count as absent.
    """

    evaluator: Mapping[str, Any] | None = None
    rules: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    silences: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    alerts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    deliveries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    end: int = 0
    unreadable: int = 0

    @classmethod
    def read(cls, clients: KafkaClients, topic: str, group_id: str) -> AlertStore:
        """Read what is committed now; a record that cannot be read is logged, and counts as a tombstone.

        Raises FatalError if the topic cannot be read.
        """
        store = cls()
        unreadable: dict[bytes | None, str] = {}
        for message in TopicReader(clients, topic, group_id).read_to_end({0: 0}):
            key, headers = message.key(), message.headers()
            unreadable.pop(key, None)
            try:
                store.apply(key, message.value(), headers)
            except UnreadableRecord as error:
                store.apply(key, None)
                unreadable[key] = f"{RecordPlace.of(message)} cannot be read: {error}"
            store.end = (message.offset() or 0) + 1
        for line in unreadable.values():
            log.error("%s It is left out: %s", line, _LEFT_OUT)
        store.unreadable = len(unreadable)
        return store

    def apply(self, key: bytes | None, value: bytes | None, headers: Headers = None) -> None:
        """Apply the next record of the topic. Raises UnreadableRecord, and changes nothing, if it is damaged."""
        parsed = parse_key(key)
        if parsed is None:
            return
        kind, name = parsed
        record = None
        if value is not None:
            require_intact(key, value, headers)
            record = decode_record(value, _SCHEMAS[kind], headers)
        if kind == "evaluator":
            self.evaluator = record
            return
        kept = {
            "alert": self.alerts,
            "budget-alert": self.alerts,
            "delivery": self.deliveries,
            "rule": self.rules,
            "silence": self.silences,
        }[kind]
        if record is None:
            kept.pop(name, None)
        else:
            kept[name] = record

    @property
    def silenced(self) -> dict[str, float]:
        """Rule -> event time until which nothing is delivered, Unix time."""
        return {name: record["until"] / 1e6 for name, record in self.silences.items()}

    def pending(self) -> list[Mapping[str, Any]]:
        """Return the alerts that are neither delivered nor given up, oldest first."""
        return [
            alert
            for id_, alert in self.alerts.items()
            if alert["delivery"] != "kafka" and not alert["silenced"] and id_ not in self.deliveries
        ]

    def expired(self, now_us: int, rules: Collection[str], silenceable: Collection[str]) -> list[TopicRecord]:
        """Return tombstones for old alerts with their deliveries, and for what belongs to rules that were removed.

        rules, silenceable: names of rules, and of all that can be silenced.
        """
        entries = []
        for id_, alert in self.alerts.items():
            if alert["recorded_at"] < now_us - KEPT_US:
                entries += [topic_record(alert_kind(alert), id_, None), topic_record("delivery", id_, None)]
        entries += [topic_record("delivery", id_, None) for id_ in self.deliveries.keys() - self.alerts.keys()]
        entries += [topic_record("rule", name, None) for name in self.rules.keys() - set(rules)]
        entries += [
            topic_record("silence", name, None)
            for name, silence in self.silences.items()
            if name not in silenceable or silence["until"] < now_us - KEPT_US
        ]
        return entries


def rule_record(rule: Rule, state: RuleState, delivery_failed: int) -> dict[str, Any]:
    """Return a rule's state in the shape of its record."""
    return {
        "rule_id": rule.rule_id,
        "subject": rule.subject,
        "firings": state.firings,
        "fired_at": state.fired_at_s * 1_000_000,
        "delivery_failed": delivery_failed,
        "instances": [
            {"labels": list(labels), "firing": instance.firing, "fired_at": instance.fired_at_s * 1_000_000}
            for labels, instance in state.instances.items()
        ],
    }


def rule_state(rule: Rule, record: Mapping[str, Any]) -> RuleState:
    """Return the state that a record holds. A rule whose subject has changed keeps its counts only."""
    instances = record["instances"] if record["subject"] == rule.subject else []
    return RuleState(
        firings=record["firings"],
        fired_at_s=record["fired_at"] // 1_000_000,
        instances={
            tuple(instance["labels"]): AlertInstance(instance["firing"], instance["fired_at"] // 1_000_000)
            for instance in instances
        },
    )

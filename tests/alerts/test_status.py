"""Silences: the record that a replica writes, and what is said when Kafka does not take it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.harness import Clock
from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tokentrace.alerts.evaluator import EvaluatorSettings
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.status import AlertStatus
from tokentrace.alerts.store import AlertStore
from tokentrace.config.alerts import AlertRule
from tokentrace.errors import FatalError

RULE = Rule.of(
    AlertRule.model_validate({"name": "spend", "metric": "total_cost", "op": "gt", "threshold": 1, "window": "5m"})
)


def status(clients: Any) -> AlertStatus:
    settings = EvaluatorSettings(group_id="g", replica="r0", rollups_topic="g.rollups", alerts_topic="g.alerts")
    return AlertStatus(settings=settings, clients=clients, rules=[RULE], clock=Clock(1_790_000_000.0))


def test_silence_is_a_record_of_the_alerts_topic() -> None:
    clients = ScriptedClients(producer=ScriptedProducer)
    answer = status(clients).silence("spend", 3600.0)
    assert answer == {"alert": "spend", "silenced_until": "2026-09-21T15:13:20Z"}
    [record] = clients.made[0].records
    assert (record["topic"], record["partition"], json.loads(record["key"])) == ("g.alerts", 0, ["silence", "spend"])
    store = AlertStore()
    store.apply(record["key"], record["value"])
    assert store.silences["spend"]["until"] == 1_790_003_600_000_000


def test_silence_needs_a_known_rule() -> None:
    clients = ScriptedClients(producer=ScriptedProducer)
    with pytest.raises(KeyError):
        status(clients).silence("other", 3600.0)
    assert clients.made == []


@pytest.mark.parametrize("answered", [True, False])
def test_silence_says_when_kafka_does_not_accept_it(answered: bool) -> None:
    class Refusing(ScriptedProducer):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.deliver = lambda _: KafkaError(KafkaError._MSG_TIMED_OUT, "late")

        def flush(self, *_: Any) -> int:
            return super().flush() if answered else 1

    reason = "late" if answered else "no answer"
    with pytest.raises(FatalError, match=rf"Kafka did not accept the silence \({reason}\); try again"):
        status(ScriptedClients(producer=Refusing)).silence("spend", 3600.0)

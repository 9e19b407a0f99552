"""Synthetic traffic: how many spans are published, and what is said when some are not delivered."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.kafka.fakes import ScriptedClients, ScriptedProducer
from tokentrace.errors import FatalError
from tokentrace.tools.produce import produce


class Broker(ScriptedProducer):
    """A producer whose topic exists."""

    def list_topics(self, topic: str, **_: Any) -> Any:
        return type("Metadata", (), {"topics": {topic: type("Topic", (), {"error": None})}})


def test_produce_publishes_so_many_different_spans() -> None:
    clients = ScriptedClients(producer=Broker)
    done = produce(clients, "spans", rate=0, count=2500, seed=1, stopping=lambda: False)
    [producer] = clients.made
    assert done.spans == 2500
    assert {record["topic"] for record in producer.records} == {"spans"}
    assert len({record["value"] for record in producer.records}) == 2500


def test_produce_stops_when_it_is_asked_to() -> None:
    clients = ScriptedClients(producer=Broker)
    answers = iter([False, False, True])
    assert produce(clients, "spans", rate=0, count=None, seed=1, stopping=lambda: next(answers)).spans == 2000


def test_produce_says_how_many_spans_were_not_delivered() -> None:
    class Refusing(Broker):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.deliver = lambda index: KafkaError(KafkaError._MSG_TIMED_OUT, "late") if index < 2 else None

    clients = ScriptedClients(producer=Refusing)
    with pytest.raises(FatalError, match="2 of 10 spans could not be delivered to spans: late"):
        produce(clients, "spans", rate=0, count=10, seed=1, stopping=lambda: False)

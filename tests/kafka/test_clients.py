"""The client factory: what every client of tokentrace is made with."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient

from tests.kafka.fakes import Scripted
from tokentrace.errors import UsageError
from tokentrace.kafka.clients import KafkaClients

PROPERTIES = {"security.protocol": "SASL_SSL", "sasl.username": "u", "queued.min.messages": 7, "linger.ms": 99}


def scripted(**properties: Any) -> KafkaClients:
    types: Any = dict.fromkeys(("consumer_type", "producer_type", "admin_type"), Scripted)
    return KafkaClients(bootstrap_servers="x:1", client_id="r0", properties=PROPERTIES | properties, **types)


def made(client: Any) -> dict[str, Any]:
    """The configuration that a scripted client was made with."""
    assert client.logger is logging.getLogger("librdkafka"), "librdkafka would write to stderr by itself"
    assert isinstance(client.config, dict)
    return client.config


BASE = {"bootstrap.servers": "x:1", "client.id": "r0"}


def test_every_client_has_the_configured_properties_and_the_logger() -> None:
    clients = scripted()
    for client in (
        clients.consumer(group_id="g"),
        clients.producer(),
        clients.transactional_producer("t"),
        clients.admin(),
    ):
        assert {**PROPERTIES, **BASE, **made(client)} | {"linger.ms": 99} == made(client) | {"linger.ms": 99}


def test_a_consumer_reads_what_is_committed_and_commits_nothing_by_itself() -> None:
    config = made(scripted().consumer(group_id="g", defaults={"queued.min.messages": 1, "fetch.queue.backoff.ms": 2}))
    assert config | {"group.id": "g", "isolation.level": "read_committed", "enable.auto.commit": False} == config
    assert config["auto.offset.reset"] == "error"
    assert (config["queued.min.messages"], config["fetch.queue.backoff.ms"]) == (7, 2), "the configuration wins"
    assert "error_cb" not in config


def test_a_consumer_takes_its_own_settings_and_a_callback_for_errors() -> None:
    errors: list[KafkaError] = []
    config = made(scripted().consumer(group_id="g", settings={"queued.min.messages": 3}, on_error=errors.append))
    assert config["queued.min.messages"] == 3
    assert config["error_cb"] == errors.append


def test_producers_are_idempotent_and_leave_the_size_limit_to_the_broker() -> None:
    config = made(scripted().producer({"linger.ms": 5}))
    assert config | {"enable.idempotence": True, "message.max.bytes": 1_000_000_000, "linger.ms": 5} == config


def test_batches_stay_below_what_every_topic_takes_whatever_is_configured() -> None:
    sizes = {"4000000": 1_000_000, "5000": "5000"}
    for configured, used in sizes.items():
        assert made(scripted(**{"batch.size": configured}).producer())["batch.size"] == used


def test_the_library_accepts_these_settings() -> None:
    clients = KafkaClients(bootstrap_servers="127.0.0.1:1", client_id="r0")
    assert isinstance(clients.producer(), Producer)
    assert isinstance(clients.transactional_producer("t"), Producer)
    assert isinstance(clients.admin(), AdminClient)
    consumer = clients.consumer(group_id="g", on_error=lambda _: None)
    assert isinstance(consumer, Consumer)
    consumer.close()


@pytest.mark.parametrize("properties", [{"no.such.property": 1}, {"security.protocol": "sasl"}])
def test_a_property_that_the_library_rejects_is_a_usage_error(properties: dict[str, Any]) -> None:
    clients = KafkaClients(bootstrap_servers="x:1", properties=properties)
    for make in (lambda: clients.consumer(group_id="g"), clients.producer, clients.admin):
        with pytest.raises(UsageError, match=r"^kafka\.properties: "):
            make()


def test_unreachable_brokers_are_named() -> None:
    clients = KafkaClients(bootstrap_servers="a:1,b:2")
    assert clients.unreachable() == "No Kafka broker answers at a:1,b:2."
    assert clients.unreachable(KafkaError(KafkaError._TRANSPORT, "down")) == (
        "No Kafka broker answers at a:1,b:2 (down); check kafka.bootstrap_servers."
    )

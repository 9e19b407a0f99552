"""Fixtures of the publisher's tests: a broker inside the process, and publishers that are closed afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.services.provider import ProviderStandIn
from tokentrace import Publisher
from tokentrace.kafka.clients import EmbeddedBroker


@pytest.fixture(scope="session")
def broker() -> EmbeddedBroker:
    """Librdkafka's mock cluster, which nothing about exactness is tested on."""
    return EmbeddedBroker()


@pytest.fixture
def mock_topic(broker: EmbeddedBroker) -> str:
    """A new topic of it."""
    name = f"spans-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name)
    return name


@pytest.fixture
def make_publisher(broker: EmbeddedBroker, mock_topic: str) -> Iterator[Callable[..., Publisher]]:
    """Makes publishers, to the mock cluster unless told otherwise."""
    made: list[Publisher] = []

    def make(bootstrap: str = broker.bootstrap_servers, **settings: Any) -> Publisher:
        publisher = Publisher(bootstrap, mock_topic, **{"flush_on_sigterm": False, **settings})
        made.append(publisher)
        return publisher

    yield make
    for publisher in made:
        publisher.close(1.0)


@pytest.fixture
def publisher(make_publisher: Callable[..., Publisher]) -> Publisher:
    """One of them."""
    return make_publisher()


@pytest.fixture
def provider() -> Iterator[ProviderStandIn]:
    """A stand-in for the HTTP APIs of providers."""
    server = ProviderStandIn()
    yield server
    server.stop()

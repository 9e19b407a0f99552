"""Clients: the one place that makes Kafka consumers, producers and admin clients.

Each client gets the configured properties (TLS, SASL, client.rack ...), the logger that keeps librdkafka's own lines
out of the log, and the settings that exactness rests on. A caller adds what only its client needs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tokentrace.errors import UsageError
from tokentrace.kafka.causes import Causes
from tokentrace.kafka.errors import error_of
from tokentrace.model.secrets import HIDDEN, public_property
from tokentrace.model.stop import StopSignal

_Client = TypeVar("_Client")

_log: Final = logging.getLogger("librdkafka")

#: While a transaction is open, no other member can read the group's offsets, so it must end soon if its owner dies.
TRANSACTION_TIMEOUT_S: Final = 10.0

#: Offsets are explicit and committed by tokentrace alone; only committed records are read.
CONSUMER: Final[dict[str, Any]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
}

#: Longest wait for offsets inside a rebalance. What is not known by then is asked for again later.
CALLBACK_WAIT_S: Final = 30.0

#: Longest time for which a cause is asked for, and the pause before it is asked for again.
ASK_S: Final = 5.0
ASK_STEP_S: Final = 1.0
ASK_AGAIN_S: Final = 10.0

#: The limit on the size of a message is its topic's alone. A batch of several stays below the smallest that is usual.
BATCH_BYTES: Final = 1_000_000
PRODUCER: Final[dict[str, Any]] = {"enable.idempotence": True, "message.max.bytes": 1_000_000_000}

TRANSACTIONAL: Final[dict[str, Any]] = {
    "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
    "linger.ms": 5,
    "compression.type": "lz4",
    # Rebootstrapping forgets the known brokers, and librdkafka's call that sends the offsets then waits forever for
    # one of them (its issue 5511; see docs/decisions/007).
    "metadata.recovery.strategy": "none",
}


class KafkaClients:
    """Makes the clients of one process. Every method raises UsageError for a property that librdkafka rejects."""

    def __init__(
        self,
        *,
        bootstrap_servers: str,
        client_id: str = "",
        properties: Mapping[str, Any] | None = None,
        stop: StopSignal | None = None,
        consumer_type: Callable[..., Consumer] = Consumer,
        producer_type: Callable[..., Producer] = Producer,
        admin_type: Callable[..., AdminClient] = AdminClient,
        logger: logging.Logger = _log,
        ask_for_causes: bool = False,
    ) -> None:
        """properties: as configured; those that are set here win. stop: ends what waits for Kafka.

        logger: of the library's own lines. Types: for tests. ask_for_causes: try a connection to say why there is none.
        """
        self.causes = Causes()
        self._ask_for_causes, self._ask_due_s = ask_for_causes, 0.0
        self._logger = logger
        self.bootstrap_servers = bootstrap_servers
        self.stop = StopSignal() if stop is None else stop
        self._properties = dict(properties or {})
        self._base = {"bootstrap.servers": bootstrap_servers} | ({"client.id": client_id} if client_id else {})
        self._consumer_type = consumer_type
        self._producer_type = producer_type
        self._admin_type = admin_type

    def consumer(
        self,
        *,
        group_id: str,
        settings: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        on_error: Callable[[KafkaError], None] | None = None,
    ) -> Consumer:
        """Make a consumer. settings: properties that win; defaults: properties that the configuration may override.

        on_error gets errors that concern no single message; without it librdkafka logs them.
        """
        config = {**(defaults or {}), **self._properties, **self._base, **CONSUMER, "group.id": group_id}
        callbacks = {} if on_error is None else {"error_cb": on_error}
        return self._make(self._consumer_type, {**config, **(settings or {}), **callbacks})

    def producer(self, settings: Mapping[str, Any] | None = None) -> Producer:
        """Make an idempotent producer."""
        config = {**self._properties, **self._base, **PRODUCER, **(settings or {})}
        size = str(config.get("batch.size", ""))
        if size.isdigit() and int(size) > BATCH_BYTES:
            config["batch.size"] = BATCH_BYTES
        return self._make(self._producer_type, config)

    def transactional_producer(self, transactional_id: str, settings: Mapping[str, Any] | None = None) -> Producer:
        """Make a producer for transactions. Only `TransactionalProducer` uses one."""
        return self.producer({**TRANSACTIONAL, **(settings or {}), "transactional.id": transactional_id})

    def admin(self) -> AdminClient:
        """Make an admin client."""
        return self._make(self._admin_type, {**self._properties, **self._base})

    @property
    def properties(self) -> dict[str, Any]:
        """The properties that are configured."""
        return dict(self._properties)

    @property
    def callback_wait_s(self) -> float:
        """Longest wait inside a rebalance: well below the time between two polls that costs a member its partitions."""
        return min(CALLBACK_WAIT_S, float(self._properties.get("max.poll.interval.ms", 300_000)) / 1000 / 4)

    def unreachable(self, error: KafkaError | None = None) -> str:
        """Return the sentence for brokers that do not answer. error: how the request ended."""
        now_s = time.monotonic()
        if error is not None and self._ask_for_causes and now_s >= self._ask_due_s and not self.stop.is_set():
            self._ask_due_s = now_s + ASK_S + ASK_AGAIN_S
            self._ask()
        sentence = f"No Kafka broker answers at {self.bootstrap_servers}"
        if self.causes.text:
            return f"{sentence}: {_without_secrets(self.causes.text, self._properties)}."
        return f"{sentence}." if error is None else f"{sentence} ({error.str()}); check kafka.bootstrap_servers."

    def _ask(self) -> None:
        """Find the cause by a connection of its own: most clients do not say why theirs fail.

        A known cause is kept if this connection says nothing in time.
        """
        config = {**self._properties, **self._base, "group.id": "tokentrace-causes", "error_cb": self.causes.note}
        consumer = self._make(self._consumer_type, config, self.causes.logger())
        found, until_s = self.causes.found, time.monotonic() + ASK_S
        with closing(consumer):
            while self.causes.found == found and time.monotonic() < until_s and not self.stop.is_set():
                try:
                    consumer.list_topics(timeout=ASK_STEP_S)
                    self.causes.clear()
                    return
                except KafkaException:
                    # Callbacks and lines of the log wait for a poll.
                    consumer.poll(0.1)

    def _make(
        self, client_type: Callable[..., _Client], config: Mapping[str, Any], logger: logging.Logger | None = None
    ) -> _Client:
        try:
            return client_type(dict(config), logger=logger or self._logger)
        except KafkaException as failure:
            raise UsageError(f"kafka.properties: {_without_secrets(error_of(failure).str(), config)}.") from failure


def _without_secrets(text: str, config: Mapping[str, Any]) -> str:
    """Return the library's words with every secret property in them hidden."""
    for name, value in config.items():
        if str(value) and public_property(name, value) == HIDDEN:
            text = text.replace(str(value), HIDDEN)
    return text


class EmbeddedBroker:
    """librdkafka's mock cluster, inside this process, for as long as this object lives. It has no transactions."""

    def __init__(self) -> None:
        self._cluster = Producer({"test.mock.num.brokers": 1}, logger=_log)
        brokers = self._cluster.list_topics(timeout=10.0).brokers
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())

    def create_topic(self, name: str) -> None:
        """Create a topic; the mock cluster gives it 4 partitions."""
        self._cluster.list_topics(name, timeout=10.0)

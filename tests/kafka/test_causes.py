"""Causes of failed connections: what the library says, as a sentence that says what to change."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.kafka.fakes import Scripted
from tests.services import free_port
from tokentrace.kafka import clients as module
from tokentrace.kafka.causes import Causes, of_any_attempt
from tokentrace.kafka.clients import ASK_S, ASK_STEP_S, EmbeddedBroker, KafkaClients

NOT_TRUSTED = (
    "ssl://127.0.0.1:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: "
    "broker certificate could not be verified (after 2ms in state SSL_HANDSHAKE)"
)
REFUSED = "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)"


@pytest.mark.parametrize(
    ("code", "words", "change"),
    [
        (KafkaError._SSL, NOT_TRUSTED, "ssl.ca.location"),
        (
            KafkaError._TRANSPORT,
            "b:1/1: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
            "does not speak TLS",
        ),
        (KafkaError._AUTHENTICATION, "Unsupported SASL mechanism: PLAIN", "sasl.mechanism"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "Invalid username or password", "sasl.password"),
        (KafkaError._SSL, "SSL handshake failed: tlsv13 alert certificate required", "ssl.certificate.location"),
        (KafkaError._SSL, "SSL handshake failed: no shared cipher", "check its settings"),
    ],
)
def test_a_cause_says_what_to_change(code: int, words: str, change: str) -> None:
    causes = Causes()
    causes.note(KafkaError(code, words))
    assert change in causes.text
    assert "under kafka.properties" in causes.text


@pytest.mark.parametrize(
    ("state", "change"), [("APIVERSION_QUERY", "seems to speak TLS"), ("UP", "seems to ask for credentials")]
)
def test_a_connection_that_is_closed_at_once_is_a_cause_in_the_log_of_a_new_client_alone(
    state: str, change: str
) -> None:
    words = f"b:1/1: Disconnected: connection closed by peer (after 1ms in state {state})"
    causes = Causes()
    causes.note(KafkaError(KafkaError._TRANSPORT, words))
    assert causes.text == "", "a broker that was up closes connections too"
    causes.logger().info("FAIL [rdkafka#consumer-1] [thrd:b:1/1]: %s", words)
    assert change in causes.text
    assert causes.text.endswith("(Disconnected: connection closed by peer)")


def test_details_are_without_the_name_of_the_connection_and_its_time() -> None:
    causes = Causes()
    causes.note(KafkaError(KafkaError._SSL, NOT_TRUSTED))
    assert causes.text.endswith("certificate verify failed: broker certificate could not be verified)")
    assert "(SSL handshake failed: " in causes.text


def test_a_cause_holds_until_a_connection_fails_for_another_reason() -> None:
    causes = Causes()
    causes.note(KafkaError(KafkaError._SSL, NOT_TRUSTED))
    causes.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert causes.text
    causes.note(KafkaError(KafkaError._TRANSPORT, REFUSED))
    assert causes.text == ""


def test_clients_ask_for_the_cause_of_a_silence() -> None:
    broker = EmbeddedBroker()
    error = KafkaError(KafkaError._TRANSPORT, "down")
    tls = KafkaClients(
        bootstrap_servers=broker.bootstrap_servers, properties={"security.protocol": "ssl"}, ask_for_causes=True
    )
    assert "the port does not speak TLS" in tls.unreachable(error)
    nobody = KafkaClients(bootstrap_servers=f"127.0.0.1:{free_port()}", ask_for_causes=True)
    assert nobody.unreachable(error).endswith("(down); check kafka.bootstrap_servers.")


class SilentConsumer(Scripted):
    """A consumer that gets no answer in time. asked: how often it has waited for one."""

    asked = 0
    answered = False

    def list_topics(self, timeout: float) -> None:
        SilentConsumer.asked += 1
        if not self.answered:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, "down"))


class AnsweredConsumer(SilentConsumer):
    answered = True


@pytest.mark.parametrize("consumer", [SilentConsumer, AnsweredConsumer])
def test_a_known_cause_holds_until_a_broker_answers(
    monkeypatch: pytest.MonkeyPatch, consumer: type[SilentConsumer]
) -> None:
    """A look that ends without a word takes the cause away from nobody."""
    monkeypatch.setattr(SilentConsumer, "asked", 0)
    now = SimpleNamespace(monotonic=lambda: 1000.0 + SilentConsumer.asked * ASK_STEP_S)
    monkeypatch.setattr(module, "time", now)
    clients = KafkaClients(bootstrap_servers="b:1", ask_for_causes=True, consumer_type=consumer)  # type: ignore[arg-type]
    clients.causes.note(KafkaError(KafkaError._SSL, NOT_TRUSTED))
    said = clients.unreachable(KafkaError(KafkaError._TRANSPORT, "down"))
    assert ("set ssl.ca.location" in said) is not consumer.answered
    assert SilentConsumer.asked == (1 if consumer.answered else ASK_S / ASK_STEP_S)


def test_no_cause_is_looked_for_during_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SilentConsumer, "asked", 0)
    clients = KafkaClients(bootstrap_servers="b:1", ask_for_causes=True, consumer_type=SilentConsumer)  # type: ignore[arg-type]
    clients.stop.set()
    assert "No Kafka broker answers at b:1" in clients.unreachable(KafkaError(KafkaError._TRANSPORT, "down"))
    assert SilentConsumer.asked == 0


def test_a_failure_that_the_library_has_counted_is_the_same_failure() -> None:
    counted = f"{REFUSED[:-1]}, 1 identical error(s) suppressed)"
    assert of_any_attempt(counted) == of_any_attempt(REFUSED)
    assert of_any_attempt(counted) == "Connect to ipv4#127.0.0.1:1 failed: Connection refused"

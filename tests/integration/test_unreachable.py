"""Brokers that cannot be used: the worker, its readiness and the commands say what is wrong with TLS or credentials."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer

from tests.conftest import unavailable
from tests.integration.test_failures import Start, spans_counted
from tests.services import Unavailable
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for
from tests.spanfactory import message, span

pytestmark = pytest.mark.usefixtures("real_service")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    try:
        started = KafkaBroker(tmp_path_factory.mktemp("tls"), tls=True)
    except Unavailable as error:
        unavailable(str(error))
    started.start()
    yield started
    started.stop()


def test_every_command_says_what_is_wrong_with_tls_or_credentials(broker: KafkaBroker, tmp_path: Path) -> None:
    tls, login = {"security.protocol": "ssl"}, {"sasl.username": "alice", "sasl.password": "alice-secret"}
    sasl = {"security.protocol": "sasl_plaintext", **login}
    cases: list[tuple[str, dict[str, str], str]] = [
        (broker.tls_bootstrap, tls, "certificate is not trusted, or not for this name; set ssl.ca.location"),
        (broker.bootstrap, tls, "the port does not speak TLS; correct it, or security.protocol"),
        (broker.tls_bootstrap, {}, "the port seems to speak TLS; set security.protocol"),
        (broker.sasl_bootstrap, {}, "the port seems to ask for credentials; set security.protocol"),
        (broker.bootstrap, sasl | {"sasl.mechanism": "PLAIN"}, "the port takes no credentials; correct it"),
        (broker.sasl_bootstrap, sasl | {"sasl.mechanism": "SCRAM-SHA-256"}, "correct sasl.mechanism"),
        (broker.sasl_bootstrap, sasl | {"sasl.mechanism": "PLAIN", "sasl.password": "x1y2"}, "correct sasl.username"),
    ]

    def said(case: tuple[str, dict[str, str], str], command: list[str]) -> str:
        servers, properties, _ = case
        path = tmp_path / f"{command[0]}-{cases.index(case)}.yml"
        path.write_text(yaml.safe_dump({"kafka": {"bootstrap_servers": servers, "properties": properties}}))
        arguments = [sys.executable, "-m", "tokentrace", *command, "--config", str(path)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == (1 if command[0] == "config" else 2), done
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    runs = [(case, ["config", "check", "--connect"]) for case in cases] + [(cases[0], ["state", "show"])]
    with ThreadPoolExecutor(len(runs)) as pool:
        texts = list(pool.map(lambda run: said(*run), runs))
    for ((servers, _, wanted), command), text in zip(runs, texts, strict=True):
        assert f"No Kafka broker answers at {servers}: " in text, command
        assert wanted in text
        assert "x1y2" not in text


def test_a_worker_says_that_a_certificate_is_not_trusted_and_counts_once_it_is(
    broker: KafkaBroker, start_worker: Start
) -> None:
    topic = broker.create_topic("secured", 1)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(topic, message(span()))
    producer.flush()
    properties: dict[str, Any] = {"security.protocol": "ssl"}
    kafka = {"bootstrap_servers": broker.tls_bootstrap, "topic": topic, "group_id": topic}
    worker = start_worker(wait=False, kafka=kafka | {"properties": properties})
    worker.wait_for_log("certificate is not trusted, or not for this name; set ssl.ca.location under kafka.properties")
    assert wait_for(lambda: "set ssl.ca.location" in worker.get("/health/ready")[1].decode())
    worker.kill()
    worker = start_worker(kafka=kafka | {"properties": properties | {"ssl.ca.location": str(broker.ca)}})
    assert wait_for(lambda: spans_counted(worker) == 1)

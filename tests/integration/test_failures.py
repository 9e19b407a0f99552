"""Failures around a worker: one clear sentence, the right exit code, never a traceback, nothing lost."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.conftest import unavailable
from tests.integration.test_bad_input import dead_letters
from tests.oracle import recount
from tests.services import Unavailable, free_port
from tests.services.kafka import KafkaBroker
from tests.services.registry import SchemaRegistry
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tests.spanfactory import SPAN_SCHEMA, datum, message, span

pytestmark = pytest.mark.usefixtures("real_service")

Start = Callable[..., WorkerProcess]


def ended(worker: WorkerProcess) -> tuple[int, str]:
    """(exit code, last line of the log) of a worker that ends by itself; its log holds no traceback."""
    code = worker.process.wait(180.0)
    assert "Traceback" not in worker.log()
    return code, worker.log().splitlines()[-1]


def spans_counted(worker: WorkerProcess) -> int:
    return int(sum(value for (name, _), value in worker.samples().items() if name == "tokentrace_spans_total"))


def test_a_missing_broker_is_waited_for_and_named(start_worker: Start) -> None:
    address = f"127.0.0.1:{free_port()}"
    worker = start_worker(wait=False, kafka={"bootstrap_servers": address})
    worker.wait_for_log(rf"No Kafka broker answers at {address} .*check kafka.bootstrap_servers. Trying again in \d+ s")
    status, body, _ = worker.get("/health/ready")
    assert status == 503
    assert address in body.decode()
    assert worker.get("/health/live")[0] == 200
    assert worker.terminate() == 0
    assert "Traceback" not in worker.log()


def test_a_missing_topic_is_waited_for_and_then_consumed(kafka: KafkaBroker, start_worker: Start) -> None:
    topic = f"late-{free_port()}"
    worker = start_worker(wait=False, kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic})
    worker.wait_for_log(rf"Topic '{topic}' does not exist at {kafka.bootstrap}; create it or correct kafka.topic.")
    kafka.create_topic(topic, 2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, message(span()))
    producer.flush()
    worker.wait_until_ready()
    assert wait_for(lambda: spans_counted(worker) == 1)


def sasl(kafka: KafkaBroker, topic: str, password: str) -> dict[str, object]:
    return {
        "bootstrap_servers": kafka.sasl_bootstrap,
        "topic": topic,
        "group_id": topic,
        "properties": {
            "security.protocol": "sasl_plaintext",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "alice",
            "sasl.password": password,
        },
    }


def test_a_wrong_password_ends_the_worker_with_what_to_change(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    code, line = ended(start_worker(wait=False, kafka=sasl(kafka, topic, "wrong")))
    assert code == 2
    assert line.startswith("tokentrace: ")
    assert "sasl.password" in line
    assert "wrong" not in line


def test_the_right_password_counts(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, message(span()))
    producer.flush()
    worker = start_worker(kafka=sasl(kafka, topic, "alice-secret"))
    assert wait_for(lambda: spans_counted(worker) == 1)


def test_a_port_in_use_is_named(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        worker = start_worker(
            wait=False, kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic}, http_server={"addr": address}
        )
        code, line = ended(worker)
    assert code == 2
    assert address in line
    assert "http_server.addr" in line


def test_a_wrong_configuration_is_told_with_its_line(start_worker: Start) -> None:
    code, line = ended(start_worker(wait=False, kafka={"bootstrap_server": "127.0.0.1:9092"}))
    assert code == 2
    assert 'kafka.bootstrap_server: unknown key; did you mean "bootstrap_servers"? (line ' in line


def test_a_property_that_librdkafka_does_not_know_is_told(kafka: KafkaBroker, topic: str, start_worker: Start) -> None:
    settings = {"bootstrap_servers": kafka.bootstrap, "topic": topic, "properties": {"no.such.property": "1"}}
    code, line = ended(start_worker(wait=False, kafka=settings))
    assert code == 2
    assert "kafka.properties" in line
    assert "no.such.property" in line


def test_a_second_worker_with_the_same_replica_id_does_not_count_beside_the_first(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"replica_id": "twin"},
    }
    first = start_worker(**sections)
    second = start_worker(**sections)
    code, line = ended(first)
    assert code == 1
    assert "worker.replica_id" in line
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, message(span()))
    producer.flush()
    assert wait_for(lambda: spans_counted(second) == 1)


def test_a_dead_letter_topic_that_could_not_hold_every_message_is_refused(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    kafka.create_topic(f"{topic}.dead-letters", 1, max_message_bytes="1000")
    worker = start_worker(wait=False, kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic})
    code, line = ended(worker)
    assert code == 1
    assert "max.message.bytes=1000" in line
    assert "kafka-configs.sh --alter" in line


def test_a_registry_that_is_down_pauses_the_partitions_that_need_it_and_loses_nothing(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    """Over a kill too: what was counted of the other partition is committed, and nothing behind what waits."""
    try:
        registry = SchemaRegistry(tmp_path / "registry")
    except Unavailable as error:
        unavailable(str(error))
    spans = [span(cost_usd=0.001 * index) for index in range(80)]
    registry.start()
    try:
        schema_id = registry.register(f"{topic}-value", SPAN_SCHEMA)
        registry.freeze()
        worker = start_worker(
            kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            schema_registry={"url": registry.url, "timeout": "500ms"},
            worker={"session_timeout": "6s"},
        )
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        for record in spans[:10]:
            producer.produce(topic, message(record), partition=0)
        for record in spans[10:50]:
            producer.produce(topic, b"\0" + struct.pack(">I", schema_id) + datum(record), partition=0)
        for record in spans[50:]:
            producer.produce(topic, message(record), partition=1)
        producer.flush()
        down = r"The schema registry at .* does not answer .* Counting is paused for partitions \[0\]; trying again in"
        worker.wait_for_log(down)
        assert wait_for(lambda: spans_counted(worker) == 40), worker.messages()[-5:]
        assert wait_for(lambda: worker.get("/health/ready")[0] == 503)
        assert worker.get("/health/live")[0] == 200
        worker.kill()
        said = len(re.findall(down, worker.log()))
        worker.restart()
        assert wait_for(lambda: len(re.findall(down, worker.log())) > said and worker.get("/health/ready")[0] == 503)
        registry.thaw()
        assert wait_for(lambda: spans_counted(worker) == 80), worker.messages()[-5:]
        assert wait_for(lambda: worker.get("/health/ready")[0] == 200)
        expected = {key: value for key, value in recount(spans).items() if value}
        assert {key: value for key, value in span_totals([worker]).items() if value} == expected
        rejected = [name for name, _ in worker.samples() if name == "tokentrace_spans_rejected_total"]
        assert rejected == []
    finally:
        registry.stop()


def test_thousands_of_unknown_schema_ids_stop_no_span(
    kafka: KafkaBroker, registry: SchemaRegistry, topic: str, start_worker: Start
) -> None:
    """Unframed datums whose first string is empty look like ids; the registry has its own words for the largest one."""
    schema_id = registry.register(f"{topic}-value", SPAN_SCHEMA)
    good = [span(span_id=str(number), cost_usd=0.001 * number) for number in range(100)]
    unknown = [b"\0\xff\xff\xff\xff" + datum(span())]
    unknown += [datum(span(trace_id="", span_id=f"{number:03x}{number:013x}")) for number in range(2000)]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number, value in enumerate(unknown):
        producer.produce(topic, value, partition=0)
        if number % 20 == 0 and number < 2000:
            value = b"\0" + struct.pack(">I", schema_id) + datum(good[number // 20])
            producer.produce(topic, value, partition=number // 20 % 2)
    assert producer.flush(30) == 0
    worker = start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        schema_registry={"url": registry.url},
    )
    rejected = "tokentrace_spans_rejected_total", frozenset({("reason", "unknown_schema_id")})
    assert wait_for(lambda: worker.samples().get(rejected) == len(unknown)), worker.messages()[-5:]
    assert wait_for(lambda: spans_counted(worker) == len(good)), worker.messages()[-5:]
    expected = {key: value for key, value in recount(good).items() if value}
    assert {key: value for key, value in span_totals([worker]).items() if value} == expected
    assert worker.samples()["tokentrace_worker_rebalances_total", frozenset({("event", "lost")})] == 0
    assert [value for _, value, _ in dead_letters(kafka, f"{topic}.dead-letters")] == unknown


def test_a_broker_that_restarts_is_waited_out(own_kafka: KafkaBroker, start_worker: Start) -> None:
    own_kafka.create_topic("spans", 2)
    worker = start_worker(kafka={"bootstrap_servers": own_kafka.bootstrap, "topic": "spans", "group_id": "g"})
    producer = Producer({"bootstrap.servers": own_kafka.bootstrap})
    producer.produce("spans", message(span()))
    producer.flush()
    assert wait_for(lambda: spans_counted(worker) == 1)
    own_kafka.stop()
    assert wait_for(lambda: worker.get("/health/ready")[0] == 503), "all brokers down is not ready"
    assert worker.process.poll() is None
    own_kafka.start()
    assert wait_for(lambda: worker.get("/health/ready")[0] == 200), "no message says that the broker is back"
    assert wait_for(lambda: worker.samples()["tokentrace_worker_ready", frozenset()] == 1)
    producer.produce("spans", message(span()))
    assert producer.flush(60) == 0
    assert wait_for(lambda: spans_counted(worker) == 2), worker.messages()[-5:]
    assert wait_for(lambda: worker.get("/health/ready")[0] == 200)


def test_a_misspelled_command_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tokentrace", "wroker"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "wroker" in done.stderr
    assert "Traceback" not in done.stderr

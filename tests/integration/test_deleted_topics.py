"""A topic of tokentrace's own that is deleted under a running worker: named, and created again where that is safe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from tests.integration.test_group import counted, produce
from tests.integration.test_state import sections
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import span

Start = Callable[..., WorkerProcess]

WAIT_S = 120.0


def delete(kafka: KafkaBroker, name: str) -> None:
    admin = kafka.admin()
    admin.delete_topics([name])[name].result(20.0)


@pytest.mark.parametrize("kind", ["dead-letters", "rollups"])
def test_a_topic_that_is_deleted_under_a_running_worker_is_created_again_and_counting_goes_on(
    kafka: KafkaBroker, topic: str, start_worker: Start, kind: str
) -> None:
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 40)
    assert wait_for(lambda: counted(worker) == 40, WAIT_S)
    delete(kafka, f"{topic}.{kind}")
    produce(kafka, topic, [span()] * 40)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, b"not a span", partition=0)
    assert producer.flush(30.0) == 0
    worker.wait_for_log(f"Topic {topic}.{kind} was deleted under this worker, and is created again", WAIT_S)
    assert wait_for(lambda: counted(worker) == 80, WAIT_S), worker.messages()[-5:]
    assert wait_for(worker.ready, WAIT_S)
    assert worker.terminate() == 0


def test_a_worker_whose_state_topic_is_deleted_ends_and_names_it(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 40)
    assert wait_for(lambda: counted(worker) == 40, WAIT_S)
    delete(kafka, f"{topic}.state")
    produce(kafka, topic, [span()] * 40)
    assert wait_for(lambda: worker.process.poll() is not None, WAIT_S), worker.messages()[-5:]
    assert worker.process.returncode == 1
    assert f"Topic '{topic}.state' was deleted under this worker" in worker.log()
    worker.restart()
    worker.wait_for_log("is not consumed: spans up to offset", WAIT_S)
    assert not worker.ready()

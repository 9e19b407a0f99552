"""Offsets and state that do not belong together: a state that is gone, and offsets that were set ahead of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from tests.integration.test_group import counted, produce, value
from tests.integration.test_state import Start, refused, sections, set_offsets, tokentrace, tokentrace_any
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import span
from tokentrace.state.offset_mark import is_marked

WAIT_S = 60.0
STATE_PARTITIONS = 12


def delete(kafka: KafkaBroker, name: str) -> None:
    admin = kafka.admin()
    admin.delete_topics([name])[name].result(20.0)
    assert wait_for(lambda: name not in admin.list_topics(timeout=10.0).topics, WAIT_S)


def records(kafka: KafkaBroker, name: str) -> Iterator[Any]:
    """Every committed record of the state topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "copy",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(STATE_PARTITIONS)])
    ended = 0
    while ended < STATE_PARTITIONS:
        for message in consumer.consume(1000, 1.0):
            ended += message.error() is not None
            if message.error() is None:
                yield message
    consumer.close()


def restore(kafka: KafkaBroker, name: str, copy: list[Any]) -> None:
    """Create the state topic with the records of a copy."""

    def created() -> bool:
        admin = kafka.admin()
        topic = NewTopic(name, STATE_PARTITIONS, config={"cleanup.policy": "compact", "max.message.bytes": "8388608"})
        try:
            admin.create_topics([topic])[name].result(20.0)
        except KafkaException:
            return False
        return True

    assert wait_for(created, WAIT_S)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for record in copy:
        producer.produce(name, record.value(), record.key(), record.partition(), headers=record.headers())
    assert producer.flush(30.0) == 0


def await_refusal(worker: WorkerProcess) -> str:
    """Wait until a worker that was just started refuses every partition. Return the line that says so."""

    def refuses() -> bool:
        try:
            return refused([worker]) == 4
        except OSError:
            return False  # It does not serve yet.

    assert wait_for(refuses, WAIT_S), worker.messages()[-3:]
    assert not worker.ready()
    return worker.wait_for_log("is not consumed: spans up to offset", WAIT_S)


def reset(config: Path, option: str, said: str) -> None:
    """Run a command that Kafka refuses until the session of the last worker has ended."""
    assert wait_for(lambda: said in tokentrace_any(config, "state", "reset", option, "--yes"), WAIT_S)


def total(config: Path) -> int:
    return int(json.loads(tokentrace(config, "state", "show", "--json"))["totals"].get("spans", 0))


def test_offsets_without_their_state_are_refused_until_one_of_the_advised_commands_is_run(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    config, state = tmp_path / "worker0.yml", f"{topic}.state"
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 400)
    assert wait_for(lambda: counted(worker) == 400, WAIT_S)
    copy = list(records(kafka, state))
    produce(kafka, topic, [span()] * 200)
    assert wait_for(lambda: counted(worker) == 600, WAIT_S)
    assert worker.terminate() == 0
    delete(kafka, state)
    produce(kafka, topic, [span()] * 100)

    worker.restart()
    line = await_refusal(worker)
    assert "`tokentrace state reset --offsets`" in line
    assert "`tokentrace state reset --positions`" in line
    assert (worker.terminate(), total(config)) == (0, 0)

    # The first way out: a copy of the topic, and what it lacks is counted again.
    delete(kafka, state)
    restore(kafka, state, copy)
    worker.restart()
    await_refusal(worker)
    assert worker.terminate() == 0
    reset(config, "--offsets", "-> ")
    worker.restart()
    assert wait_for(lambda: worker.ready() and counted(worker) == 700, WAIT_S), worker.messages()[-3:]
    assert worker.terminate() == 0
    assert total(config) == 700

    # The second: the totals begin again.
    delete(kafka, state)
    produce(kafka, topic, [span()] * 100)
    worker.restart()
    await_refusal(worker)
    assert worker.terminate() == 0
    reset(config, "--positions", "its state is lost")
    worker.restart()
    assert wait_for(lambda: worker.ready() and counted(worker) == 100, WAIT_S), worker.messages()[-3:]
    assert refused([worker]) == 0


def test_totals_that_were_removed_leave_offsets_that_are_accepted(
    kafka: KafkaBroker, topic: str, start_worker: Start, tmp_path: Path
) -> None:
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 40)
    assert wait_for(lambda: counted(worker) == 40, WAIT_S)
    assert worker.terminate() == 0
    assert "Removed" in tokentrace(tmp_path / "worker0.yml", "state", "reset", "--totals", "--replica", "one", "--yes")
    produce(kafka, topic, [span()] * 8)
    worker.restart()
    assert wait_for(lambda: worker.ready() and counted(worker) == 8, WAIT_S), worker.messages()[-3:]
    assert refused([worker]) == 0
    assert [value(worker, "tokentrace_worker_skipped_records_total", partition=str(number)) for number in range(4)] == [
        0
    ] * 4


def test_an_offset_that_was_set_ahead_is_counted_as_a_gap_and_said(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 400)
    assert wait_for(lambda: counted(worker) == 400, WAIT_S)
    assert worker.terminate() == 0
    produce(kafka, topic, [span()] * 800)
    set_offsets(kafka, topic, 225)

    worker.restart()
    worker.wait_for_log("to which the group's offset was set, but spans are counted only up to offset 100", WAIT_S)
    assert wait_for(lambda: worker.ready() and counted(worker) == 400 + 4 * 75, WAIT_S), worker.messages()[-3:]
    gaps = [value(worker, "tokentrace_worker_skipped_records_total", partition=str(number)) for number in range(4)]
    assert gaps == [125] * 4
    assert worker.terminate() == 0
    said = worker.log().count("to which the group's offset was set")

    worker.restart()
    produce(kafka, topic, [span()] * 4)
    assert wait_for(lambda: worker.ready() and counted(worker) == 704, WAIT_S), worker.messages()[-3:]
    assert worker.log().count("to which the group's offset was set") == said == 4, "the gap is committed"
    gaps = [value(worker, "tokentrace_worker_skipped_records_total", partition=str(number)) for number in range(4)]
    assert gaps == [125] * 4, "and outlives the process"


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_an_exactly_once_commit_marks_its_offsets_and_no_other_does(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], guarantee: str
) -> None:
    worker = start_worker(
        **sections(kafka, topic) | {"worker": {"replica_id": "one", "session_timeout": "3s", "guarantee": guarantee}}
    )
    produce(kafka, topic, [span()] * 4)
    request, admin = ConsumerGroupTopicPartitions(topic), kafka.admin()

    def committed() -> list[Any]:
        answer = admin.list_consumer_group_offsets([request])[topic].result(20.0)
        return [found for found in answer.topic_partitions if found.offset > 0]

    assert wait_for(lambda: len(committed()) == 4, WAIT_S), worker.messages()[-3:]
    assert {is_marked(found.metadata or "") for found in committed()} == {guarantee == "exactly_once"}

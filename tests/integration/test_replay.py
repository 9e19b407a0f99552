"""`tokentrace dlq replay` on a real Kafka: each letter once, whatever happens to the command."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.integration.test_bad_input import dead_letters
from tests.integration.test_state import tokentrace
from tests.services import end
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for, write_config
from tokentrace.kafka.transaction import OFFSETS_LOST_S

Place = tuple[KafkaBroker, str, Path]


@pytest.fixture
def place(kafka: KafkaBroker, tmp_path: Path) -> Place:
    """A broker, a topic with one partition and dead letters beside it, and a configuration."""
    topic = kafka.create_topic(f"spans-{uuid.uuid4().hex[:8]}", 1)
    kafka.create_topic(f"{topic}.dead-letters", 1, max_message_bytes="8000000")
    section = {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}
    return kafka, topic, write_config(tmp_path / "replay.yml", {"kafka": section}, "replica-0")


def write_letters(place: Place, values: list[bytes]) -> None:
    """Write dead letters as a worker does."""
    kafka, topic, _ = place
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5, "message.max.bytes": 8_000_000})
    for offset, value in enumerate(values):
        origin = {"reason": "malformed", "error": "Bad.", "topic": topic, "partition": "0", "offset": str(offset)}
        headers = [(f"tokentrace.{name}", text.encode()) for name, text in origin.items()]
        producer.produce(f"{topic}.dead-letters", value, headers=headers)
    assert producer.flush(30) == 0


def sent(place: Place) -> list[bytes]:
    """The values that the topic has now."""
    kafka, topic, _ = place
    return [value or b"" for _, value, _ in dead_letters(kafka, topic)]


@pytest.fixture
def watcher(place: Place) -> Iterator[Consumer]:
    consumer = Consumer({"bootstrap.servers": place[0].bootstrap, "group.id": "watcher"})
    yield consumer
    consumer.close()


@pytest.mark.parametrize("fate", ["killed", "stopped", "stopped for longer than its calls wait"])
def test_a_replay_that_is_killed_or_overtaken_and_run_again_sends_each_letter_once(
    place: Place, watcher: Consumer, fate: str
) -> None:
    values = [b"letter-%d" % number for number in range(12_000)]
    write_letters(place, values)
    command = [sys.executable, "-m", "tokentrace", "dlq", "replay", "--config", str(place[2])]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert wait_for(lambda: watcher.get_watermark_offsets(TopicPartition(place[1], 0), timeout=10.0)[1] > 1500)
        first.send_signal(signal.SIGKILL if fate == "killed" else signal.SIGSTOP)
        tokentrace(place[2], "dlq", "replay")
        if fate == "stopped for longer than its calls wait":
            time.sleep(OFFSETS_LOST_S + 1.0)
        if fate != "killed" and first.poll() is None:
            first.send_signal(signal.SIGCONT)
            _, error = first.communicate(timeout=180.0)
            assert first.returncode in (0, 1), error
            assert first.returncode == 0 or "Another `tokentrace dlq replay` of the same group has started" in error, (
                error[-4000:]
            )
    finally:
        end(first, signal.SIGKILL)
    assert sent(place) == values
    assert tokentrace(place[2], "dlq", "replay").startswith("Nothing to replay.")


def test_a_letter_that_the_topic_refuses_is_named_and_its_neighbours_are_sent_once(place: Place) -> None:
    values = [b"letter-%d" % number for number in range(50)]
    large = random.Random(1).randbytes(1_200_000)
    write_letters(place, [*values[:20], large, *values[20:]])
    done = subprocess.run(
        [sys.executable, "-m", "tokentrace", "dlq", "replay", "--config", str(place[2])],
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"Sent 50 messages back to {place[1]}.\n"), done.stderr
    passed = [line for line in done.stderr.splitlines() if line.startswith("Passed over: ")]
    assert passed == [
        f"Passed over: dead letter 0:20 was refused by topic {place[1]} (Broker: Message size too large)."
    ]
    assert sent(place) == values
    assert tokentrace(place[2], "dlq", "replay").startswith("Nothing to replay.")
    assert sent(place) == values

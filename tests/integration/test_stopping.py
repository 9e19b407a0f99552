"""A worker that waits for Kafka ends soon after SIGTERM, whatever it waits for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.integration.test_group import counted, produce
from tests.integration.test_state import sections
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import span

Start = Callable[..., WorkerProcess]

#: On a machine that is busy. Without load it takes less than a second (2026-11).
SOON_S = 15.0


def test_a_worker_whose_topic_was_renamed_to_one_with_fewer_partitions_counts_it_and_ends_soon(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    """The group gives a static member that is back soon its assignment from before: of the other topic."""
    worker = start_worker(**sections(kafka, topic))
    produce(kafka, topic, [span()] * 8)
    assert wait_for(lambda: counted(worker) == 8)
    assert worker.terminate() == 0
    small = kafka.create_topic(f"{topic}-small", 1)
    produce(kafka, small, [span()] * 5, 1)
    renamed = sections(kafka, topic)
    renamed["kafka"]["topic"] = small
    worker = start_worker(wait=False, **renamed)
    assert wait_for(lambda: worker.ready() and counted(worker) == 13), worker.log()[-3000:]
    lines = [line for line in worker.messages() if "is not consumed" in line or "still assigns partitions" in line]
    assert len(lines) == len(set(lines)) <= 1, lines
    began_s = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() < began_s + SOON_S


def test_a_worker_that_waits_for_a_topic_or_a_broker_ends_soon(
    kafka: KafkaBroker, topic: str, start_worker: Start
) -> None:
    for name, bootstrap in ((f"{topic}-missing", kafka.bootstrap), (topic, "127.0.0.1:9")):
        waiting = sections(kafka, topic)
        waiting["kafka"] |= {"topic": name, "bootstrap_servers": bootstrap}
        worker = start_worker(wait=False, **waiting)
        worker.wait_for_log("Trying again in")
        began_s = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() < began_s + SOON_S


@pytest.mark.parametrize(
    ("kind", "partitions"),
    [("static", 1), ("static", 3), ("dynamic", 1), ("dynamic", 3), ("single", 1), ("election", 1)],
)
def test_a_member_closes_while_a_rebalance_waits_for_its_callback(
    kafka: KafkaBroker, topic: str, kind: str, partitions: int
) -> None:
    """The library fails what a callback requests of a group that has ended, or never answers: the process hung."""
    small = kafka.create_topic(f"{topic}-unpolled", partitions)
    command = [sys.executable, "-m", "tests.integration.unpolled_member", kafka.bootstrap, small, kind]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["closed", "None"]), ended.stderr[-2000:]


def test_a_process_ends_whose_threads_cannot_run() -> None:
    """A call of the Kafka library that never returns and keeps the interpreter's lock."""
    program = """
import ctypes
from tokentrace.model.stop import StopSignal
from tokentrace.runtime import service
service.LOCKED_S = 0.5
stop = StopSignal()
with service.stopping_in_time(stop, 1.0):
    stop.set()
    __import__("time").sleep(0.3)
    # Unlike CDLL, PyDLL calls with the lock.
    ctypes.PyDLL(None).sleep(60)
"""
    began_s = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert "File" in ended.stderr
    assert time.monotonic() < began_s + 30.0

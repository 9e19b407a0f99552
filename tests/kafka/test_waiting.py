"""Waiting for Kafka: bounded, ended by a stop, and quiet."""

from __future__ import annotations

import threading
import time

import pytest

from tests.kafka.fakes import Waits
from tokentrace.errors import StopRequested
from tokentrace.kafka.waiting import Wait
from tokentrace.model.stop import StopSignal


def test_a_wait_ends_with_its_time() -> None:
    stop = Waits()
    wait = Wait(stop, 1.0, pause_s=0.25)
    pauses = 0
    while wait.pause("waiting"):
        pauses += 1
    assert pauses == 4


def test_a_wait_that_progresses_begins_its_time_again() -> None:
    stop = Waits()
    wait = Wait(stop, 1.0, pause_s=1.0)
    assert wait.pause("waiting")
    wait.progressed(1.0)
    assert wait.pause("waiting")
    assert not wait.pause("waiting")


def test_a_wait_ends_when_the_worker_stops() -> None:
    stop = StopSignal()
    wait = Wait(stop, 600.0, pause_s=600.0)
    threading.Timer(0.05, stop.set).start()
    began_s = time.monotonic()
    with pytest.raises(StopRequested):
        wait.pause("waiting")
    assert time.monotonic() < began_s + 60.0
    with pytest.raises(StopRequested):
        Wait(stop, 600.0)


def test_a_wait_logs_nothing_at_first_and_then_a_line_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    stop = Waits()
    wait = Wait(stop, 60.0)
    while stop.now_s < 0.95:
        wait.pause("Partition %d has no leader", 1)
    assert caplog.messages == []
    while stop.now_s < 30.0:
        # Also of a whole sentence.
        wait.pause("Partition %d has no leader.", 1)
    assert caplog.messages == ["Partition 1 has no leader; retrying."] * 3


def test_a_wait_gives_its_tries_growing_time_within_bounds() -> None:
    stop = Waits()
    wait = Wait(stop, 30.0, pause_s=0.0)
    timeouts_s = []
    for _ in range(6):
        timeouts_s.append(wait.request_timeout_s)
        wait.pause("waiting")
    assert timeouts_s == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    stop.now_s = 29.9
    assert wait.request_timeout_s == 1.0

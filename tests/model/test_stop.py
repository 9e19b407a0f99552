"""The stop signal: once set, calls are short, and after its grace what is in flight is given up."""

from __future__ import annotations

import pytest

from tests.harness import Clock
from tokentrace.errors import StopRequested
from tokentrace.model.stop import SHORTEST_S, StopSignal


def test_a_signal_that_is_not_set_bounds_nothing() -> None:
    stop = StopSignal()
    stop.check()
    assert not stop.is_set()
    assert not stop.expired
    assert stop.bounded(40.0) == 40.0


def test_a_signal_shortens_calls_to_the_rest_of_its_grace() -> None:
    clock = Clock(100.0)
    stop = StopSignal(grace_s=10.0, clock=clock)
    stop.set()
    clock.now_s = 104.0
    stop.set()
    assert (stop.bounded(40.0), stop.bounded(2.0), stop.expired) == (6.0, 2.0, False)
    clock.now_s = 110.0
    assert (stop.bounded(40.0), stop.expired) == (SHORTEST_S, True)
    with pytest.raises(StopRequested):
        stop.check()

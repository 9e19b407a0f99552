"""Lag: what it counts, when it goes, and since when a partition stands still."""

from __future__ import annotations

import pytest

from tests.harness import Clock
from tokentrace.kafka.lag import LagTracker


class Log:
    """A tracker of partition 0, which is read from offset 5, and the end of its log."""

    def __init__(self, end: int) -> None:
        self.clock, self.monotonic, self.end = Clock(1000.0), Clock(50.0), end
        self.tracker = LagTracker(self.clock, self.monotonic)
        self.tracker.begin(0, 5)

    def read(self, position: int, first_s: float, last_s: float) -> None:
        self.tracker.on_read({0: position}, {0: (int(first_s * 1000), int(last_s * 1000))})

    def lag(self, held: tuple[int, ...] = ()) -> tuple[int, float, float]:
        return self.tracker.lags([0], lambda _: self.end, held)[0]


def test_lag_counts_what_is_read_and_not_committed() -> None:
    log = Log(end=105)
    assert log.lag() == (100, 0.0, 50.0), "nothing is known of the age of records that were not read"
    log.read(50, 900.0, 940.0)
    log.read(105, 940.0, 990.0)
    assert log.lag() == (100, 100.0, 50.0)
    log.tracker.on_committed({0: 50})
    log.monotonic.now_s = 60.0
    assert log.lag() == (55, 100.0, 60.0), "the commit ends the standstill"
    log.tracker.on_committed({0: 105})
    assert log.lag() == (0, 0.0, 0.0)


def test_records_behind_an_open_transaction_are_a_lag() -> None:
    log = Log(end=3010)
    log.read(10, 900.0, 940.0)
    log.tracker.on_end(0, 10)
    log.tracker.on_committed({0: 10})
    assert log.lag() == (3000, 60.0, 50.0)


def test_markers_of_transactions_at_the_end_are_no_lag() -> None:
    log = Log(end=12)
    log.read(10, 900.0, 940.0)
    log.tracker.on_end(0, 12)
    assert log.lag()[0] == 7
    log.tracker.on_committed({0: 10})
    assert log.lag() == (0, 0.0, 0.0)


def test_standstill_lasts_until_something_is_committed() -> None:
    log = Log(end=20)
    log.read(20, 900.0, 940.0)
    assert log.lag()[2] == 50.0
    log.monotonic.now_s = 90.0
    log.tracker.on_committed({0: 5})
    log.tracker.begin(0, 5)
    assert log.lag()[2] == 50.0, "reading again commits nothing"
    log.tracker.begin(0, 6)
    assert log.lag()[2] == 90.0
    assert log.lag(held=(0,)) == (14, 0.0, 0.0), "what must not be consumed does not stand still"


def test_partition_that_comes_back_has_not_stood_still() -> None:
    log = Log(end=20)
    assert log.lag()[2] == 50.0
    log.tracker.forget(0)
    log.monotonic.now_s = 90.0
    log.tracker.begin(0, 5)
    assert log.lag()[2] == 90.0


@pytest.mark.parametrize("end", [-1001, 0, 5])
def test_end_that_is_not_known_yet_or_old_is_no_lag(end: int) -> None:
    assert Log(end).lag() == (0, 0.0, 0.0)


def test_partitions_that_are_not_followed_change_nothing() -> None:
    log = Log(end=5)
    log.tracker.on_committed({7: 10})
    log.tracker.on_end(7, 10)
    log.tracker.on_read({7: 10}, {7: (0, 0)})
    assert not log.tracker.at_end(7)
    assert log.lag() == (0, 0.0, 0.0)

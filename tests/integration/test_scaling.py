"""Scaling: a worker that leaves hands its partitions over in seconds, and one that restarts keeps them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.fleet import Replica, Scraper, settle
from tests.chaos.load import Load
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for

PARTITIONS = 4
SESSION_S = 180.0
#: On a machine that is busy. Without load it takes about 3 s (2026-11).
SOON_S = 90.0


def partitions(replica: Replica) -> set[str]:
    """The partitions that it reads."""
    return {dict(labels)["partition"] for name, labels in replica.samples() if name == "tokentrace_worker_lag_records"}


def rebalances(replica: Replica) -> dict[Any, float]:
    """The rebalances that it has seen, by their kind."""
    name = "tokentrace_worker_rebalances_total"
    return {labels: value for (family, labels), value in replica.samples().items() if family == name}


def at_rest(replicas: list[Replica]) -> list[tuple[set[str], dict[Any, float]]]:
    """Partitions and rebalances of each replica, once no rebalance is under way: its last answer may still come."""
    seen = None
    while (now := [(partitions(replica), rebalances(replica)) for replica in replicas]) != seen:
        seen = now
        time.sleep(5.0)
    return now


class Fleet:
    """Three replicas under traffic, each with a partition or two."""

    def __init__(self, kafka: KafkaBroker, topic: str, folder: Path, **worker: Any) -> None:
        sections = {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            "worker": {"session_timeout": f"{SESSION_S:.0f}s", **worker},
        }
        self.load = Load(kafka.bootstrap, topic, PARTITIONS, seed=23)
        self.replicas = [Replica(folder, f"{topic}-{index}", sections) for index in range(3)]
        self.scraper = Scraper(self.replicas, self.load)

    def start(self) -> None:
        for replica in self.replicas:
            replica.wait_until_ready()
        self.load.start(400)
        self.scraper.start()
        assert wait_for(lambda: sorted(len(partitions(replica)) for replica in self.replicas) == [1, 1, 2])
        for replica in self.replicas:
            assert wait_for(lambda replica=replica: self.scraper.saw_counting(replica))  # type: ignore[misc]

    def check(self) -> None:
        """Every total is exact, and none stepped back."""
        self.load.stop()
        assert settle(self.replicas, self.load) == {}, [replica.log()[-2000:] for replica in self.replicas]
        assert (self.scraper.steps_back, self.scraper.above_truth) == ([], [])

    def end(self) -> None:
        self.load.stop()
        if self.scraper.is_alive():
            self.scraper.stop()
        for replica in self.replicas:
            replica.end()


@pytest.fixture
def fleets(kafka: KafkaBroker, topic: str, tmp_path: Path) -> Iterator[Any]:
    started: list[Fleet] = []

    def start(**worker: Any) -> Fleet:
        started.append(Fleet(kafka, topic, tmp_path, **worker))
        started[-1].start()
        return started[-1]

    yield start
    for fleet in started:
        fleet.end()


def test_a_replica_that_leaves_on_stop_is_replaced_by_the_others_long_before_its_session_ends(fleets: Any) -> None:
    fleet = fleets(leave_on_stop=True)
    *others, leaving = fleet.replicas
    left = partitions(leaving)
    began_s = time.monotonic()
    assert leaving.terminate() == 0
    assert wait_for(lambda: [len(partitions(replica)) for replica in others] == [2, 2], SESSION_S + 30.0)
    assert time.monotonic() < began_s + SOON_S < began_s + SESSION_S
    assert left < set().union(*map(partitions, others))
    # What it has counted is shown where it starts again.
    leaving.restart()
    assert wait_for(lambda: fleet.scraper.saw_counting(leaving)), leaving.log()[-2000:]
    fleet.check()


def test_a_replica_that_restarts_within_its_session_moves_no_partition(fleets: Any) -> None:
    fleet = fleets()
    *others, restarting = fleet.replicas
    before = at_rest(others)
    kept = partitions(restarting)
    assert restarting.terminate() == 0
    restarting.restart()
    assert wait_for(lambda: fleet.scraper.saw_counting(restarting) and partitions(restarting) == kept)
    assert [(partitions(replica), rebalances(replica)) for replica in others] == before
    fleet.check()

"""Recovery: a worker whose Kafka clients fail continues with new ones, in the same process; all totals are exact."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from tests.chaos.fleet import Replica, Scraper, settle
from tests.chaos.load import Load
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for

PARTITIONS = 4


class Fleet:
    """Replicas under traffic, and a scraper that checks every value."""

    def __init__(self, kafka: KafkaBroker, topic: str, folder: Path, replicas: int) -> None:
        sections = {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            "worker": {"session_timeout": "6s"},
        }
        self.names = [f"{topic}-{index}" for index in range(replicas)]
        self.load = Load(kafka.bootstrap, topic, PARTITIONS, seed=11)
        self.replicas = [Replica(folder, name, sections) for name in self.names]
        self.scraper = Scraper(self.replicas, self.load)
        for replica in self.replicas:
            replica.wait_until_ready(60.0)
        self.load.publish(1000)
        assert settle(self.replicas, self.load) == {}
        self.scraper.start()
        self.load.start(500)

    def end(self) -> None:
        self.load.stop()
        self.scraper.stop()
        for replica in self.replicas:
            replica.end()

    def check(self) -> None:
        """Every total is exact, none stepped back, and each process is the one that was started."""
        self.load.stop()
        assert settle(self.replicas, self.load) == {}, [replica.log()[-2000:] for replica in self.replicas]
        assert (self.scraper.steps_back, self.scraper.above_truth) == ([], [])
        for replica in self.replicas:
            assert replica.process.poll() is None, replica.log()[-2000:]

    def recoveries(self) -> int:
        name = "tokentrace_worker_recoveries_total"
        return int(sum(replica.samples()[name, frozenset()] for replica in self.replicas))


@pytest.mark.parametrize("client", ["producer", "member"])
def test_worker_that_is_fenced_without_a_rival_continues_in_place(
    kafka: KafkaBroker, topic: str, tmp_path: Path, client: str
) -> None:
    """The client that fences it ends at once, as one does that a coordinator took for another."""
    fleet = Fleet(kafka, topic, tmp_path, 2)
    try:
        settings: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap, "log_level": 0}
        if client == "producer":
            Producer({**settings, "transactional.id": fleet.names[0]}).init_transactions(30.0)
        else:
            settings |= {"group.id": topic, "group.instance.id": fleet.names[0]}
            settings |= {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 6000,
                "enable.auto.commit": False,
            }
            member = Consumer(settings)
            member.subscribe([topic])
            assert wait_for(lambda: member.poll(0.1) is None and fleet.recoveries() > 0)
            member.close()
        assert wait_for(lambda: fleet.recoveries() > 0), fleet.replicas[0].log()[-2000:]
        fleet.check()
    finally:
        fleet.end()


def test_worker_ends_when_another_process_has_its_replica_id(kafka: KafkaBroker, topic: str, tmp_path: Path) -> None:
    sections = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}}
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = Replica(tmp_path / "first", topic, sections)
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=5)
    try:
        first.wait_until_ready(60.0)
        second = Replica(tmp_path / "second", topic, sections)
        try:
            load.start(200)
            assert first.process.wait(60.0) == 1
            named = f"{topic!r}: process {second.process.pid} on host {socket.gethostname()}, started at 20"
            assert named in first.log().splitlines()[-1]
            load.stop()
            assert settle([second], load) == {}
        finally:
            second.end()
    finally:
        load.stop()
        first.end()


@pytest.mark.long
def test_workers_outlive_a_broker_that_is_killed(own_kafka: KafkaBroker, tmp_path: Path) -> None:
    topic = own_kafka.create_topic("spans", PARTITIONS)
    fleet = Fleet(own_kafka, topic, tmp_path, 3)
    try:
        for _ in range(2):
            own_kafka.kill()
            time.sleep(5.0)
            own_kafka.start()
            assert wait_for(lambda: all(replica.ready() for replica in fleet.replicas), 90.0)
        fleet.check()
    finally:
        fleet.end()

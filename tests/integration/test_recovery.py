"""Recovery: a worker whose Kafka clients fail continues with new ones, in the same process; all totals are exact."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from tests.chaos.fleet import Replica, Scraper, settle
from tests.chaos.load import Load
from tests.commit.test_dead_letters import topic_of
from tests.harness import LAYOUT
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.commit.exactly_once import ExactlyOnce, ExactlyOnceSettings
from tokentrace.errors import ClientFailed, ReplicaIdTaken
from tokentrace.kafka.clients import KafkaClients
from tokentrace.state.log_generations import LogPosition

PARTITIONS = 4


class Fleet:
    """Replicas under traffic, and a scraper that checks every value."""

    def __init__(
        self, kafka: KafkaBroker, topic: str, folder: Path, replicas: int, guarantee: str = "exactly_once"
    ) -> None:
        sections = {
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            "worker": {"session_timeout": "6s", "guarantee": guarantee},
        }
        self.names = [f"{topic}-{index}" for index in range(replicas)]
        self.load = Load(kafka.bootstrap, topic, PARTITIONS, seed=11)
        self.replicas = [Replica(folder, name, sections) for name in self.names]
        self.scraper = Scraper(self.replicas, self.load)
        for replica in self.replicas:
            replica.wait_until_ready()
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


@pytest.mark.parametrize(
    ("client", "guarantee"),
    [("producer", "exactly_once"), ("member", "exactly_once"), ("member", "at_least_once")],
)
def test_worker_that_is_fenced_without_a_rival_continues_in_place(
    kafka: KafkaBroker, topic: str, tmp_path: Path, client: str, guarantee: str
) -> None:
    """The client that fences it ends at once, as one does that a coordinator took for another."""
    fleet = Fleet(kafka, topic, tmp_path, 2, guarantee)
    try:
        settings: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap, "log_level": 0}
        if client == "producer":
            Producer({**settings, "transactional.id": f"{topic}.{fleet.names[0]}"}).init_transactions(30.0)
        else:
            settings |= {"group.id": topic, "group.instance.id": f"{topic}.{fleet.names[0]}"}
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
    """Either of the two may end: one that commits before the other has claimed the id fences it in turn."""
    sections = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}}
    rivals: list[Replica] = []
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=5)
    try:
        for folder in ("first", "second"):
            (tmp_path / folder).mkdir()
            rivals.append(Replica(tmp_path / folder, topic, sections))
            if folder == "first":
                rivals[0].wait_until_ready()
        load.start(200)
        assert wait_for(lambda: any(rival.process.poll() is not None for rival in rivals))
        [ended] = [rival for rival in rivals if rival.process.poll() is not None]
        [stays] = [rival for rival in rivals if rival is not ended]
        assert ended.process.returncode == 1
        named = f"{topic!r}: process {stays.process.pid} on host {socket.gethostname()}, started at 20"
        assert named in ended.log().splitlines()[-1]
        load.stop()
        assert settle([stays], load) == {}
    finally:
        load.stop()
        for rival in rivals:
            rival.end()


def test_worker_that_is_fenced_while_it_starts_names_the_process_that_works_on(kafka: KafkaBroker, topic: str) -> None:
    """The one that works on claims the id after the one that starts has fenced it and has read the state."""
    kafka.create_topic(f"{topic}.state", 1)
    works, starts = (committer_of(kafka, topic) for _ in range(2))
    assert works.start() is None
    refresh = starts._counted.refresh

    def fence() -> Mapping[int, LogPosition]:
        recover(works)
        return refresh()

    starts._counted.refresh = fence  # type: ignore[method-assign]
    try:
        with pytest.raises(ReplicaIdTaken, match=re.escape(f"{topic!r}: {works._process}.")):
            starts.start()
        recover(works)
    finally:
        starts.close()
        works.close()


def recover(committer: ExactlyOnce) -> None:
    """Replace its producer, as a worker does that Kafka fences."""
    committer.close()
    committer.recover(ClientFailed("Fenced."))


def committer_of(kafka: KafkaBroker, topic: str) -> ExactlyOnce:
    """Return a committer that has committed nothing yet, of a process of its own."""
    settings = ExactlyOnceSettings(
        group_id=topic, replica=topic, source_topic=topic, dead_letter_topic=f"{topic}.dead-letters",
        state_topic=f"{topic}.state", rollups_topic=f"{topic}.rollups",
    )  # fmt: skip
    source: Any = None
    return ExactlyOnce(
        settings,
        clients=KafkaClients(bootstrap_servers=kafka.bootstrap),
        source=source,
        dead_letters=topic_of(None)[0],
        groups=GroupIndex(100),
        layout=LAYOUT,
    )


@pytest.mark.long
def test_partitions_that_a_killed_worker_was_giving_up_are_read_once_it_is_back(
    kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    """Its session has not ended, so the group takes its return for the end of the rebalance."""
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "3m"},
    }
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=5)
    gives_up = Replica(tmp_path, f"{topic}-0", sections)
    replicas = [gives_up]
    try:
        load.publish(100)
        assert settle(replicas, load) == {}
        gives_up.process.kill()
        gives_up.process.wait()
        gives_up.restart(("in_on_revoke", 1))
        gives_up.wait_until_ready()
        replicas.append(Replica(tmp_path, f"{topic}-1", sections))
        assert wait_for(lambda: gives_up.process.poll() is not None)
        gives_up.restart()
        load.publish(1000)
        assert settle(replicas, load) == {}
        assert any("No member of the group reads the partitions" in replica.log() for replica in replicas)
    finally:
        for replica in replicas:
            replica.end()


def test_worker_without_state_ends_when_it_is_fenced_again_and_again(
    kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    """Nothing proves that another process has its replica id, but two that have it never stop fencing each other."""
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"guarantee": "at_least_once", "session_timeout": "2s"},
    }
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=5)
    rivals: list[Replica] = []
    try:
        load.start(200)
        for folder in ("first", "second"):
            (tmp_path / folder).mkdir()
            rivals.append(Replica(tmp_path / folder, topic, sections))
        assert wait_for(lambda: any(rival.process.poll() is not None for rival in rivals))
        [ended] = [rival for rival in rivals if rival.process.poll() is not None]
        [stays] = [rival for rival in rivals if rival is not ended]
        assert ended.process.returncode == 1
        assert f"a process with the same worker.replica_id {topic!r} may run" in ended.log().splitlines()[-1]
        assert wait_for(stays.ready), stays.log()[-2000:]
    finally:
        load.stop()
        for rival in rivals:
            rival.end()


@pytest.mark.long
def test_workers_outlive_a_broker_that_is_killed(own_kafka: KafkaBroker, tmp_path: Path) -> None:
    topic = own_kafka.create_topic("spans", PARTITIONS)
    fleet = Fleet(own_kafka, topic, tmp_path, 3)
    try:
        for _ in range(2):
            own_kafka.kill()
            time.sleep(5.0)
            own_kafka.start()
            assert wait_for(lambda: all(replica.ready() for replica in fleet.replicas))
        fleet.check()
    finally:
        fleet.end()

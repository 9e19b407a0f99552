"""Identity: installations with the same replica ids share a cluster, and an upgrade fences a process of 0.1.0."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.chaos.fleet import Replica, Scraper, settle
from tests.chaos.load import Load
from tests.services.kafka import KafkaBroker
from tests.services.packages import release_package
from tests.services.workers import wait_for

PARTITIONS = 4


def test_two_installations_with_the_same_replica_id_count_one_topic_side_by_side(
    kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=17)
    installations = []
    for name in ("production", "staging"):
        (tmp_path / name).mkdir()
        group = {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": f"{topic}-{name}"}
        installations.append(Replica(tmp_path / name, f"{topic}-0", {"kafka": group}))
    scrapers = [Scraper([replica], load) for replica in installations]
    try:
        for replica in installations:
            replica.wait_until_ready()
        load.start(300)
        for scraper, replica in zip(scrapers, installations, strict=True):
            scraper.start()
            assert wait_for(lambda scraper=scraper, replica=replica: scraper.saw_counting(replica))  # type: ignore[misc]
        load.stop()
        for scraper, replica in zip(scrapers, installations, strict=True):
            assert settle([replica], load) == {}
            assert (scraper.steps_back, scraper.above_truth) == ([], [])
            assert replica.process.poll() is None
            assert replica.samples()["tokentrace_worker_recoveries_total", frozenset()] == 0, replica.log()[-2000:]
    finally:
        load.stop()
        for scraper, replica in zip(scrapers, installations, strict=True):
            if scraper.is_alive():
                scraper.stop()
            replica.end()


def test_a_process_of_release_0_1_0_that_wakes_up_after_the_upgrade_is_fenced_and_totals_are_kept(
    kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=19, first=True)
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"session_timeout": "6s"},
    }
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    replicas = [Replica(tmp_path / "old", f"{topic}-0", sections, release_package("0.1.0", tmp_path))]
    old = replicas[0]
    try:
        old.wait_until_ready()
        load.publish(1000)
        assert settle([old], load) == {}
        load.start(300)
        os.killpg(old.process.pid, signal.SIGSTOP)
        new = Replica(tmp_path / "new", f"{topic}-0", sections)
        replicas.append(new)
        scraper = Scraper([new], load)
        scraper.start()
        assert wait_for(lambda: scraper.saw_counting(new)), new.log()[-2000:]
        os.killpg(old.process.pid, signal.SIGCONT)
        assert old.process.wait(180.0) == 1, old.log()[-2000:]
        load.stop()
        scraper.stop()
        assert settle([new], load) == {}, new.log()[-2000:]
        assert (scraper.steps_back, scraper.above_truth) == ([], [])
        assert new.process.poll() is None
    finally:
        load.stop()
        for replica in replicas:
            replica.end()

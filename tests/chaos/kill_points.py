"""Crashes at the points where a commit could come apart: three workers, twelve partitions, under load."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.fleet import Replica, Scraper, settle
from tests.chaos.load import Load
from tests.services.kafka import KafkaBroker
from tests.services.workers import wait_for


@dataclass
class Outcome:
    """Result of a run. differences: series -> (found, truth)."""

    produced: int = 0
    crashes: int = 0
    scrapes: int = 0
    differences: dict[str, tuple[int, int]] = field(default_factory=dict)
    steps_back: list[str] = field(default_factory=list)
    above_truth: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not (self.differences or self.steps_back or self.above_truth or self.unexpected)


def run(
    kafka: KafkaBroker,
    folder: Path,
    points: Sequence[str],
    crashes: int,
    protocol: str,
    rate: int = 1500,
    spans: int = 0,
) -> Outcome:
    """Crash so often at each of the points, and publish at least so many spans."""
    topic = kafka.create_topic(f"kill-{uuid.uuid4().hex[:8]}", 12)
    rng = random.Random(f"{points}{protocol}")
    sections: dict[str, Any] = {
        "kafka": {
            "bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic, "group_protocol": protocol,
        },
        "worker": {"session_timeout": "3s", "commit_interval": "100ms"},
    }  # fmt: skip
    load = Load(kafka.bootstrap, topic, 12, rng.randrange(1 << 30))
    folder.mkdir(parents=True, exist_ok=True)
    replicas = [Replica(folder, f"replica-{index}", sections) for index in range(3)]
    outcome = Outcome()
    scraper = Scraper(replicas, load)
    load.start(rate)
    scraper.start()
    try:
        for replica in replicas:
            replica.wait_until_ready()
        for point in [point for point in points for _ in range(crashes)]:
            victim = rng.choice(replicas)
            _crash(victim, replicas, point, rng, outcome)
            victim.restart()
            victim.wait_until_ready()
        while load.produced < spans:
            load.publish(2000)
        load.stop()
        outcome.differences = settle(replicas, load)
    finally:
        load.stop()
        scraper.stop()
        for replica in replicas:
            replica.end()
    outcome.produced, outcome.scrapes = load.produced, scraper.scrapes
    outcome.steps_back, outcome.above_truth = scraper.steps_back, scraper.above_truth
    return outcome


def _crash(victim: Replica, replicas: list[Replica], point: str, rng: random.Random, outcome: Outcome) -> None:
    """Restart the victim, armed, and bring it to the point."""
    victim.kill()
    count = rng.randrange(1, 8) if point.startswith("after") else 1
    victim.restart((point, count))
    if point == "in_on_revoke":
        victim.wait_until_ready()
        _take_partitions(victim, replicas, rng)
    wait_for(lambda: victim.process.poll() is not None)
    if victim.process.poll() == -9:
        outcome.crashes += 1
    else:
        outcome.unexpected.append(f"{victim.name} ended with {victim.process.poll()} at {point}: {victim.log()[-500:]}")
        victim.kill()
        raise AssertionError(outcome.unexpected[-1])


def _take_partitions(victim: Replica, replicas: list[Replica], rng: random.Random) -> None:
    """Let others come until the victim gives partitions up. Where its own session ends meanwhile, it gives none."""
    for _ in range(6):
        other = rng.choice([replica for replica in replicas if replica is not victim])
        other.kill()
        time.sleep(4.0)
        other.restart()
        if wait_for(lambda: victim.process.poll() is not None, 30.0):
            return

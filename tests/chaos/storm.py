"""The storm: replicas killed, frozen, drained and scaled at random, and brokers restarted or killed, under load."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tests.chaos.budgets import BUDGETS
from tests.chaos.budgets import differences as budget_differences
from tests.chaos.dimensions import SECTIONS
from tests.chaos.fleet import Replica, Scraper, differences, settle, totals
from tests.chaos.load import Load
from tests.oracle import Key
from tests.services.kafka import KafkaBroker, KafkaCluster

PARTITIONS = 12
SESSION_S = 3
#: Numbers of replicas that the fleet is scaled through.
SCALES = (1, 4, 2, 3)
#: Exit codes of a replica that was killed or told to end.
EXPECTED_EXITS = (-signal.SIGKILL, -signal.SIGTERM, 0)
#: Seconds for which a killed broker of a cluster is gone, and then for which all are there.
BROKER_GONE_S = 5.0
BROKER_BACK_S = 12.0


@dataclass
class Result:
    """Result of a storm.

    differences: series -> (found, truth); unseen: of what Prometheus' increase() adds up. budgets: place of a verdict
    or a threshold -> (found, truth). events: what was done.
    logged: spans in the topic, which have to be those that were produced: a publisher could repeat one.
    miscounted: partition -> records that the fleet counted beyond those in it, where it did not count each once.
    unexpected_exits: replicas that ended and were neither killed nor told to end.
    """

    produced: int = 0
    counted: int = 0
    logged: int = 0
    duration_s: float = 0.0
    scrapes: int = 0
    events: Counter[str] = field(default_factory=Counter)
    differences: dict[str, tuple[int, int]] = field(default_factory=dict)
    unseen: dict[str, tuple[int, int]] = field(default_factory=dict)
    budgets: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    miscounted: dict[int, int] = field(default_factory=dict)
    steps_back: list[str] = field(default_factory=list)
    above_truth: list[str] = field(default_factory=list)
    unexpected_exits: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return not (self.differences or self.unseen or self.budgets or self.steps_back or self.above_truth)

    def as_json(self) -> dict[str, Any]:
        return {
            "produced": self.produced,
            "counted": self.counted,
            "logged": self.logged,
            "kills": self.events["kill"],
            "events": dict(self.events),
            "scrapes": self.scrapes,
            "steps_back": len(self.steps_back),
            "above_truth": len(self.above_truth),
            "differences": len(self.differences),
            "unseen": len(self.unseen),
            "miscounted": self.miscounted,
            "unexpected_exits": len(self.unexpected_exits),
            "exact": self.exact,
            "duration_s": round(self.duration_s, 1),
        }


class Storm:
    """One run on a broker of its own, or on a cluster whose brokers are killed in turn."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        sections: dict[str, Any] | None = None,
        make: Callable[[Path, str, dict[str, Any]], Replica] = Replica,
        rate: int = 2000,
        settle_s: float = 240.0,
        brokers: int = 1,
        dimensions: bool = False,
        budgets: bool = False,
    ) -> None:
        """Prepare a storm.

        sections: configuration sections that override the storm's. make: builds a replica. settle_s: time limit for
        the published spans to be shown at the end. dimensions: whether the replicas count by those of the chaos.
        budgets: the same.
        """
        self.folder = folder
        self._settle_s = settle_s
        self._rng = random.Random(seed)
        self._broker: KafkaBroker | KafkaCluster = (
            KafkaBroker(folder / "kafka") if brokers == 1 else KafkaCluster(folder / "kafka", brokers)
        )
        self._gone: KafkaBroker | None = None
        self._broker.start()
        self._broker.create_topic("spans", PARTITIONS)
        self._load = Load(self._broker.bootstrap, "spans", PARTITIONS, seed, dimensions=dimensions, budgets=budgets)
        self._budgets = budgets
        self._rate = rate
        defaults: dict[str, Any] = {
            "kafka": {"bootstrap_servers": self._broker.bootstrap, "topic": "spans", "group_id": "storm"},
            "worker": {"session_timeout": f"{SESSION_S}s", "commit_interval": "200ms", "drain_timeout": "2s"},
        }
        if budgets:
            defaults["budgets"] = BUDGETS
        for name, section in ((SECTIONS if dimensions else {}) | (sections or {})).items():
            defaults[name] = {**defaults.get(name, {}), **section}
        self._make = lambda index: make(folder, f"replica-{index}", defaults)
        self._replicas: list[Replica] = []
        self._wanted: set[str] = set()
        self.result = Result()

    def run(self, duration_s: float, until_told: bool = False, spans: int = 0) -> Result:
        """Let it rage for so long, publish so many spans at least, then bring every replica up and compare.

        until_told: strike only what was seen to count, and end at the first counter that falls: a storm for a guarantee
        that is known to be weak, which must not pass for exact where a slow machine shows too little between strikes.
        """
        began = time.monotonic()
        scraper: Scraper | None = None
        try:
            self._scale(SCALES[0])
            scraper = Scraper(self._replicas, self._load)
            scraper.start()
            self._load.start(self._rate)
            self._rage(began + duration_s, scraper if until_told else None)
            self._bring_back()
            while self._load.produced < spans:
                self._load.publish(2000)
            self._load.stop()
            ends = log_ends(self._broker.bootstrap)
            self.result.logged = sum(ends.values())
            self._scale(max(SCALES))
            self._calm()
            self.result.differences = settle(self._replicas, self._load, self._settle_s)
            self.result.counted = spans_in(totals(self._replicas))
            self.result.miscounted = miscounted(self._replicas, ends)
            if self._budgets:
                truth = self._load.budgets()
                self.result.budgets = budget_differences(self._broker.bootstrap, "storm", truth, self._settle_s)
        finally:
            self._load.stop()
            if scraper is not None:
                scraper.stop()
                self.result.scrapes = scraper.scrapes
                self.result.unseen = differences(scraper.increases(), self._load.truth())
                self.result.steps_back, self.result.above_truth = scraper.steps_back, scraper.above_truth
            for replica in self._replicas:
                replica.end()
            self._broker.stop()
            self.result.produced = self._load.produced
            self.result.duration_s = time.monotonic() - began
        return self.result

    def _rage(self, until: float, witness: Scraper | None) -> None:
        total_s = until - time.monotonic()
        restart_at = until - total_s / 2
        scale_every_s = total_s / (2 * len(SCALES))
        scale_at, scales = time.monotonic() + scale_every_s, 1
        broker_at = time.monotonic() + BROKER_BACK_S
        while time.monotonic() < until and not (witness and witness.steps_back):
            time.sleep(self._rng.uniform(0.3, 1.5))
            self._revive()
            if isinstance(self._broker, KafkaCluster):
                if time.monotonic() > broker_at:
                    broker_at = time.monotonic() + (BROKER_GONE_S if self._gone is None else BROKER_BACK_S)
                    self._change_brokers(self._broker)
            elif time.monotonic() > restart_at:
                restart_at = until + 1e9
                self._count("broker restart")
                self._broker.stop()
                self._broker.start()
            if time.monotonic() > scale_at:
                scale_at += scale_every_s
                self._scale(SCALES[scales % len(SCALES)])
                scales += 1
            victims = [
                replica for replica in self._replicas if replica.name in self._wanted and replica.process.poll() is None
            ]
            if witness:
                victims = [victim for victim in victims if witness.saw_counting(victim)]
            if victims:
                self._strike(self._rng.choice(victims), until)

    def _change_brokers(self, cluster: KafkaCluster) -> None:
        """Kill a broker, or bring back the one that was killed, so that a majority always stays."""
        if self._gone is not None:
            self._bring_back()
            return
        self._count("broker kill")
        self._gone = self._rng.choice(cluster.brokers)
        self._gone.kill()

    def _bring_back(self) -> None:
        if self._gone is not None:
            self._gone.launch()
            self._gone.wait_until_answering()
            self._gone = None

    def _calm(self) -> None:
        """Until every replica is up; those that were on their way out have to end first."""
        deadline = time.monotonic() + 240.0
        while not all(replica.ready() for replica in self._replicas):
            assert time.monotonic() < deadline, [_account_of(replica) for replica in self._replicas]
            self._revive()
            time.sleep(0.2)

    def _strike(self, victim: Replica, until: float) -> None:
        kind = self._rng.choices(["kill", "freeze", "drain"], [6, 2, 2])[0]
        self._count(kind)
        if kind == "kill":
            victim.kill()
        elif kind == "drain":
            victim.process.send_signal(signal.SIGTERM)
        else:
            os.killpg(victim.process.pid, signal.SIGSTOP)
            time.sleep(min(SESSION_S + 2.0, max(until - time.monotonic(), 0.0)))
            os.killpg(victim.process.pid, signal.SIGCONT)

    def _scale(self, count: int) -> None:
        while len(self._replicas) < count:
            self._replicas.append(self._make(len(self._replicas)))
        self._wanted = {replica.name for replica in self._replicas[:count]}
        for replica in self._replicas[count:]:
            if replica.process.poll() is None:
                self._count("scale down")
                replica.process.send_signal(signal.SIGTERM)
        self._revive()

    def _revive(self) -> None:
        """Start what has ended and is wanted, as Kubernetes would."""
        for replica in self._replicas:
            code = replica.process.poll()
            if replica.name in self._wanted and code is not None:
                self._count(f"ended with {code}")
                if code not in EXPECTED_EXITS:
                    self.result.unexpected_exits.append(f"{replica.name} with {code}: {replica.log()[-500:]}")
                replica.restart()

    def _count(self, event: str) -> None:
        self.result.events[event] += 1


def _account_of(replica: Replica) -> str:
    """Return the health and the last log lines of a replica, for a fleet that does not come up."""
    try:
        answer = replica.get("/health/ready")
    except OSError as error:
        answer = 0, str(error)
    return f"{replica.name}: {answer}\n{replica.log()[-2500:]}"


def log_ends(bootstrap: str) -> dict[int, int]:
    """Return partition -> the number of records that it has taken."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "log-end"})
    partitions = [TopicPartition("spans", partition) for partition in range(PARTITIONS)]
    try:
        return {found.partition: consumer.get_watermark_offsets(found, timeout=30.0)[1] for found in partitions}
    finally:
        consumer.close()


def miscounted(replicas: list[Replica], ends: dict[int, int]) -> dict[int, int]:
    """Return partition -> records that the replicas have counted beyond its end, where the two differ."""
    counted: Counter[int] = Counter()
    for replica in replicas:
        for (name, labels), value in replica.samples().items():
            if name == "tokentrace_worker_polled_records_total":
                counted[int(dict(labels)["partition"])] += int(value)
    return {partition: counted[partition] - end for partition, end in ends.items() if counted[partition] != end}


def spans_in(values: dict[Key, int]) -> int:
    return sum(value for (name, _), value in values.items() if name == "tokentrace_spans_total")

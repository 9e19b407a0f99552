"""Standstill of any kind, beside an installation that is well: a shipped alert fires, and the readiness turns."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.expressions import RULES
from tests.integration.test_group import counted, produce
from tests.integration.test_lost_state import delete
from tests.integration.test_standstill import limit_records, open_transaction, value
from tests.integration.test_state import set_offsets
from tests.services.kafka import KafkaBroker
from tests.services.prometheus import Prometheus, Target
from tests.services.workers import PROGRAM, WorkerProcess, wait_for
from tests.spanfactory import span

#: Time in which each standstill has to be seen, and the intervals of deploy/prometheus/prometheus.yml.
IN_TIME_S = 120.0
INTERVALS_S = {"scrape_s": 15, "evaluation_s": 30}
WAIT_S = 90.0
BEFORE, BEHIND = 20, 40

#: Runs tokentrace, with a wall clock that is an hour behind for each file of a folder. The monotonic clock goes on.
STEPPED_BACK = """
import os, runpy, sys, time
folder, wall = sys.argv.pop(1), time.time
time.time = lambda: wall() - 3600 * len(os.listdir(folder))
runpy.run_module("tokentrace", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Installation:
    """A group of one replica. labels: those that Prometheus gives it. clock: folder of its `STEPPED_BACK`."""

    kafka: KafkaBroker
    topic: str
    worker: WorkerProcess
    labels: dict[str, str]
    clock: Path

    def produce(self, spans: int) -> None:
        produce(self.kafka, self.topic, [span()] * spans)

    def step_clock_back(self) -> None:
        (self.clock / f"hour-{len(list(self.clock.iterdir()))}").touch()


@dataclass(frozen=True)
class Seen:
    """Times after the beginning of a standstill, in seconds, inf where it was not seen in time; and what was said."""

    not_ready_s: float
    alert_s: float
    said: str


def refuse_commits(installation: Installation, cleanup: ExitStack) -> float:
    began = time.monotonic()
    limit_records(installation.kafka, f"{installation.topic}.state", 100)
    installation.produce(BEHIND)
    return began


def refuse_commits_and_step_clock_back(installation: Installation, cleanup: ExitStack) -> float:
    began = refuse_commits(installation, cleanup)
    worker = installation.worker
    assert wait_for(lambda: value(worker, "stalled_seconds") > 1, WAIT_S), worker.messages()[-3:]
    installation.step_clock_back()
    return began


def freeze_broker(installation: Installation, cleanup: ExitStack) -> float:
    began = time.monotonic()
    # Nothing waits, as far as the worker knows: its lag is 0.
    installation.kafka.freeze()
    cleanup.callback(installation.kafka.thaw)
    return began


def delete_state(installation: Installation, cleanup: ExitStack) -> float:
    began = time.monotonic()
    delete(installation.kafka, f"{installation.topic}.state")
    installation.produce(BEHIND)
    worker = installation.worker
    assert wait_for(lambda: worker.process.poll() is not None, WAIT_S), worker.messages()[-3:]
    worker.restart()  # As Kubernetes does.
    return began


def set_all_offsets_back(installation: Installation, cleanup: ExitStack) -> float:
    assert installation.worker.terminate() == 0
    set_offsets(installation.kafka, installation.topic, 0)
    installation.worker.restart()
    return time.monotonic()


def leave_transaction_open(installation: Installation, cleanup: ExitStack) -> float:
    began = time.monotonic()
    cleanup.enter_context(open_transaction(installation.kafka, installation.topic))
    installation.produce(BEHIND)
    return began


@dataclass(frozen=True)
class Standstill:
    """begin: brings it about, and returns when it began. says: what the readiness has to say, a pattern."""

    begin: Callable[[Installation, ExitStack], float]
    says: str
    alert: str


UNCOMMITTED = r"records of the partitions \[0, 1, 2, 3\] wait, and none was committed for"
STANDSTILLS = {
    "commits-refused": Standstill(refuse_commits, UNCOMMITTED, "TokentraceCommitAge"),
    # The clock alone stops nothing. It must not hide another standstill either.
    "clock-stepped-back": Standstill(refuse_commits_and_step_clock_back, UNCOMMITTED, "TokentraceCommitAge"),
    "broker-frozen": Standstill(freeze_broker, "No Kafka broker answers at", "TokentraceNotReady"),
    "state-topic-gone": Standstill(delete_state, "all partitions are refused|is lost", "TokentracePartitionRefused"),
    "all-refused": Standstill(set_all_offsets_back, "all partitions are refused", "TokentracePartitionRefused"),
    "transaction-open": Standstill(
        leave_transaction_open, r"records of the partitions \[0\] wait, and none was committed", "TokentraceCommitAge"
    ),
}


def stand_still(kind: str, installation: Installation, prometheus: Prometheus, cleanup: ExitStack) -> Seen:
    standstill = STANDSTILLS[kind]
    began = standstill.begin(installation, cleanup)
    wanted = {"alertname": standstill.alert, **installation.labels}
    not_ready_s = alert_s = float("inf")
    said = ""
    while max(not_ready_s, alert_s) == float("inf") and time.monotonic() - began < IN_TIME_S:
        try:
            status, body, _ = installation.worker.get("/health/ready")
            said = str(json.loads(body)["waiting_for"])
        except OSError:
            status = 0  # It does not serve yet.
        firing = [alert for alert in prometheus.firing() if alert.items() >= wanted.items()]
        now_s = time.monotonic() - began
        if status == 503 and re.search(standstill.says, said):
            not_ready_s = min(not_ready_s, now_s)
        if firing:
            alert_s = min(alert_s, now_s)
        time.sleep(0.5)
    return Seen(not_ready_s, alert_s, said)


@pytest.fixture
def install(start_worker: Callable[..., WorkerProcess], tmp_path: Path) -> Callable[..., Installation]:
    """Makes an installation that has counted some spans. All have the same replica id."""

    def make(kafka: KafkaBroker, steps: bool = False, **labels: str) -> Installation:
        clock = tmp_path / "clock"
        clock.mkdir(exist_ok=True)
        topic = kafka.create_topic(f"spans-{uuid.uuid4().hex[:8]}", 4)
        worker = start_worker(
            kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
            worker={"replica_id": "replica-0", "session_timeout": "3s"},
            program=("-c", STEPPED_BACK, str(clock)) if steps else PROGRAM,
        )
        made = Installation(kafka, topic, worker, {"instance": "replica-0", **labels}, clock)
        made.produce(BEFORE)
        assert wait_for(lambda: counted(worker) == BEFORE, WAIT_S), worker.messages()[-3:]
        return made

    return make


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.nightly
def test_each_standstill_fires_an_alert_and_turns_the_readiness_of_its_own_installation_in_time(
    kafka: KafkaBroker,
    own_kafka: KafkaBroker,
    install: Callable[..., Installation],
    start_prometheus: Callable[..., Prometheus],
    cleanup: ExitStack,
) -> None:
    well = install(kafka, job="tokentrace", namespace="well")
    ill: dict[str, Installation] = {}
    for number, kind in enumerate(STANDSTILLS):
        # Half of them share the job of the one that is well, half the namespace.
        labels = {"job": "tokentrace", "namespace": kind} if number % 2 else {"job": kind, "namespace": "well"}
        broker = own_kafka if kind == "broker-frozen" else kafka
        ill[kind] = install(broker, steps=kind == "clock-stepped-back", **labels)
    everyone = [well, *ill.values()]
    targets = [Target(installation.worker.target, installation.labels) for installation in everyone]
    prometheus = start_prometheus(targets, rules=[RULES], **INTERVALS_S)
    assert wait_for(lambda: len(prometheus.query("tokentrace_worker_ready == 1")) == len(everyone), WAIT_S)

    # A clock that is set stops nothing.
    stepped = ill["clock-stepped-back"]
    stepped.step_clock_back()
    stepped.produce(BEHIND)
    assert wait_for(lambda: counted(stepped.worker) == BEFORE + BEHIND, WAIT_S), stepped.worker.messages()[-3:]
    assert wait_for(lambda: well.worker.ready() and stepped.worker.ready(), WAIT_S)
    assert prometheus.firing() == []

    produced, fired = BEFORE, []
    with ThreadPoolExecutor(len(ill)) as pool:
        runs: dict[str, Future[Seen]] = {
            kind: pool.submit(stand_still, kind, installation, prometheus, cleanup)
            for kind, installation in ill.items()
        }
        while not all(run.done() for run in runs.values()):
            well.produce(4)
            produced += 4
            status, body, _ = well.worker.get("/health/ready")
            assert status == 200, body
            fired += prometheus.firing()
            time.sleep(1.0)
    seen = {kind: run.result() for kind, run in runs.items()}
    for kind, found in seen.items():
        print(f"{kind}: not ready after {found.not_ready_s:.0f} s ({found.said}), alert after {found.alert_s:.0f} s")
    late = {kind: found for kind, found in seen.items() if max(found.not_ready_s, found.alert_s) > IN_TIME_S}
    assert not late, prometheus.firing()
    # Every alert names one of those that stand still.
    standing = {(one.labels["job"], one.labels["namespace"]) for one in ill.values()}
    assert {(alert.get("job"), alert.get("namespace")) for alert in fired + prometheus.firing()} == standing
    assert wait_for(lambda: counted(well.worker) == produced, WAIT_S), well.worker.messages()[-3:]

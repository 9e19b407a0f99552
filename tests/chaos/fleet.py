"""Fleet: replicas as processes that crash, sleep, end and come back, and what a scraper sees of them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any

from tests.oracle import Key
from tests.services import unmeasured
from tests.services.packages import environment
from tests.services.workers import WorkerProcess, in_units, write_config

#: Time between the last scrapes: an idle replica commits at least once within it.
LAST_SCRAPES_S = 1.0
#: Headers that a Prometheus sends when it scrapes.
PROMETHEUS = {"X-Prometheus-Scrape-Timeout-Seconds": "1", "User-Agent": "Prometheus/2.42.0"}


class Replica(WorkerProcess):
    """One replica over all its lives: the same configuration, port and log each time.

    package: what it imports tokentrace from, see `tests.services.packages`; None for this version.
    """

    #: The scraper turns to the next replica when one is frozen.
    answer_timeout_s = 10.0

    def __init__(self, folder: Path, name: str, sections: dict[str, Any], package: Path | None = None) -> None:
        self.name = name
        self.package = package
        config = write_config(folder / f"{name}.yml", sections, name)
        self._arm: tuple[str, int] | None = None
        self.lives = 0
        super().__init__(config, folder / f"{name}.log")

    def _start(self) -> subprocess.Popen[bytes]:
        self.lives += 1
        command = ["-m", "tokentrace"] if self._arm is None else ["-m", "tests.chaos.crashing", *map(str, self._arm)]
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *command, "worker", "--config", str(self._config)],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                env=environment(self.package) if self.package is not None else unmeasured(),
            )  # fmt: skip

    def restart(self, arm: tuple[str, int] | None = None) -> None:
        """Start again; armed, it will kill itself at (point, count)."""
        self._arm = arm
        self.process = self._start()


class Scraper(threading.Thread):
    """Scrapes replicas as a Prometheus would, and checks every value.

    steps_back: counters that fell. above_truth: sums over the replicas that exceed what was published by then.
    """

    def __init__(self, replicas: list[Replica], load: Any, interval_s: float = 0.3) -> None:
        super().__init__(daemon=True)
        self._replicas = replicas
        self._load = load
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._last: dict[str, dict[Key, int]] = {replica.name: {} for replica in replicas}
        self._counting: dict[str, int] = {}
        self.scrapes = 0
        self._increases: Counter[Key] = Counter()
        self.steps_back: list[str] = []
        self.above_truth: list[str] = []

    def run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._scrape()

    def _scrape(self) -> None:
        for replica in list(self._replicas):
            life = replica.lives
            try:
                found = replica.samples(**PROMETHEUS)
            except (OSError, urllib.error.URLError, AssertionError, ValueError):
                continue
            self.scrapes += 1
            self._check(replica.name, counters(found))
            if any(value for (name, _), value in found.items() if name == "tokentrace_spans_total"):
                self._counting[replica.name] = life
        self._check_sum()

    def shown(self) -> dict[Key, int]:
        """Sum up the last values of every replica, those of replicas that are gone among them, without zeros."""
        summed: Counter[Key] = Counter()
        for values in list(self._last.values()):
            summed.update(values)
        return {key: value for key, value in summed.items() if value}

    def saw_counting(self, replica: Replica) -> bool:
        """Return True if it has shown spans since its last start."""
        return self._counting.get(replica.name) == replica.lives

    def _check(self, name: str, now: dict[Key, int]) -> None:
        """A series that is not shown, as while a replica restores, is a gap and no value."""
        last = self._last.setdefault(name, {})
        for key, value in now.items():
            # As Prometheus adds up: a first value adds nothing, and a counter that falls has been reset.
            before = last.get(key, value)
            self._increases[key] += value - before if value >= before else value
            if value < before:
                self.steps_back.append(f"{name}: {key} from {last[key]} to {value}")
        last.update(now)

    def _check_sum(self) -> None:
        shown: Counter[Key] = Counter()
        for values in self._last.values():
            shown.update(values)
        truth = self._load.truth()
        for key, value in without(shown, self._load).items():
            if value > truth.get(key, 0):
                self.above_truth.append(f"{key}: {value} of {truth.get(key, 0)}")

    def increases(self) -> dict[Key, int]:
        """Return what increase() finds of each series, over the replicas: rises, and whole values after a fall."""
        return {key: increase for key, increase in self._increases.items() if increase}

    def stop(self) -> None:
        """End with the last values: a new series is 0 once, and then until a commit says that it is shown."""
        self._stopping.set()
        self.join()
        for _ in range(3):
            self._scrape()
            time.sleep(LAST_SCRAPES_S)


def counters(samples: dict[Key, float]) -> dict[Key, int]:
    """The samples of the span families that are counters, as the recount's integers."""
    return {
        (name, labels): in_units(name, value, labels)
        for (name, labels), value in samples.items()
        if name.startswith("tokentrace_")
        and not re.match(r"tokentrace_(worker|groups|dimension|quality|alert|budget|spans_rejected)", name)
    }


def totals(replicas: list[Replica]) -> dict[Key, int]:
    """Sums over the replicas, without zeros. Untracked by zero-first: the values themselves."""
    summed: Counter[Key] = Counter()
    for replica in replicas:
        summed.update(counters(replica.samples()))
    return {key: value for key, value in summed.items() if value}


def differences(found: dict[Key, int], truth: dict[Key, int]) -> dict[str, tuple[int, int]]:
    """Series -> (found, truth), where they are not equal."""
    return {
        f"{name}{sorted(labels)}": (found.get((name, labels), 0), truth.get((name, labels), 0))
        for name, labels in sorted({*found, *truth}, key=repr)
        if found.get((name, labels), 0) != truth.get((name, labels), 0)
    }


def without(found: dict[Key, int], load: Any) -> dict[Key, int]:
    """Leave out the families that a load does not compare."""
    ignored = getattr(load, "ignored", frozenset())
    return {key: value for key, value in found.items() if key[0] not in ignored}


def settle(replicas: list[Replica], load: Any, timeout_s: float = 240.0) -> dict[str, tuple[int, int]]:
    """Wait until the replicas show what was published; what differs at the end."""
    truth = {key: value for key, value in load.truth().items() if value}
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = differences(without(totals(replicas), load), truth)
        except (OSError, AssertionError) as error:
            found = {str(error): (0, 0)}
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.3)

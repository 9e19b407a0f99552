"""`make soak`: the highest rate that this machine holds, for DURATION; memory, threads and descriptors must stay flat.

A publisher runs as fast as it can, or at RATE, and pauses while the workers are far behind, so the fleet keeps up. Each
worker is sampled from /proc. Flat means that the medians over the last tenth of the time are at most 5 % above those
after the first minute. The counters are compared with a recount at the end.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.chaos import seconds
from tests.chaos.fleet import Replica, settle, totals
from tests.chaos.load import Load
from tests.chaos.storm import spans_in
from tests.services import Unavailable
from tests.services.kafka import KafkaBroker

PARTITIONS: Final = 12
#: Spans that may wait. More would be removed before they are counted, see TOPIC.
LONGEST_LAG: Final = 500_000
#: The disk holds some minutes of it, whatever the duration.
TOPIC: Final = {"retention_bytes": str(64 << 20), "segment_bytes": str(16 << 20), "file_delete_delay_ms": "1000"}
SAMPLE_S: Final = 2.0
SETTLED_S: Final = 60.0
SHORTEST_S: Final = 90.0
TOLERANCE: Final = 0.05


class Sample(NamedTuple):
    """Resources of a process, so many seconds after the load began."""

    at_s: float
    resident_mb: float
    threads: int
    descriptors: int


class Change(NamedTuple):
    """A resource's median after the first minute, and over the last tenth of the time."""

    before: float
    after: float

    @property
    def flat(self) -> bool:
        return self.after <= self.before * (1 + TOLERANCE)

    def __str__(self) -> str:
        change = self.after / self.before - 1
        return f"{self.before:.4g} after the first minute, {self.after:.4g} at the end ({change:+.1%})"


def sample(pid: int, at_s: float) -> Sample:
    """Return what /proc shows of a process. Raises FileNotFoundError once it has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if "VmRSS" not in status:
        raise FileNotFoundError(f"process {pid} has ended")
    resident_mb = int(status["VmRSS"].split()[0]) / 1024
    return Sample(at_s, resident_mb, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))


def changes(samples: Sequence[Sample]) -> dict[str, Change]:
    """Return how each resource has changed. Raises ValueError if the samples do not reach beyond the first minute."""
    end_s = samples[-1].at_s
    window_s = max(end_s / 10, 10.0)
    before = [one for one in samples if SETTLED_S <= one.at_s < SETTLED_S + window_s]
    after = [one for one in samples if one.at_s > end_s - window_s]
    if not before or end_s - window_s < SETTLED_S + window_s:
        raise ValueError(f"{end_s:.0f} s of samples are too few")
    return {
        name: Change(statistics.median(column(before)), statistics.median(column(after)))
        for name, column in _COLUMNS.items()
    }


_COLUMNS: Final[dict[str, Callable[[Sequence[Sample]], list[float]]]] = {
    "resident MB": lambda samples: [one.resident_mb for one in samples],
    "threads": lambda samples: [one.threads for one in samples],
    "descriptors": lambda samples: [one.descriptors for one in samples],
}


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a soak. samples: by replica. differences: series -> (found, truth)."""

    duration_s: float
    produced: int
    counted: int
    samples: dict[str, list[Sample]]
    differences: dict[str, tuple[int, int]]

    @property
    def changes(self) -> dict[str, dict[str, Change]]:
        """Replica -> resource -> its change."""
        return {replica: changes(samples) for replica, samples in self.samples.items()}

    @property
    def exact(self) -> bool:
        return self.produced == self.counted and not self.differences

    @property
    def flat(self) -> bool:
        return all(change.flat for resources in self.changes.values() for change in resources.values())

    def lines(self) -> list[str]:
        """Return the summary."""
        rate = self.produced / self.duration_s
        exact = "exact" if self.exact else f"NOT EXACT: {list(self.differences.items())[:5]}"
        lines = [f"{self.produced:,} spans in {self.duration_s:.0f} s, {rate:,.0f} spans/s; {self.counted:,} counted"]
        lines.append(f"  {exact}; {'flat' if self.flat else 'NOT FLAT'}")
        for replica, resources in self.changes.items():
            lines += [f"  {replica} {resource}: {change}" for resource, change in resources.items()]
        return lines

    def as_json(self) -> dict[str, Any]:
        return {
            "duration_s": round(self.duration_s, 1),
            "produced": self.produced,
            "counted": self.counted,
            "spans_per_s": round(self.produced / self.duration_s),
            "exact": self.exact,
            "flat": self.flat,
            "replicas": {
                replica: {name.replace(" ", "_").lower(): change._asdict() for name, change in resources.items()}
                for replica, resources in self.changes.items()
            },
            "samples": self.samples,
        }


class Publisher(threading.Thread):
    """Publishes until it is stopped, at `rate` or as fast as it can.

    counted: how many spans the workers show, set from outside.
    """

    def __init__(self, load: Load, rate: int | None) -> None:
        super().__init__(daemon=True)
        self._load = load
        self._rate = rate
        self._stopping = threading.Event()
        self.counted = 0
        self.duration_s = 0.0

    def run(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            published = self._load.produced
            due = None if self._rate is None else int((time.monotonic() - began) * self._rate) - published
            if published - self.counted > LONGEST_LAG or (due is not None and due <= 0):
                self._stopping.wait(0.02)
                continue
            self._load.publish(1000 if due is None else min(due, 1000))
        self._load.stop()
        self.duration_s = time.monotonic() - began

    def stop(self) -> None:
        """End, and wait until the broker has all of it."""
        self._stopping.set()
        self.join()


def soak(folder: Path, duration_s: float, *, workers: int = 2, rate: int | None = None, seed: int = 1) -> Result:
    """Run the fleet under load. Raises RuntimeError if a worker ends, Unavailable without a real Kafka."""
    broker = KafkaBroker(folder / "kafka", properties="log.retention.check.interval.ms=1000\n")
    broker.start()
    replicas: list[Replica] = []
    try:
        broker.create_topic("spans", PARTITIONS, **TOPIC)
        sections = {"kafka": {"bootstrap_servers": broker.bootstrap, "topic": "spans", "group_id": "soak"}}
        sections["worker"] = {"commit_interval": "1s"}
        replicas += [Replica(folder, f"worker-{number}", sections) for number in range(workers)]
        for replica in replicas:
            replica.wait_until_ready()
        load = Load(broker.bootstrap, "spans", PARTITIONS, seed)
        publisher = Publisher(load, rate)
        publisher.start()
        try:
            samples = _watch(replicas, publisher, duration_s)
        finally:
            publisher.stop()
        differences = settle(replicas, load)
        counted = spans_in(totals(replicas))
    finally:
        for replica in replicas:
            replica.end()
        broker.stop()
    return Result(publisher.duration_s, load.produced, counted, samples, differences)


def _watch(replicas: list[Replica], publisher: Publisher, duration_s: float) -> dict[str, list[Sample]]:
    """Sample the replicas, and tell the publisher how far they are, until the time is over."""
    samples: dict[str, list[Sample]] = {replica.name: [] for replica in replicas}
    began = time.monotonic()
    due_s = 0.0
    while due_s <= duration_s:
        publisher.counted = spans_in(totals(replicas))
        time.sleep(max(began + due_s - time.monotonic(), 0.0))
        for replica in replicas:
            try:
                samples[replica.name].append(sample(replica.process.pid, time.monotonic() - began))
            except FileNotFoundError as error:
                raise RuntimeError(f"{replica.name} has ended. Its log:\n{replica.log()[-3000:]}") from error
        due_s = max(due_s + SAMPLE_S, time.monotonic() - began)
    return samples


def main() -> int:
    duration_s = seconds(os.environ.get("DURATION") or "10m")
    if duration_s < SHORTEST_S:
        raise SystemExit(f"DURATION is {duration_s:.0f} s and must be {SHORTEST_S:.0f} s or more.")
    rate = int(os.environ["RATE"]) if os.environ.get("RATE") else None
    workers = int(os.environ.get("WORKERS") or 2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = soak(Path(folder), duration_s, workers=workers, rate=rate)
    except Unavailable as error:
        raise SystemExit(f"No soak without a real Kafka: {error}.") from error
    print("\n".join(result.lines()), flush=True)
    if os.environ.get("JSON"):
        Path(os.environ["JSON"]).write_text(json.dumps(result.as_json()) + "\n")
    return 0 if result.exact and result.flat else 1


if __name__ == "__main__":
    sys.exit(main())

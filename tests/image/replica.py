"""A replica in a container, which is replaced by one of another image under the same name."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.chaos.fleet import PROMETHEUS, Replica
from tests.image.engine import Engine

#: Time to stop in order, in seconds: that of deploy/kubernetes and compose.yaml.
GRACE_S = 60


class ContainerReplica(Replica):
    """One replica over all its lives. image: what it runs from its next start on."""

    def __init__(self, engine: Engine, folder: Path, name: str, sections: dict[str, Any], image: str) -> None:
        self._engine, self.image = engine, image
        self.container = f"{sections['kafka']['topic']}-{name}"
        super().__init__(folder, name, sections)

    def _start(self) -> Any:
        self.lives += 1
        self._config.parent.chmod(0o755)
        self._config.chmod(0o644)
        self._engine.run("rm", "--force", self.container, check=False)
        mount = ["--volume", f"{self._config}:/etc/tokentrace/tokentrace.yml:ro"]
        self._engine.start(self.container, mount, ["worker", "--config", "/etc/tokentrace/tokentrace.yml"], self.image)
        return Life(self._engine, self.container)

    def stop(self) -> int:
        """End as an orchestrator does, by force after the grace; its exit code, 137 if by force."""
        self._engine.run("stop", "--time", str(GRACE_S), self.container, timeout_s=GRACE_S + 60)
        return int(self._engine.inspect(self.container)["State"]["ExitCode"])

    def log(self) -> str:
        done = self._engine.run("logs", self.container, check=False)
        return done.stdout + done.stderr

    def end(self) -> None:
        self._engine.run("rm", "--force", self.container, check=False)


class Life:
    """A container in place of a process."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        try:
            state = self._engine.inspect(self._name)["State"]
        except (AssertionError, subprocess.TimeoutExpired):
            return -1
        return None if state["Status"] in ("running", "created") else int(state["ExitCode"])


class Gaps(threading.Thread):
    """Measures how long counting paused, under traffic to every partition.

    fleet_s: longest time without a rise of the spans, summed over the replicas, the last value of one that does not
    answer included. partition_s: longest time without a commit of a partition.
    """

    def __init__(self, replicas: Sequence[Replica], bootstrap: str, topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self._replicas = replicas
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "enable.auto.commit": False})
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._stopping = threading.Event()
        self._shown = dict.fromkeys((replica.name for replica in replicas), 0)
        self.fleet_s = self.partition_s = 0.0
        self.looks = 0

    def run(self) -> None:
        began_s = time.monotonic()
        total, rose_s = self._sum(), began_s
        moved = {found.partition: (-1, began_s) for found in self._partitions}
        while not self._stopping.wait(0.2):
            shown, now_s = self._sum(), time.monotonic()
            if shown > total:
                self.fleet_s = max(self.fleet_s, now_s - rose_s)
                total, rose_s = shown, now_s
            for partition, offset in self._committed():
                last, moved_s = moved[partition]
                if offset > last:
                    now_s = time.monotonic()
                    self.partition_s = max(self.partition_s, now_s - moved_s) if last >= 0 else self.partition_s
                    moved[partition] = offset, now_s
            self.looks += 1
        self._consumer.close()

    def _sum(self) -> int:
        for replica in self._replicas:
            try:
                samples = replica.samples(**PROMETHEUS)
            except (OSError, AssertionError, ValueError):
                continue
            shown = sum(int(value) for (name, _), value in samples.items() if name == "tokentrace_spans_total")
            self._shown[replica.name] = max(self._shown[replica.name], shown)
        return sum(self._shown.values())

    def _committed(self) -> list[tuple[int, int]]:
        """Return (partition, offset), nothing where the group has no coordinator for a moment."""
        try:
            return [(found.partition, found.offset) for found in self._consumer.committed(self._partitions, timeout=10)]
        except KafkaException:
            return []

    def leg(self) -> tuple[float, float]:
        """Return (fleet_s, partition_s) since the last call, and begin again."""
        found = self.fleet_s, self.partition_s
        self.fleet_s = self.partition_s = 0.0
        return found

    def stop(self) -> None:
        """End, after a look that sees the last replica count."""
        self._stopping.set()
        self.join()

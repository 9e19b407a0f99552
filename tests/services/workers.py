"""`tokentrace worker` as a process, and what it serves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec
from prometheus_client.parser import text_string_to_metric_families

from tests.oracle import Key
from tests.services import end, free_port
from tests.services.kafka import KafkaBroker

#: Units of a sample, by its name's end: the recount's integers are the sample times these.
_UNITS = {"tokentrace_cost_total": 10**9, "ms_sum": 1000, "eval_score_sum": 10**6}

#: Arguments of Python that run tokentrace as it is installed.
PROGRAM = ("-m", "tokentrace")


def write_config(path: Path, sections: dict[str, Any], replica_id: str) -> Path:
    """A configuration with quick commits and a free port, and `sections` over it."""
    base: dict[str, Any] = {
        "worker": {
            "replica_id": replica_id,
            "commit_interval": "200ms",
            "drain_timeout": "0s",
            "log_format": "json",
        },
        "http_server": {"addr": f"127.0.0.1:{free_port()}"},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    path.write_text(yaml.safe_dump(base))
    return path


class Served:
    """A worker by what it serves at `target`, host:port."""

    target: str
    answer_timeout_s = 60.0

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of a GET. Raises OSError if there is no answer, or half of one."""
        request = urllib.request.Request(f"http://{self.target}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self.answer_timeout_s) as response:
                return response.status, response.read(), dict(response.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)
        except HTTPException as error:
            # A worker that is killed while it answers.
            raise ConnectionResetError(f"{type(error).__name__}: {error}") from error

    def ready(self) -> bool:
        try:
            return self.get("/health/ready")[0] == 200
        except OSError:
            return False

    def samples(self, **headers: str) -> dict[Key, float]:
        """Every sample of its text exposition."""
        status, body, _ = self.get("/metrics/prometheus", **headers)
        assert status == 200, body
        text = body.decode()
        lines = [line for line in text.split("\n") if line and not line.startswith("#")]
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            (sample.name, frozenset(sample.labels.items())): Value(line.rsplit(" ", 1)[1])
            for sample, line in zip(samples, lines, strict=True)
        }


class WorkerProcess(Served):
    """A running worker. program: arguments of Python that run tokentrace, before its own."""

    def __init__(self, config: Path, log: Path, program: Sequence[str] = PROGRAM) -> None:
        self._program = program
        self._log = log
        self._config = config
        self.http = yaml.safe_load(config.read_text())["http_server"]
        self.target = self.http["addr"]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *self._program, "worker", "--config", str(self._config)],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def restart(self) -> None:
        """The same worker again, after it has ended."""
        assert self.process.poll() is not None
        self.process = self._start()

    def wait_until_ready(self, timeout_s: float = 180.0) -> None:
        """Until it has joined the group."""
        self._wait(self.ready, timeout_s, "become ready")

    def wait_for_log(self, pattern: str, timeout_s: float = 180.0) -> str:
        """The first line of its log that a pattern is found in."""
        found: list[str] = []

        def seen() -> bool:
            found.extend(line for line in self.log().splitlines() if re.search(pattern, line))
            return bool(found)

        self._wait(seen, timeout_s, f"log {pattern!r}", alive=False)
        return found[0]

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str, alive: bool = True) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline or (alive and self.process.poll() is not None):
                raise AssertionError(f"The worker did not {what}. Its log:\n{self.log()[-3000:]}")
            time.sleep(0.05)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def messages(self) -> list[str]:
        """The messages of its log, and lines that are no log records."""
        lines = []
        for line in self.log().splitlines():
            try:
                lines.append(str(json.loads(line)["message"]))
            except ValueError:
                lines.append(line)
        return lines

    def terminate(self, timeout_s: float = 120.0) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"The worker did not end. Its log:\n{self.log()[-3000:]}") from None

    def end(self) -> None:
        """In order where it can be: what it has covered is written then."""
        end(self.process, signal.SIGTERM, 10.0)

    def kill(self) -> None:
        end(self.process, signal.SIGKILL)


class Value(float):
    """A sample's value. exact: as its line has it; of which a float keeps 53 bits, less than nine million dollars."""

    exact: Decimal

    def __new__(cls, text: str) -> Value:
        value = super().__new__(cls, text)
        value.exact = Decimal(text)
        return value


def in_units(name: str, value: float, labels: frozenset[tuple[str, str]] = frozenset()) -> int:
    """A sample's value as the recount's integer."""
    if any(label == "unit" and "second" in unit for label, unit in labels):
        return round((value.exact if isinstance(value, Value) else value) * 1000)
    scale = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), 1)
    return round((value.exact if isinstance(value, Value) else value) * scale)


def span_totals(workers: list[WorkerProcess]) -> dict[Key, int]:
    """The samples of the span families, summed over workers, as the recount's integers; gauges are left out."""
    totals: dict[Key, int] = {}
    for worker in workers:
        for (name, labels), value in worker.samples().items():
            if name.startswith("tokentrace_") and not re.match(
                r"tokentrace_(worker|groups|quality|alert|budget|spans_rejected)", name
            ):
                totals[name, labels] = totals.get((name, labels), 0) + in_units(name, value, labels)
    return totals


def wait_for(condition: Callable[[], bool], timeout_s: float = 180.0) -> bool:
    """Wait for the condition; return True if it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def wait_for_markers(kafka: KafkaBroker, topic: str, partitions: int) -> None:
    """Wait until a topic shows what was committed: Kafka answers a commit first, and writes its markers then."""
    admin = kafka.admin()  # Has to outlive its answers.

    def ends(isolation: IsolationLevel) -> list[int]:
        latest = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)}
        answers = admin.list_offsets(latest, isolation_level=isolation)
        return [answers[partition].result().offset for partition in latest]

    assert wait_for(lambda: ends(IsolationLevel.READ_COMMITTED) == ends(IsolationLevel.READ_UNCOMMITTED)), topic

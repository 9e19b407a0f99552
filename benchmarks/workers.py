"""Worker processes for the benchmarks: configuration, start, and scraping on a schedule."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.services import free_port, unmeasured
from tests.services.kafka import KafkaBroker

from .broker import fill
from .effort import Effort
from .measure import Measure, in_turns
from .workload import BATCH, Workload, workload

ROOT = Path(__file__).parent.parent


def write_config(folder: Path, broker: KafkaBroker, topic: str, load: Workload, **worker: Any) -> Path:
    """The configuration of a new replica in a group of its own, with the defaults wherever it matters.

    There is no registry: the schema is a file.
    """
    name = uuid.uuid4().hex[:8]
    schemas = folder / f"schemas-{name}"
    schemas.mkdir()
    (schemas / "span.avsc").write_text(json.dumps(load.schema))
    path = folder / f"{name}.yml"
    path.write_text(
        yaml.safe_dump(
            {
                "kafka": {
                    "bootstrap_servers": broker.bootstrap,
                    "topic": topic,
                    "group_id": name,
                },
                "schemas": {"paths": [str(schemas)]},
                "worker": {"replica_id": name, "drain_timeout": "0s", **worker},
                "http_server": {"addr": f"127.0.0.1:{free_port()}"},
                "metrics": {"max_groups": 100_000, "max_series": 10**9, "max_exposition_bytes": 10**12},
            }
        )
    )
    return path


def url_of(config: Path, path: str = "/metrics/prometheus") -> str:
    return f"http://{yaml.safe_load(config.read_text())['http_server']['addr']}{path}"


def probe(name: str, *arguments: object) -> dict[str, Any]:
    """Run a program of `benchmarks.probes`; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.probes.{name}", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=unmeasured(),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"The probe {name} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def counting_speed(config: Path, count: int) -> float:
    """Spans a second of the real worker over a topic of `count`."""
    found = probe("worker", config, count)
    assert found["counted"] == count, found
    assert not found["rejected"], found
    return float(found["spans_per_s"])


def counting_beside(
    effort: Effort,
    broker: KafkaBroker,
    topic: str,
    sections: Callable[[], dict[str, Any]],
    kind: str = "default",
    groups: int | None = None,
) -> tuple[Measure, Measure]:
    """Return the speed of a worker over a topic of its own, without and with more sections of the configuration.

    kind, groups: of the spans, see `workload`; as many groups as for alerts, if not given.
    """
    load = workload(kind, effort.distinct, groups or effort.alert_groups)
    fill(broker, topic, load.messages, effort.alert_spans)
    with tempfile.TemporaryDirectory() as folder:

        def speed(more: dict[str, Any]) -> float:
            config = write_config(
                Path(folder), broker, topic, load, commit_interval=effort.commit_interval, batch_size=BATCH
            )
            config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | more))
            return counting_speed(config, effort.alert_spans)

        without, with_ = in_turns(max(effort.process_repeats, 1), lambda: speed({}), lambda: speed(sections()))
    return without, with_


@contextmanager
def running_worker(config: Path, timeout_s: float = 60.0) -> Iterator[subprocess.Popen[bytes]]:
    """`tokentrace worker` as a process, ready."""
    log_path = config.with_suffix(".log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tokentrace", "worker", "--config", str(config)],
            stdout=log,
            stderr=log,
            env=unmeasured(),
        )
    try:
        deadline = time.monotonic() + timeout_s
        while not answers(url_of(config, "/health/ready")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The worker did not become ready:\n{log_path.read_text()[-3000:]}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(30.0)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5.0) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def scrape(url: str) -> bytes:
    """One scrape, as Prometheus asks for it."""
    request = urllib.request.Request(url, headers={"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=30.0) as response:
        return gzip.decompress(response.read())


@contextmanager
def scraped_every_second(url: str) -> Iterator[list[float]]:
    """Scrape in the background; the seconds of every scrape that was answered."""
    seconds: list[float] = []
    done = threading.Event()

    def loop() -> None:
        due = time.monotonic()
        while not done.is_set():
            began = time.perf_counter()
            try:
                scrape(url)
                seconds.append(time.perf_counter() - began)
            except (OSError, urllib.error.URLError):
                done.wait(0.05)
                continue
            due = max(due + 1.0, time.monotonic())
            done.wait(due - time.monotonic())

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        done.set()
        thread.join(30.0)


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began

"""(d) Memory: the highest resident size of a worker.

A `tokentrace worker` process catches up on a topic while it is scraped every second.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.services.kafka import KafkaBroker

from .broker import fill
from .effort import Effort
from .measure import Figure, Row
from .workers import answers, running_worker, scrape, scraped_every_second, url_of, write_config
from .workload import workload

TARGET_MB = 250
TARGET_GROUPS = 10_000


def run(effort: Effort, broker: KafkaBroker) -> Figure:
    rows: list[Row] = []
    results: dict[str, Any] = {}
    for groups in effort.memory_groups:
        peak_mb, at_start_mb, series = _peak(effort, broker, groups)
        results |= {f"rss_mb_{groups}_groups": peak_mb, "rss_mb_at_start": at_start_mb}
        target = f"< {TARGET_MB} MB" if groups == TARGET_GROUPS else ""
        case = f"{groups} groups, {series} series, {effort.memory_spans / 1e6:.1f} M spans"
        rows.append(Row(case, f"{peak_mb:.0f} MB", f"{peak_mb / at_start_mb:.2f}", "before the first span", target))
    return Figure("d memory", rows, {"memory": results})


def _peak(effort: Effort, broker: KafkaBroker, groups: int) -> tuple[float, float, int]:
    """(MB at the highest, MB before the first span, series)."""
    load = workload("default", max(4 * groups, effort.distinct // 2), groups)
    topic = f"bench-memory-{groups}"
    broker.create_topic(f"{topic}-empty", 4)
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), broker, f"{topic}-empty", load)
        with running_worker(config) as process:
            scrape(url_of(config))
            at_start_mb = _resident_mb(process)
        fill(broker, topic, load.messages, effort.memory_spans)
        config = write_config(Path(folder), broker, topic, load)
        url = url_of(config)
        with running_worker(config) as process, scraped_every_second(url) as seconds:
            while _lag(scrape(url)) > 0 or len(seconds) < 3:
                time.sleep(0.2)
            body = scrape(url)
            assert answers(url_of(config, "/health/live"))
            return _resident_mb(process), at_start_mb, _samples(body)


def _lag(body: bytes) -> int:
    """Records that the worker has not read yet; 1 before it knows."""
    lags = [
        line.split()[-1] for line in body.decode().splitlines() if line.startswith("tokentrace_worker_lag_records{")
    ]
    return int(sum(map(float, lags))) if len(lags) == 4 else 1


def _samples(body: bytes) -> int:
    return sum(not line.startswith(b"#") for line in body.splitlines())


def _resident_mb(process: subprocess.Popen[bytes]) -> float:
    """The highest resident size that the kernel saw (VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) / 1024

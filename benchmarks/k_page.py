"""(k) The live page: counting beside ten open pages against counting alone, in one process as in a worker.

The pages follow the rollups of `REPLICAS` replicas, each of which commits once a second with all groups in it.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from tokentrace.exposition import HealthReport, HttpServer, HttpSettings, Renderer
from tokentrace.exposition.ui.feed import RollupFeed
from tokentrace.exposition.ui.page import LivePage, PageFacts
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.model.stop import StopSignal
from tokentrace.model.worker_stats import Moment, WorkerStats
from tokentrace.state import StateCodec
from tokentrace.state.records import Progress

from .effort import Effort
from .measure import Figure, Measure, Row
from .rig import LAYOUT, Harness
from .workload import workload

GROUPS = 1_000
PAGES = 10
REPLICAS = 3
#: Minutes before the pages were opened.
HISTORY = 60


def run(effort: Effort) -> Figure:
    rig = Harness(workload("default", effort.spans, GROUPS))
    rig.count()
    turns = [
        (_counting(rig, effort.seconds), _beside_pages(rig, effort.seconds)) for _ in range(effort.process_repeats)
    ]
    alone = Measure(tuple(rate for rate, _ in turns))
    beside = Measure(tuple(rate for _, (rate, _) in turns))
    share = Measure(tuple(share for _, (_, share) in turns))
    ratio = beside.over(alone)
    rows = [
        Row(f"counting beside {PAGES} pages, {GROUPS} groups, {REPLICAS} replicas", beside.text(" M spans/s", 1e6),
            ratio.text(), "without pages", ">= 0.98"),
        Row("processor time of the pages' threads, of one core", share.text(" %", 0.01), "", "", "< 2 %"),
    ]  # fmt: skip
    results = {"counting_vs_without": ratio.median, "share_of_a_core": share.median}
    return Figure("k page", rows, {"page": results})


def _counting(rig: Harness, seconds: float) -> float:
    """Count for so long; return spans a second."""
    spans, began_s = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - began_s) < seconds:
        rig.count()
        spans += sum(map(len, rig.batches))
    return spans / passed_s


def _beside_pages(rig: Harness, seconds: float) -> tuple[float, float]:
    """Count beside open pages; return spans a second, and the share of one core that the other threads took."""
    log = _Log(rig, time.time())
    stop = StopSignal()
    feed = RollupFeed(open_log=lambda: log, layout=LAYOUT, inquiries={}, stop=stop)  # type: ignore[arg-type,return-value]
    stats = WorkerStats(replica_id="r", guarantee="exactly_once", started_at_s=time.time())
    snapshot = rig.ledger.snapshot
    page = LivePage(
        facts=PageFacts("g", "spans", ("model", "provider", "caller"), False, False, "/metrics", "/health"),
        feed=feed,
        moment=lambda: Moment(stats, snapshot, time.monotonic()),
    )
    renderer = Renderer({})
    server = HttpServer(
        HttpSettings(host="127.0.0.1", port=0),
        render=lambda form, by_prometheus: renderer.scrape(lambda: snapshot, form, by_prometheus),
        health=lambda: HealthReport(live=True, ready=True),
        page=page,
    )
    server.start()
    command = [sys.executable, "-m", "benchmarks.probes.pages", str(server.port), str(PAGES), str(seconds + 6)]
    browsers = subprocess.Popen(command)
    try:
        # The pages are open and the history is read before the time counts.
        time.sleep(6)
        all_s, own_s, began_s = time.process_time(), time.thread_time(), time.perf_counter()
        rate = _counting(rig, seconds)
        passed_s = time.perf_counter() - began_s
        share = ((time.process_time() - all_s) - (time.thread_time() - own_s)) / passed_s
        assert browsers.wait(60) == 0
    finally:
        browsers.kill()
        stop.set()
        page.stop(10.0)
        server.stop()
    return rate, share


class _Log:
    """A rollups topic with a record for each minute of the last hour, to which every replica adds one each second."""

    def __init__(self, rig: Harness, now_s: float) -> None:
        self._began_s = now_s
        self._minute = int(now_s // 60)
        delta = rig.count()
        rows, groups = delta.by_minute(), rig.groups
        codec = StateCodec(LAYOUT)
        cells = [
            (groups.groups[group], status)
            for group, status in zip(
                groups.cell_group[rows.cells].tolist(), groups.cell_status[rows.cells].tolist(), strict=True
            )
        ]

        def value(replica: int, minute: int) -> bytes:
            minutes, progress = np.full_like(rows.minutes, minute), Progress(1, {}, 0)
            return next(iter(codec.rollups(f"r{replica}", now_s, minutes, cells, rows.values, progress)))

        self._history = [value(0, self._minute - HISTORY + number) for number in range(HISTORY)]
        self._values = [value(replica, self._minute) for replica in range(REPLICAS)]

    def offset_at(self, time_s: float) -> int:
        passed_s = time_s - self._began_s
        return max(HISTORY + int(passed_s * REPLICAS if passed_s > 0 else passed_s / 60), 0)

    def end(self) -> int:
        return HISTORY + int((time.time() - self._began_s) * REPLICAS)

    def read(self, offset: int) -> _Reader:
        return _Reader(self, offset)

    def record(self, offset: int) -> PartitionRecord:
        if offset < HISTORY:
            return PartitionRecord(offset, self._history[offset])
        return PartitionRecord(offset, self._values[offset % REPLICAS])


class _Reader:
    def __init__(self, log: _Log, offset: int) -> None:
        self._log, self._offset = log, offset

    def poll(self, max_records: int = 100, timeout_s: float = 0.0) -> list[PartitionRecord]:
        time.sleep(timeout_s)
        end = min(self._log.end(), self._offset + max_records)
        found = [self._log.record(offset) for offset in range(self._offset, end)]
        self._offset = max(self._offset, end)
        return found

    def close(self) -> None:
        pass

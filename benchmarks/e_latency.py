"""(e) Latency: from `produce()` to the first scrape that shows the span, at 1 000 spans a second.

One partition, so that the n-th span that was produced is the n-th that is counted. The endpoint is asked every few
milliseconds; the figure includes that interval.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path

from confluent_kafka import Producer
from tests.services.kafka import KafkaBroker

from .effort import Effort
from .measure import Figure, Row
from .workers import running_worker, scrape, url_of, write_config
from .workload import workload

SPANS_PER_S = 1_000
COMMIT_INTERVAL_S = 1.0
LOOK_S = 0.005
_COUNTED = b"tokentrace_worker_counted_records_total{"


def run(effort: Effort, broker: KafkaBroker) -> Figure:
    load = workload("default", 10_000, 10)
    topic = "bench-latency"
    broker.create_topic(topic, 1)
    total = int(effort.seconds * SPANS_PER_S)
    produced_s: list[float] = []
    seen: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), broker, topic, load, commit_interval=f"{COMMIT_INTERVAL_S:g}s")
        url = url_of(config)
        with running_worker(config):
            producer = threading.Thread(target=_produce, args=(broker, topic, load.messages, total, produced_s))
            producer.start()
            deadline = time.monotonic() + effort.seconds + 30.0
            while (not seen or seen[-1][1] < total) and time.monotonic() < deadline:
                counted = _counted(scrape(url))
                now_s = time.perf_counter()
                if counted and (not seen or counted > seen[-1][1]):
                    seen.append((now_s, counted))
                time.sleep(LOOK_S)
            producer.join()
    latencies = sorted(_latencies(produced_s, seen))
    assert len(latencies) == total, f"{len(latencies)} of {total} spans became visible"
    p50, p99 = statistics.median(latencies), latencies[int(0.99 * (total - 1))]
    row = Row(
        f"{SPANS_PER_S} spans/s for {effort.seconds:g} s, commit interval {COMMIT_INTERVAL_S:g} s",
        f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {latencies[-1] * 1e3:.0f} ms",
        f"{p99 / COMMIT_INTERVAL_S:.2f}",
        "commit interval",
        f"p99 < {COMMIT_INTERVAL_S + 0.2:g} s",
    )
    results = {"p50_s": p50, "p99_s": p99, "max_s": latencies[-1], "commit_interval_s": COMMIT_INTERVAL_S}
    return Figure("e latency", [row], {"latency": results})


def _produce(broker: KafkaBroker, topic: str, messages: list[bytes], total: int, produced_s: list[float]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 5})
    began = time.perf_counter()
    for index in range(total):
        due = began + index / SPANS_PER_S
        while (left := due - time.perf_counter()) > 0:
            producer.poll(left)
        produced_s.append(time.perf_counter())
        producer.produce(topic, messages[index % len(messages)], partition=0)
    producer.flush(30.0)


def _counted(body: bytes) -> int:
    return int(sum(float(line.split()[-1]) for line in body.splitlines() if line.startswith(_COUNTED)))


def _latencies(produced_s: list[float], seen: list[tuple[float, int]]) -> list[float]:
    found: list[float] = []
    for moment, counted in seen:
        found += [moment - sent_s for sent_s in produced_s[len(found) : counted]]
    return found

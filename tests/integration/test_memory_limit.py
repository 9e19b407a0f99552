"""Input that is small in the topic and large in memory: the worker stays under its limit, and counts exactly."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.oracle import Key, recount
from tests.services.kafka import KafkaBroker
from tests.services.workers import Value, WorkerProcess, in_units, wait_for
from tests.spanfactory import message, random_span, span

pytestmark = pytest.mark.nightly

MIB = 1 << 20
#: Half of what deploy/kubernetes/base/statefulset.yaml sets.
LIMIT = 512 * MIB
MOST_SECONDS = 10.0
#: Spans of as many model names: 2.1 MB of messages with names of 8 bytes.
NAMES = 20_000
#: Messages of each kind: 880 kB of text that gzip packs into 3 kB, 5.5 MB of gzip together.
TEXTS = 900
TEXT = ("the prompt is quoted here in full, again and again. " * 17_000)[:880_000]
UNREAD = 60
#: The larger format, which Prometheus asks for.
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
#: A sample of a family of spans, with no gauge and no creation time.
SAMPLE = re.compile(
    r"^(tokentrace_(?!worker_|groups|quality|alert|spans_rejected)\w+(?<!_created)){(.*)} (\S+)$", re.MULTILINE
)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scraper:
    """Scrapes a worker without a pause. slowest: seconds that the slowest scrape took. largest: bytes."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.slowest, self.largest, self.failures = 0.0, 0, list[str]()

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def scrape(self) -> None:
        began = time.monotonic()
        try:
            status, body, _ = self._worker.get("/metrics/prometheus", Accept=OPENMETRICS)
        except OSError as error:
            self.failures.append(f"{error!r} after {time.monotonic() - began:.1f} s")
            return
        if status != 200:
            self.failures.append(f"{status} {body[:200]!r}")
        self.slowest, self.largest = max(self.slowest, time.monotonic() - began), max(self.largest, len(body))

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self.scrape()


def most_resident(worker: WorkerProcess) -> int:
    """Bytes of the largest resident memory so far."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def assert_bounded(worker: WorkerProcess, scraper: Scraper, most: int = LIMIT) -> None:
    resident = most_resident(worker)
    figures = (
        f"resident {resident / MIB:.0f} MiB at most, slowest scrape {scraper.slowest:.1f} s, "
        f"largest {scraper.largest / 1e6:.1f} MB"
    )
    print(figures)
    assert not scraper.failures
    assert scraper.largest > 0
    assert resident < most, figures
    assert scraper.slowest < MOST_SECONDS, figures


def without_groups(key: Key) -> Key:
    name, labels = key
    return name, frozenset((label, text) for label, text in labels if label not in {"model", "provider", "caller"})


def total(worker: WorkerProcess, name: str) -> int:
    """A counter over all its labels. Reads lines, since a parser takes a minute for a page of this size."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\d+)(?:\.0)?$", scrape(worker), re.MULTILINE)
    return sum(map(int, found))


def scrape(worker: WorkerProcess) -> str:
    status, body, _ = worker.get("/metrics/prometheus")
    assert status == 200
    return body.decode()


def sums(worker: WorkerProcess) -> Counter[Key]:
    """The samples of the span families as the recount's integers, over all models, providers and callers."""
    result: Counter[Key] = Counter()
    for name, labels, value in SAMPLE.findall(scrape(worker)):
        kept = frozenset(pair for pair in LABEL.findall(labels) if pair[0] not in {"model", "provider", "caller"})
        result[name, kept] += in_units(name, Value(value))
    return result


def assert_exact(worker: WorkerProcess, spans: list[dict[str, Any]]) -> None:
    """Wait until all spans are shown, and compare every sum with a recount."""
    expected: Counter[Key] = Counter()
    # By parts, since a recount has 80 keys for each model.
    for first in range(0, len(spans), 1000):
        for key, value in recount(spans[first : first + 1000]).items():
            expected[without_groups(key)] += value
    assert wait_for(lambda: total(worker, "tokentrace_spans_total") == len(spans))
    # A series that is new is shown as 0 once, so a scrape more may be needed.
    wait_for(lambda: +sums(worker) == +expected, 30.0)
    assert +sums(worker) == +expected


@pytest.fixture
def start(kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]) -> Callable[[], WorkerProcess]:
    """Starts the worker with the default limits, and the shipped memory limit."""
    return lambda: start_worker(
        kafka={"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        worker={"replica_id": f"{topic}-0", "memory_limit": LIMIT},
    )


@pytest.fixture
def produce(kafka: KafkaBroker, topic: str) -> Callable[[Iterable[bytes]], None]:
    """Publishes messages, a batch for each two of them where they are large, over all partitions."""

    def publish(values: Iterable[bytes]) -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": "gzip", "linger.ms": 0})
        numbers = count()
        for number, value in zip(numbers, values, strict=False):
            producer.produce(topic, value, partition=number % 4)
            if len(value) > 10_000 or number % 1000 == 0:
                producer.flush(30)
        assert producer.flush(60) == 0

    return publish


def fresh_names(length: int) -> list[dict[str, Any]]:
    """Spans each of which names a model that no other names."""
    rng = Random(length)
    return [random_span(rng) | {"model": f"m-{number:06}".ljust(length, "x")} for number in range(NAMES)]


@contextmanager
def unread_scrapes(worker: WorkerProcess, number: int) -> Iterator[list[socket.socket]]:
    """Scrapes whose answers are not read while the block runs."""
    host, _, port = worker.target.rpartition(":")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection((host, int(port)), 30.0)) for _ in range(number)]
        for reader in sockets:
            reader.sendall(b"GET /metrics/prometheus HTTP/1.1\r\nHost: x\r\n\r\n")
        yield sockets


@pytest.mark.parametrize("length", [8, 1024])
def test_a_worker_stays_under_its_memory_limit_with_a_fresh_model_name_in_each_message(
    start: Callable[[], WorkerProcess], produce: Callable[[Iterable[bytes]], None], length: int
) -> None:
    spans, worker = fresh_names(length), start()
    with Scraper(worker) as scraper:
        produce(map(message, spans))
        assert_exact(worker, spans)
    assert_bounded(worker, scraper)
    assert scraper.largest < LIMIT // 16


def test_a_worker_stays_under_its_memory_limit_while_nobody_reads_its_large_scrapes(
    start: Callable[[], WorkerProcess], produce: Callable[[Iterable[bytes]], None]
) -> None:
    first, second, worker = fresh_names(150), fresh_names(151), start()
    produce(map(message, first))
    assert_exact(worker, first)
    with Scraper(worker) as scraper:
        scraper.scrape()
        with unread_scrapes(worker, UNREAD):
            produce(map(message, second))
            assert_exact(worker, first + second)
    assert scraper.largest > 10_000_000
    assert_bounded(worker, scraper)


def test_a_worker_stays_under_its_memory_limit_with_messages_that_unpack_to_far_more(
    start: Callable[[], WorkerProcess], produce: Callable[[Iterable[bytes]], None]
) -> None:
    spans = [span(prompt_tokens=number, attributes={"prompt": TEXT}) for number in range(TEXTS)]
    refused = json.dumps({"prompt": TEXT}).encode()
    produce(value for record in spans for value in (message(record), refused))
    worker = start()
    with Scraper(worker) as scraper:
        assert_exact(worker, spans)
        assert wait_for(lambda: total(worker, "tokentrace_spans_rejected_total") == TEXTS)
    # 505 MiB where an answer is not bounded.
    assert_bounded(worker, scraper, LIMIT * 3 // 4)

"""Load under attack: a worker keeps counting, answers probes, and stays under its limits of memory and log."""

from __future__ import annotations

import http.client
import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.chaos.attack import HALF_OPEN, PIPELINED, SCRAPERS, UNREAD, AttackProcess, Done
from tests.chaos.fleet import counters, differences
from tests.chaos.load import Load
from tests.chaos.soak import Publisher
from tests.integration.test_memory_limit import most_resident
from tests.oracle import Key, recount
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for
from tests.spanfactory import message, span

MIB = 1 << 20
#: Of the shipped Kubernetes manifests.
LIMIT = 1024 * MIB
PARTITIONS = 4
MODELS, CALLERS = 1200, 5
#: Spans a second, a part of what two cores hold beside the publisher, the broker and the attack.
RATE = 20_000
WINDOW_S = 10.0
WINDOWS = 4
SETTLE_S = 2.0
PROBE_INTERVAL_S = 0.1
LONGEST_PROBE_S = 1.0
LARGEST_LOG = 1_000_000


class Prober(threading.Thread):
    """Probes as a kubelet does: from an address that is not the attack's, on a new connection each.

    longest_s: by path. failures: what was not 200.
    """

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._stopping = threading.Event()
        self.longest_s = {"/health/live": 0.0, "/health/ready": 0.0}
        self.probes = 0
        self.failures: list[str] = []

    def run(self) -> None:
        for path in itertools.cycle(list(self.longest_s)):
            if self._stopping.wait(PROBE_INTERVAL_S):
                return
            began = time.monotonic()
            client = http.client.HTTPConnection(self._target, timeout=10.0, source_address=("127.0.0.2", 0))
            try:
                client.request("GET", path)
                response = client.getresponse()
                body = response.read()
                if response.status != 200:
                    self.failures.append(f"{path}: {response.status} {body[:300]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{path}: {error!r}")
            finally:
                client.close()
            self.longest_s[path] = max(self.longest_s[path], time.monotonic() - began)
            self.probes += 1

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Committed:
    """Spans that a group has committed, and so counted; the broker is asked, which costs the worker nothing."""

    def __init__(self, kafka: KafkaBroker, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic})
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]

    def spans(self) -> int:
        return sum(max(found.offset, 0) for found in self._consumer.committed(self._partitions, 30.0))

    def close(self) -> None:
        self._consumer.close()


def publish_groups(kafka: KafkaBroker, topic: str) -> Counter[Key]:
    """Publish a span of every group, and return what they come to."""
    spans = [
        span(
            model=f"model-{model:04d}-" + "of-a-long-name-" * 6, provider="maison", caller=f"team-{caller}",
            latency_ms=700.0, ttft_ms=90.0, attributes={"eval.score": 0.5},
        )
        for model in range(MODELS)
        for caller in range(CALLERS)
    ]  # fmt: skip
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number, one in enumerate(spans):
        producer.produce(topic, message(one), partition=number % PARTITIONS)
    assert producer.flush(60.0) == 0
    return recount(spans)


def window(committed: Committed, publisher: Publisher) -> float:
    """Spans a second that are counted over a window."""
    time.sleep(SETTLE_S)
    began, before = time.monotonic(), committed.spans()
    while time.monotonic() - began < WINDOW_S:
        time.sleep(0.5)
        publisher.counted = committed.spans()
    return (publisher.counted - before) / (time.monotonic() - began)


def alternate(committed: Committed, publisher: Publisher, target: str) -> tuple[list[float], list[float], list[Done]]:
    """Return the rates without an attack, those with one, and what the attacks did."""
    calm: list[float] = []
    attacked: list[float] = []
    attacks: list[Done] = []
    for _ in range(WINDOWS):
        calm.append(window(committed, publisher))
        attack = AttackProcess(target)
        try:
            attacked.append(window(committed, publisher))
        finally:
            attacks.append(attack.stop())
    return calm, attacked, attacks


@pytest.mark.nightly
def test_a_worker_under_attack_counts_on_and_answers_probes(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    """Compare spans counted a second, by what the worker has committed, in windows with and without an attack.

    The windows alternate, under one steady load; the medians are compared. The publisher, the broker and the attack
    use the same cores as the worker, so what they cost is in the ratio too. Probes and memory are of the whole time.
    """
    sections = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic},
        "worker": {"memory_limit": LIMIT},
    }
    worker = start_worker(**sections)
    groups = publish_groups(kafka, topic)
    load = Load(kafka.bootstrap, topic, PARTITIONS, seed=1)
    publisher, prober = Publisher(load, RATE), Prober(worker.target)
    with closing(Committed(kafka, topic)) as committed:
        assert wait_for(lambda: committed.spans() == MODELS * CALLERS)
        page = len(worker.get("/metrics/prometheus")[1])
        assert page > 20 * MIB, f"{page / MIB:.0f} MiB"
        publisher.start()
        prober.start()
        try:
            calm, attacked, attacks = alternate(committed, publisher, worker.target)
        finally:
            publisher.stop()
            prober.stop()
        all_spans = MODELS * CALLERS + load.produced
        assert wait_for(lambda: committed.spans() >= all_spans)
        assert committed.spans() == all_spans

    truth = groups + Counter(load.truth())
    shown = Counter(counters(worker.samples()))
    assert list(differences(+shown, +truth).items())[:5] == []

    ratio = statistics.median(attacked) / statistics.median(calm)
    resident, log = most_resident(worker), len(worker.log().encode())
    print(f"spans/s {calm} calm, {attacked} attacked: {ratio:.3f}; {load.produced} spans")
    print(f"page {page / MIB:.1f} MiB, resident {resident / MIB:.0f} MiB at most, log {log} bytes")
    print(f"{prober.probes} probes, longest {prober.longest_s}, failed {prober.failures[:5]}")
    print(*attacks, sep="\n")
    for done in attacks:
        assert done.half_open >= HALF_OPEN, done
        assert done.unread >= UNREAD, done
        assert done.scrapes >= SCRAPERS, done
        assert done.pipelined >= PIPELINED, done
    assert ratio >= 0.9, (calm, attacked)
    assert resident < LIMIT
    assert prober.failures == []
    assert max(prober.longest_s.values()) < LONGEST_PROBE_S, prober.longest_s
    assert log < LARGEST_LOG

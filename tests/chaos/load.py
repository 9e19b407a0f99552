"""Load: spans from a few hundred templates, and at any moment exactly what they have to add up to."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
from confluent_kafka import Producer

from tests.budgets.oracle import Sums
from tests.chaos.budgets import around_a_boundary, sums_of_counts
from tests.chaos.dimensions import recount_by_dimensions
from tests.ledger import helpers as ledger
from tests.oracle import Key, recount
from tests.spanfactory import first_message, message, random_span, unit_span

#: Families that release 0.1.0 does not have.
LATER_FAMILIES = frozenset({"tokentrace_usage_total", "tokentrace_spans_repaired_total"})


class Load:
    """Publishes templates at random. `counts` is how often each was handed to the producer, so never too low.

    ignored: families that are not compared. first: the spans are of version 1, and the families that release 0.1.0 does
    not have are ignored. units: the spans have units of many kinds. dimensions, budgets: the fleet has those of the
    chaos.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        partitions: int,
        seed: int,
        templates: int = 200,
        *,
        first: bool = False,
        units: bool = False,
        dimensions: bool = False,
        budgets: bool = False,
    ) -> None:
        rng = random.Random(seed)
        spans = [unit_span(rng) if units else random_span(rng) for _ in range(templates)]
        self._spans = spans = [around_a_boundary(span, rng) for span in spans] if budgets else spans
        self._messages = [(first_message if first else message)(span) for span in spans]
        self.ignored = LATER_FAMILIES if first else frozenset()
        sums = [recount_by_dimensions(span) if dimensions else recount([span]) for span in spans]
        self.keys: list[Key] = sorted({key for sums_of_span in sums for key in sums_of_span}, key=repr)
        self._matrix = np.array([[sums_of_span[key] for sums_of_span in sums] for key in self.keys], np.int64)
        self.counts = np.zeros(templates, np.int64)
        self._partitions = partitions
        self._topic = topic
        self._rng = rng
        # Delivered once whatever the broker does meanwhile: what is published is the truth to compare with.
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True,
                "delivery.timeout.ms": 300_000, "queue.buffering.max.messages": 1_000_000, "log_level": 0,
            }
        )  # fmt: skip
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.failures: list[str] = []

    @property
    def produced(self) -> int:
        return int(self.counts.sum())

    def truth(self) -> dict[Key, int]:
        """Every sample's value, were all that was published counted now."""
        sums = zip(self.keys, (self._matrix @ self.counts).tolist(), strict=True)
        return {key: value for key, value in sums if key[0] not in self.ignored}

    def budgets(self) -> Sums:
        """Sum the budgets of the chaos up, over all that was published."""
        return sums_of_counts(self._spans, self.counts.tolist())

    def hours(self) -> ledger.Hours:
        """Sum the ledger's hours up, over all that was published."""
        return ledger.recount(self._spans, self.counts.tolist())

    def publish(self, count: int) -> None:
        """Publish so many now."""
        for index in self._rng.choices(range(len(self._messages)), k=count):
            self.counts[index] += 1
            while True:
                try:
                    self._producer.produce(
                        self._topic,
                        self._messages[index],
                        partition=self._rng.randrange(self._partitions),
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.poll(0)

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self.failures.append(str(error))

    def start(self, rate: int) -> None:
        """Publish so many a second until `stop`, after which it can start again."""
        self._stopping.clear()

        def run() -> None:
            while not self._stopping.wait(0.02):
                self.publish(max(rate // 50, 1))

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def stop(self) -> None:
        """End, and wait until the broker has all of it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        deadline = time.monotonic() + 120
        while self._producer.flush(5.0):
            assert time.monotonic() < deadline, "the broker does not take the load"
        assert self.failures == []

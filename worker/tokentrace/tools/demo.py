"""The demo: an embedded broker, synthetic traffic and the real worker in one process, compared at the end.

The broker is librdkafka's mock cluster. It has no real transactions, so the demo counts at least once, and says so;
what it counts still has to equal what was produced, or it ends with a failure. The comparison reads the endpoint,
as Prometheus would, and the expectation is summed span by span in plain Python.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from genai_prices import Usage, calc_price

from tokentrace.config import Config
from tokentrace.exposition.http.listener import Listener
from tokentrace.kafka.clients import EmbeddedBroker, KafkaClients
from tokentrace.kafka.producer import IdempotentProducer, Record
from tokentrace.model.span_encoder import span_message
from tokentrace.runtime.service import Service
from tokentrace.tools import top
from tokentrace.tools.traffic import Traffic, rate_at

#: Seconds in which the demo's traffic goes through one day.
DAY_S: Final = 60.0
#: Share of messages that no worker can count, so that the dead letters have something to show.
_BROKEN: Final = 0.002
#: Time that the worker has to count the rest once the traffic has ended.
_DRAIN_S: Final = 20.0
#: Pause between two turns of the publisher, and the longest gap between them that it makes up for.
_TICK_S: Final = 0.02
_MOST_OWED_S: Final = 0.5

#: (sample name, sorted labels) -> an integer: messages, tokens, nano-USD.
Counts = Mapping[tuple[str, top.Labels], int]

COST, SPANS, TOKENS = "tokentrace_cost_total", "tokentrace_spans_total", "tokentrace_tokens_total"
REJECTED = "tokentrace_spans_rejected_total"


class Publisher:
    """Publishes traffic at a rate and sums what the broker acknowledged, in `produced`."""

    def __init__(self, clients: KafkaClients, topic: str, rate: float, seed: int) -> None:
        """rate: spans a second, on average over a day of DAY_S."""
        self._producer = IdempotentProducer(clients, {"linger.ms": 20})
        self._topic = topic
        self._rate = rate
        self._traffic = Traffic(seed)
        self._random = random.Random(seed)
        self.produced: Counter[tuple[str, top.Labels]] = Counter()

    def run(self, stopping: Callable[[], bool]) -> None:
        """Publish until `stopping`, then wait until the broker has everything."""
        began_s = last_s = time.monotonic()
        owed = 0.0
        while not stopping():
            time.sleep(_TICK_S)
            now_s = time.monotonic()
            turn_s = min(now_s - last_s, _MOST_OWED_S)
            last_s = now_s
            owed += rate_at(self._rate, (now_s - began_s) / DAY_S + 0.25) * turn_s
            for _ in range(int(owed)):
                self._publish_one()
            owed %= 1.0
            self._producer.poll()
        self._producer.flush(10.0)

    def _publish_one(self) -> None:
        span = self._traffic.span()
        value = span_message(span)
        broken = self._random.random() < _BROKEN
        record = Record(self._topic, None, value[: len(value) // 2] if broken else value)
        self._producer.produce(record, self._on_delivery(span, broken))

    def _on_delivery(self, span: Mapping[str, Any], broken: bool) -> Callable[[str | None], None]:
        """Only a message that the broker has taken has to be counted."""

        def on_delivery(error: str | None) -> None:
            if error is None:
                self.produced.update({(REJECTED, (("reason", "malformed"),)): 1} if broken else counts_of(span))

        return on_delivery


def counts_of(span: Mapping[str, Any]) -> dict[tuple[str, top.Labels], int]:
    """Return what one valid span adds to the counters."""
    names = {name: span[name] for name in ("model", "provider", "caller")}
    status = {"model": span["model"], "provider": span["provider"], "status": span["status"]}
    return {
        (COST, _labels(names)): _nano_usd(span),
        (SPANS, _labels(status)): 1,
        (TOKENS, _labels({**names, "token_type": "prompt"})): span["prompt_tokens"],
        (TOKENS, _labels({**names, "token_type": "completion"})): span["completion_tokens"],
    }


def _labels(labels: Mapping[str, str]) -> top.Labels:
    return tuple(sorted(labels.items()))


def _nano_usd(span: Mapping[str, Any]) -> int:
    """Return the span's cost, else what the price table's library charges, else 0."""
    if span["cost_usd"] is not None:
        return round(float(span["cost_usd"]) * 1e9)
    usage = Usage(
        input_tokens=span["prompt_tokens"],
        cache_read_tokens=span["cached_prompt_tokens"] or 0,
        output_tokens=span["completion_tokens"],
    )
    moment = datetime.fromtimestamp(span["started_at"] / 1e6, UTC)
    try:
        price = calc_price(usage, span["model"], provider_id=span["provider"], genai_request_timestamp=moment)
    except LookupError:
        return 0
    nano: int = round(price.total_price * 10**9)
    return nano


def counts_in(scrape: top.ReplicaScrape) -> Counter[tuple[str, top.Labels]]:
    """Return the same counters as an endpoint shows them."""
    scale = {COST: 10**9, SPANS: 1, TOKENS: 1, REJECTED: 1}
    return Counter({key: round(value * scale[key[0]]) for key, value in scrape.samples.items() if key[0] in scale})


@dataclass(frozen=True, slots=True)
class Comparison:
    """The end of a demo."""

    produced: Counts
    counted: Counts
    duration_s: float

    @property
    def exact(self) -> bool:
        return not self.differences

    @property
    def differences(self) -> dict[str, tuple[int, int]]:
        """Series that differ -> (produced, counted)."""
        found = {}
        for key in sorted({*self.produced, *self.counted}):
            pair = self.produced.get(key, 0), self.counted.get(key, 0)
            if pair[0] != pair[1]:
                labels = ",".join(f'{name}="{value}"' for name, value in key[1])
                found[f"{key[0]}{{{labels}}}"] = pair
        return found

    def summary(self) -> dict[str, Any]:
        """The figures, by their names in the demo's JSON."""
        produced, counted = self.produced, self.counted
        return {
            "produced": _sum(produced, SPANS) + _sum(produced, REJECTED),
            "counted": _sum(counted, SPANS),
            "rejected": _sum(counted, REJECTED),
            "cost_produced_nano_usd": _sum(produced, COST),
            "cost_counted_nano_usd": _sum(counted, COST),
            "tokens_produced": _sum(produced, TOKENS),
            "tokens_counted": _sum(counted, TOKENS),
            "exact": self.exact,
            "differences": self.differences,
            "guarantee": "at_least_once",
            "duration_s": round(self.duration_s, 3),
        }

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(self.summary())


def _sum(counts: Counts, name: str) -> int:
    return sum(value for key, value in counts.items() if key[0] == name)


class Demo:
    """One run: `with demo.running(): ... comparison = demo.finish()`."""

    def __init__(self, config: Config, rate: float, seed: int, listener: Listener) -> None:
        """config: how the worker counts and serves; the broker is replaced by the embedded one.

        listener: listens already, and replaces the configured address.
        """
        self._broker = EmbeddedBroker()
        kafka = config.kafka.model_copy(update={"bootstrap_servers": self._broker.bootstrap_servers})
        self._broker.create_topic(kafka.topic)
        self._broker.create_topic(kafka.dead_letters)
        self._service = Service(config.model_copy(update={"kafka": kafka}), make_topics=False, listener=listener)
        self._publisher = Publisher(KafkaClients(bootstrap_servers=kafka.bootstrap_servers), kafka.topic, rate, seed)
        self._traffic_ends = threading.Event()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._service.run,), name="worker"),
            threading.Thread(
                target=self._guarded, args=(lambda: self._publisher.run(self._traffic_ends.is_set),), name="traffic"
            ),
        ]
        self._began_s = time.monotonic()

    @property
    def url(self) -> str:
        """The worker's endpoint, once it runs."""
        assert self._service.http is not None
        return f"http://127.0.0.1:{self._service.http.port}{top.PATH}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Worker and traffic run inside, the endpoint answers; both have ended after it."""
        for thread in self._threads:
            thread.start()
        try:
            while self._failure is None and not self._service.serving.wait(0.1):
                pass
            self._check()
            yield
        finally:
            self._traffic_ends.set()
            self._service.stop(drain=False)
            for thread in self._threads:
                thread.join()

    def scrape(self) -> top.ReplicaScrape:
        """Scrape the endpoint. Raises what ended the worker or the traffic early."""
        self._check()
        return top.scrape(self.url)

    def finish(self) -> Comparison:
        """End the traffic, give the worker time to count all of it, and compare."""
        self._traffic_ends.set()
        self._threads[1].join()
        deadline_s = time.monotonic() + _DRAIN_S
        while True:
            comparison = Comparison(
                self._publisher.produced, counts_in(self.scrape()), time.monotonic() - self._began_s
            )
            if comparison.exact or time.monotonic() > deadline_s:
                return comparison
            time.sleep(0.1)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _guarded(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as failure:
            self._failure = failure

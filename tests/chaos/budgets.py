"""Budgets of the chaos: what replicas are configured with, and what the topics have to say about a load at the end."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.budgets.oracle import Sums, nano, place_of, sums_of, thresholds_of
from tokentrace.state.schemas import decode_record

#: Percent, so that some threshold is reached all the time.
_THRESHOLDS = [*range(1, 10), *range(10, 100, 10), *range(100, 1001, 50)]
_COMMON: dict[str, Any] = {"thresholds": _THRESHOLDS, "keep": "36500d", "delivery": {"type": "kafka"}}
BUDGETS: list[dict[str, Any]] = [
    {"name": "month", "amount": 2_000_000, "time_zone": "Europe/Berlin", **_COMMON},
    {"name": "day", "amount": 100_000, "period": "day", "time_zone": "Asia/Kolkata", "group_by": ["caller"], **_COMMON},
    {"name": "week", "amount": 250_000, "period": "week", "time_zone": "America/New_York", "group_by": ["model"],
     "filter": {"caller": "*a*"}, **_COMMON},
]  # fmt: skip
#: Midnight of a month in Berlin, around which the spans end.
_BOUNDARY_US = int(datetime(2026, 8, 31, 22, tzinfo=UTC).timestamp() * 1e6)
_AROUND_US = 3_600_000_000


def around_a_boundary(span: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Move a span to the hours around the end of a month."""
    ended_us = _BOUNDARY_US + rng.randrange(-_AROUND_US, _AROUND_US)
    return span | {"started_at": ended_us - (span["ended_at"] - span["started_at"]), "ended_at": ended_us}


def sums_of_counts(spans: list[dict[str, Any]], counts: list[int]) -> Sums:
    """Sum budgets up over spans, of which each was published so often."""
    total = Sums()
    for span, count in zip(spans, counts, strict=True):
        one = sums_of(BUDGETS, [span])
        total.spent.update({place: cost * count for place, cost in one.spent.items()})
        total.spans.update({place: number * count for place, number in one.spans.items()})
    return total


def differences(bootstrap: str, group: str, truth: Sums, timeout_s: float) -> dict[str, tuple[Any, Any]]:
    """Return place -> (found, truth), where the verdicts or the thresholds that fired are not what they have to be."""
    spent = {place: (truth.spent[place], spans) for place, spans in truth.spans.items() if spans}
    fired = Counter(dict.fromkeys(thresholds_of(BUDGETS, truth), 1))
    deadline = time.monotonic() + timeout_s
    while True:
        wrong = _unlike(_verdicts(bootstrap, group), spent) | _unlike(_firings(bootstrap, group), fired)
        if not wrong or time.monotonic() > deadline:
            return wrong
        time.sleep(1.0)


def _unlike(found: Mapping[Any, Any], truth: Mapping[Any, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        str(place): (found.get(place), truth.get(place))
        for place in {*found, *truth}
        if found.get(place) != truth.get(place)
    }


def _verdicts(bootstrap: str, group: str) -> dict[Any, tuple[int, int]]:
    last = dict(_records(bootstrap, f"{group}.budgets", "verdict", json.loads))
    return {
        place_of(verdict): (nano(verdict["spent_usd"]), verdict["spans"])
        for verdict in last.values()
        if verdict["spans"]
    }


def _firings(bootstrap: str, group: str) -> Counter[Any]:
    """Count how often each threshold was committed."""
    alerts = _records(bootstrap, f"{group}.alerts", "budget-alert", lambda value: decode_record(value, "budget-alert"))
    return Counter(
        ((alert["alert"], alert["budget"]["period"], tuple(alert["group"].items())), alert["budget"]["percent"])
        for _, alert in alerts
    )


def _records(bootstrap: str, topic: str, kind: str, read: Callable[[bytes], Any]) -> Iterator[tuple[bytes, Any]]:
    """Give all committed records of a kind, in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": "check", "isolation.level": "read_committed",
            "auto.offset.reset": "earliest", "enable.auto.commit": False, "enable.partition.eof": True,
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        while True:
            for message in consumer.consume(1000, 5.0):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return
                if error is None and message.value() and json.loads(message.key())[0] == kind:
                    yield message.key(), read(message.value())
    finally:
        consumer.close()

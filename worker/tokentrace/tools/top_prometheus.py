"""Figures of `top` from a Prometheus: instant queries, all of one moment, that it sums over the replicas.

The totals are those of the replicas that it scrapes now, as a scrape of each would give. The rates are its own,
`rate()` over a window: it reads the replicas less often than `top` reads it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tokentrace.errors import FatalError
from tokentrace.tools.http_get import NoAnswer
from tokentrace.tools.prometheus_api import PrometheusApi, Series, window
from tokentrace.tools.top import LAG_SECONDS, Labels, ReplicaScrape
from tokentrace.tools.top_rows import COST, LATENCY, SCORE, SPANS, TOKENS

_BUILD: Final = "tokentrace_worker_build_info"
#: Labels that tell one replica from another; what else its targets have is summed here.
_REPLICA: Final = "instance, job, pod"
_RATES: Final = (SPANS, COST, TOKENS)
_SUMS: Final = (
    *_RATES,
    f"{LATENCY}_bucket",
    f"{SCORE}_sum",
    f"{SCORE}_count",
    "tokentrace_spans_rejected_total",
    "tokentrace_span_pricing_total",
    "tokentrace_worker_lag_records",
    "tokentrace_groups",
)


def read(prometheus: PrometheusApi, window_s: float, selector: str = "") -> list[ReplicaScrape]:
    """Return the sum of all replicas, and each replica without samples; one problem if Prometheus has no answer.

    selector: what the labels of every series have to satisfy, such as `job="prod"`.
    """
    try:
        return _read(prometheus, window(window_s), f"{{{selector}}}" if selector else "")
    except NoAnswer as error:
        return [ReplicaScrape(prometheus.url, time.time(), problem=error.problem)]


def read_once(prometheus: PrometheusApi, window_s: float, selector: str = "") -> list[ReplicaScrape]:
    """Return the same. Raises FatalError if Prometheus has no answer."""
    scrapes = read(prometheus, window_s, selector)
    if not any(replica.is_sum for replica in scrapes):
        raise FatalError(f"Prometheus at {prometheus.url}: {scrapes[0].problem}")
    return scrapes


def _read(prometheus: PrometheusApi, range_: str, selector: str) -> list[ReplicaScrape]:
    answering = prometheus.query(f"{_BUILD}{selector}")
    if not answering:
        raise NoAnswer(f"it has no series {_BUILD}{selector}; does it scrape the replicas?")
    at_s = answering[0].at_s
    expressions = {name: f"sum without ({_REPLICA}) ({name}{selector})" for name in _SUMS}
    expressions |= {LAG_SECONDS: f"max without ({_REPLICA}) ({LAG_SECONDS}{selector})"}
    rates = {name: f"sum without ({_REPLICA}) (rate({name}{selector}[{range_}]))" for name in _RATES}
    # Other targets of the same job are no replicas: only what was one a moment ago.
    down = f"up == 0 and on (instance, job) last_over_time({_BUILD}{selector}[{range_}])"
    asked = [*expressions.values(), *rates.values(), down]
    with ThreadPoolExecutor(8) as pool:
        *found, missing = pool.map(lambda expression: prometheus.query(expression, at_s), asked)
    return [
        ReplicaScrape(
            prometheus.url,
            at_s,
            _samples(zip(expressions, found[: len(expressions)], strict=True)),
            rates=_samples(zip(rates, found[len(expressions) :], strict=True)),
            is_sum=True,
        ),
        *(ReplicaScrape(name, at_s) for name in _instances(answering)),
        *(ReplicaScrape(name, at_s, problem="Prometheus cannot scrape it") for name in _instances(missing)),
    ]


def _samples(found: Iterable[tuple[str, list[Series]]]) -> dict[tuple[str, Labels], float]:
    return {(name, tuple(sorted(series.labels.items()))): series.value for name, answer in found for series in answer}


def _instances(found: Iterable[Series]) -> list[str]:
    """Return the replicas in the order of their names. The same address may be in two jobs."""
    return sorted(series.labels.get("instance", "") for series in found)

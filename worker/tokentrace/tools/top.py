"""Top: the metrics of one or more replicas, summed, with rates between two scrapes. `top_view` renders them.

It reads the endpoint that Prometheus reads, so it shows what a dashboard shows.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tokentrace.errors import FatalError
from tokentrace.model.quantiles import quantile
from tokentrace.tools.http_get import NoAnswer, get

PATH: Final = "/metrics/prometheus"
MAX_CONCURRENT_SCRAPES: Final = 16
LAG_SECONDS: Final = "tokentrace_worker_lag_seconds"
LAG_RECORDS: Final = "tokentrace_worker_lag_records"
REJECTED: Final = "tokentrace_spans_rejected_total"

#: Figures that a source may be without -> their words in the view.
ABSENT: Final = {
    "all_time": "all-time totals",
    "rates": "rates",
    "rejected": "rejected messages",
    "lag_records": "records behind",
    "lag_seconds": "seconds behind",
    "replicas": "replicas of the group",
}

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[tuple[str, Labels], float]


@dataclass(frozen=True, slots=True)
class ReplicaScrape:
    """One replica at one moment: its samples, or the problem that kept it from answering."""

    url: str
    at_s: float
    samples: Samples = field(default_factory=dict)
    problem: str = ""
    #: Increase per second of the counters, where the source computes it.
    rates: Samples = field(default_factory=dict)
    #: Sum of the replicas beside it, which have no samples then, instead of one replica.
    is_sum: bool = False
    #: One of `ABSENT` -> the reason for which the source does not have it.
    absent: Mapping[str, str] = field(default_factory=dict)


def metrics_url(address: str) -> str:
    """Return the full URL of what a user types: `host:port`, with or without scheme and path."""
    url = address if "://" in address else f"http://{address}"
    return url if "/" in url.split("://", 1)[1] else url + PATH


def scrape(url: str, token: str | None = None) -> ReplicaScrape:
    """Read one replica. Never raises for a replica that does not answer: one of many may be down."""

    def failed(problem: str) -> ReplicaScrape:
        return ReplicaScrape(url, time.time(), problem=problem)

    try:
        body = get(url, f"Bearer {token}" if token else "")
    except NoAnswer as error:
        hint = "; give the token with --token or TOKENTRACE_AUTH_TOKEN" if error.status == 401 else ""
        hint = "; give that URL, if it is a replica's" if error.location else hint
        return failed(f"{error.problem}{hint}")
    try:
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
    except ValueError:
        return failed("response is not Prometheus text format")
    return ReplicaScrape(url, time.time(), samples)


def scrape_each(urls: Sequence[str], token: str | None = None) -> list[ReplicaScrape]:
    """Read all replicas at once, whether or not any answers."""
    with ThreadPoolExecutor(min(len(urls), MAX_CONCURRENT_SCRAPES)) as pool:
        return list(pool.map(lambda url: scrape(url, token), urls))


def scrape_all(urls: Sequence[str], token: str | None = None) -> list[ReplicaScrape]:
    """Read all replicas at once. Raises FatalError when none answers."""
    scrapes = scrape_each(urls, token)
    if all(replica.problem for replica in scrapes):
        problems = "; ".join(f"{replica.url}: {replica.problem}" for replica in scrapes)
        raise FatalError(f"No replica answers: {problems}")
    return scrapes


class Totals:
    """Samples summed over replicas, and over labels on request."""

    def __init__(self, scrapes: Iterable[ReplicaScrape]) -> None:
        self._by_name: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._sums: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], float]] = {}
        #: Figures that the sources do not have -> the reason.
        self.absent: dict[str, str] = {}
        for replica in scrapes:
            self.absent |= replica.absent
            for (name, labels), value in replica.samples.items():
                self._by_name[name][labels] += value

    def sum_by(self, name: str, *labels: str) -> Mapping[tuple[str, ...], float]:
        """Return values of these labels -> the sum of a sample over all series that carry them."""
        sums = self._sums.get((name, labels))
        if sums is None:
            sums = self._sums[name, labels] = defaultdict(float)
            for series_labels, value in self._by_name[name].items():
                series = dict(series_labels)
                sums[tuple(series.get(label, "") for label in labels)] += value
        return sums

    def labels_of(self, name: str) -> frozenset[str]:
        """Return the names of the labels that any series of a sample has."""
        return frozenset(label for labels in self._by_name[name] for label, _ in labels)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a sample over all series that carry these labels."""
        return self.sum_by(name, *labels).get(tuple(labels.values()), 0.0)

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Return a quantile of a histogram over all replicas, None without observations."""
        values = tuple(labels.values())
        bounds = self._bounds(name)
        counts = [self.sum_by(f"{name}_bucket", *labels, "le").get((*values, text), 0.0) for _, text in bounds]
        if not counts or not counts[-1]:
            return None
        buckets = np.diff([counts], prepend=0.0)
        return float(quantile(q, buckets, [bound for bound, _ in bounds[:-1]])[0])

    def _bounds(self, name: str) -> list[tuple[float, str]]:
        return sorted((float(text), text) for (text,) in self.sum_by(f"{name}_bucket", "le"))


class Rates:
    """Increase per second between two scrapes, over the replicas that answered both; or as the source computed it."""

    def __init__(self, scrapes: Sequence[ReplicaScrape], earlier: Sequence[ReplicaScrape]) -> None:
        self._computed = Totals(replace(replica, samples=replica.rates) for replica in scrapes)
        answered = {replica.url for replica in scrapes if not replica.problem and not replica.is_sum}
        answered &= {replica.url for replica in earlier if not replica.problem}
        self._now = Totals(replica for replica in scrapes if replica.url in answered)
        self._before = Totals(replica for replica in earlier if replica.url in answered)
        self._seconds = max(scrapes[0].at_s - earlier[0].at_s, 1e-9) if answered else 0.0

    def rate(self, name: str, **labels: str) -> float | None:
        """Return the rate of a counter; 0 without an earlier scrape, or when the replicas restarted.

        Returns None where the source has no rates.
        """
        if "rates" in self._computed.absent:
            return None
        computed = self._computed.total(name, **labels)
        if not self._seconds:
            return computed
        increase = max(self._now.total(name, **labels) - self._before.total(name, **labels), 0.0)
        return computed + increase / self._seconds


def summary_line(replica: ReplicaScrape) -> str:
    """Return one replica in one line, for output that is not a terminal."""
    totals = Totals([replica])
    return (
        f"{totals.total('tokentrace_spans_total'):>12,.0f} spans  ${totals.total('tokentrace_cost_total'):,.4f}  "
        f"{totals.total('tokentrace_tokens_total'):,.0f} tokens  "
        f"{totals.total('tokentrace_worker_lag_records'):,.0f} records behind"
    )

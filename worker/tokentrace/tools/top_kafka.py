"""Figures of `top` from Kafka: what all replicas have ever counted, whether they run or not.

The totals are those of the state topic: of every replica that ever counted, over restarts, so a replica that is killed
takes none of them along. The rates are what the rollups of a window say. Without the right to read the state topic, the
totals are those of the window too. What Kafka does not tell is absent, with the reason.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, TypeVar

import numpy as np

from tokentrace.config import Config
from tokentrace.errors import FatalError, UsageError
from tokentrace.exposition.ui.fleet import FleetLag
from tokentrace.kafka.clients import KafkaClients
from tokentrace.kafka.members import GroupMembers
from tokentrace.kafka.reader import TopicReader
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import Layout
from tokentrace.model.secrets import hide_secrets
from tokentrace.model.snapshot import BASE_LABELS, EXPIRED, OVERFLOW, ExpiredKey, Group
from tokentrace.model.spans import STATUSES
from tokentrace.runtime.settings import layout_of
from tokentrace.state.followed import FollowedTotals, ReplicaCounts
from tokentrace.state.keys import Cell
from tokentrace.tools.top import LAG_RECORDS, REJECTED, Labels, ReplicaScrape
from tokentrace.tools.top_rollups import RecentRollups
from tokentrace.tools.top_rows import COST, LATENCY, SCORE, SPANS, TOKENS

#: A replica that left the group longer ago is one that is not needed any more.
GONE_S: Final = 24 * 3600.0

#: Sample -> what it holds a unit of, where that is not 1.
_SCALE: Final = {COST: 10**9, f"{SCORE}_sum": 10**6}
_SUMS: Final = ("spans", "cost_nano_usd", "prompt_tokens", "completion_tokens", "unpriced")

_T = TypeVar("_T")


class Sums(NamedTuple):
    """Sums of a cell as `top` needs them.

    plain: those of `_SUMS`. latency: observations in each bucket. scores: their number. score_sum: in millionths.
    """

    plain: Sequence[int]
    latency: Sequence[int]
    scores: int
    score_sum: int


class KafkaFigures:
    """Reads the figures of one group, again and again."""

    def __init__(
        self, config: Config, clients: KafkaClients, window_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """window_s: of the rates. Raises UsageError for a group that keeps nothing in Kafka."""
        kafka = config.kafka
        if config.worker.guarantee != "exactly_once":
            raise UsageError(
                "worker.guarantee: at_least_once keeps no totals in Kafka; name the replicas instead: tokentrace top "
                "URL..."
            )
        self._source = f"group {kafka.group_id} at {kafka.bootstrap_servers}"
        self._group, self._state_topic, self._rollups_topic = kafka.group_id, kafka.state_topic, kafka.rollups_topic
        self._clients, self._window_s, self._clock = clients, window_s, clock
        self._layout = layout_of(config)
        self._totals = FollowedTotals(TopicReader(clients, kafka.state_topic, kafka.group_id))
        self._rollups = RecentRollups(
            clients, kafka.rollups_topic, kafka.group_id, self._layout, _columns(self._layout), window_s, clock
        )
        self._members = GroupMembers(clients, kafka.group_id)
        self._lag = FleetLag(clients, kafka.topic, kafka.group_id)
        self._last: list[ReplicaScrape] = []

    def read(self) -> list[ReplicaScrape]:
        """Return the sum of all replicas, and each replica without samples.

        Once there were figures, a Kafka that fails leaves them as they are, with the problem. Before that, raises
        UsageError or FatalError.
        """
        try:
            self._last = self._read()
        except (UsageError, FatalError) as failure:
            if not self._last:
                raise
            since = time.strftime("%H:%M:%S", time.localtime(self._last[0].at_s))
            problem = f"{hide_secrets(str(failure))} These are the figures of {since}."
            return [*self._last, ReplicaScrape(self._source, self._clock(), problem=problem)]
        return self._last

    def _read(self) -> list[ReplicaScrape]:
        self._require_topics()
        absent = {"lag_seconds": "Kafka tells offsets, not times; replicas tell both"}

        def asked(ask: Callable[[], _T], *names: str) -> _T | None:
            try:
                return ask()
            except (UsageError, FatalError) as failure:
                absent.update(dict.fromkeys(names, hide_secrets(str(failure)).rstrip(".")))
                return None

        replicas = asked(self._totals.refresh, "all_time", "rejected")
        asked(self._rollups.refresh, "rates")
        if "all_time" in absent and "rates" in absent:
            raise FatalError(f"{absent['all_time']}. {absent['rates']}.")
        lag = asked(self._lag, "lag_records")
        members = asked(self._members.replicas, "replicas")
        samples: Counter[tuple[str, Labels]] = Counter()
        rates: dict[tuple[str, Labels], float] = {}
        if "rates" not in absent:
            rates = self._rates()
        if replicas is None:
            _add(samples, self._window_sums(), self._layout.histograms["latency_ms"].bounds)
        else:
            for counts in replicas.values():
                _add(samples, _sums_of(counts), counts.bounds.get("latency_ms", ()))
                for reason, count in counts.rejected.items():
                    samples[REJECTED, (("reason", reason),)] += count
        found = _scaled(samples)
        found["tokentrace_groups", ()] = float(_groups(samples))
        if lag is not None:
            found[LAG_RECORDS, ()] = float(sum(partition["lag"] for partition in lag))
        now_s = self._clock()
        return [
            ReplicaScrape(self._source, now_s, found, rates=rates, is_sum=True, absent=absent),
            *self._replicas(replicas or {}, members, now_s),
            *self._unreadable(now_s),
        ]

    def _require_topics(self) -> None:
        """Raises UsageError where the group has neither topic, or no broker answers."""
        if self._last:
            return
        if not any(TopicReader(self._clients, topic, self._group).exists() for topic in self._topics):
            raise UsageError(
                f"Kafka at {self._clients.bootstrap_servers} has neither topic {self._state_topic} nor "
                f"{self._rollups_topic}, or does not let this user see them. A worker creates them when it starts; is "
                "kafka.group_id right, and has the user Describe and Read on both?"
            )

    @property
    def _topics(self) -> tuple[str, str]:
        return self._state_topic, self._rollups_topic

    def _rates(self) -> dict[tuple[str, Labels], float]:
        """Return the rates of spans, cost and tokens within the window, per second."""
        sums: Counter[tuple[str, Labels]] = Counter()
        _add(sums, self._window_sums(), self._layout.histograms["latency_ms"].bounds)
        seconds = self._rollups.seconds
        return {key: value / seconds for key, value in _scaled(sums).items() if key[0] in (SPANS, COST, TOKENS)}

    def _window_sums(self) -> Iterable[tuple[Cell, Sums]]:
        buckets = len(self._layout.histograms["latency_ms"].bounds) + 1
        for cell, row in self._rollups.sums().items():
            plain, latency, scores = np.split(row, [len(_SUMS), len(_SUMS) + buckets])
            yield cell, Sums(plain.tolist(), latency.tolist(), int(scores[:-1].sum()), int(scores[-1]))

    def _replicas(
        self, replicas: Mapping[str, ReplicaCounts], members: set[str] | None, now_s: float
    ) -> list[ReplicaScrape]:
        """Return the replicas that count now, and those that have left the group within a day."""
        found = []
        for name in sorted({*replicas, *(members or ())}):
            committed_s = replicas[name].committed_at_s if name in replicas else 0.0
            problem = ""
            if members is not None and name not in members:
                if now_s - committed_s > GONE_S:
                    continue
                problem = f"not in the group; its last commit was {now_s - committed_s:,.0f} s ago"
            found.append(ReplicaScrape(name, committed_s, problem=problem))
        return found

    def _unreadable(self, now_s: float) -> list[ReplicaScrape]:
        topics = zip(self._topics, (self._totals.unreadable, self._rollups.unreadable), strict=True)
        return [
            ReplicaScrape(topic, now_s, problem=f"{len(problems):,} records left out; {problems[-1]}", is_sum=True)
            for topic, problems in topics
            if problems
        ]


def _columns(layout: Layout) -> Ints:
    """Return the columns of `Sums` in a row of the layout, int64[c]: plain sums, latencies, scores, their sum."""
    latency, scores = layout.histograms["latency_ms"], layout.histograms["eval_score"]
    buckets = [column for histogram in (latency, scores) for column in range(layout.width)[histogram.buckets]]
    return np.array([*(layout.column(name) for name in _SUMS), *buckets, scores.sum], np.int64)


def _sums_of(replica: ReplicaCounts) -> Iterable[tuple[Cell, Sums]]:
    for key, counts in replica.cells.items():
        plain = [counts[name] for name in _SUMS]
        scores = sum(counts["eval_score_buckets"])
        yield _cell(key), Sums(plain, counts["latency_ms_buckets"], scores, counts["eval_score_millionths_sum"])


def _cell(key: Cell | ExpiredKey) -> Cell:
    if not isinstance(key, ExpiredKey):
        return key
    if key.model is None:
        return Group(EXPIRED, EXPIRED, EXPIRED), key.status
    return Group(key.model, key.provider or "", EXPIRED), key.status


def _scaled(samples: Mapping[tuple[str, Labels], int]) -> dict[tuple[str, Labels], float]:
    """Return the samples in their own units, each rounded once."""
    return {key: value / _SCALE.get(key[0], 1) for key, value in samples.items()}


def _groups(samples: Iterable[tuple[str, Labels]]) -> int:
    """Return how many groups (model, provider, caller) have series of their own."""
    bases = {tuple(value for name, value in labels if name in BASE_LABELS) for name, labels in samples if name == COST}
    return sum(not {OVERFLOW, EXPIRED} & set(base) for base in bases)


def _add(
    samples: Counter[tuple[str, Labels]], cells: Iterable[tuple[Cell, Sums]], latency_bounds: Sequence[float]
) -> None:
    """Add cells to the samples that a replica would expose, with all labels that a cell has; costs in nano-USD."""
    texts = [*map(str, latency_bounds), "+Inf"]
    for (group, status), sums in cells:
        labels: Labels = tuple(sorted(group.labels().items()))
        spans, cost, prompt, completion, unpriced = sums.plain
        samples[SPANS, tuple(sorted((*labels, ("status", STATUSES[status]))))] += spans
        samples[COST, labels] += cost
        samples[TOKENS, labels] += prompt + completion
        samples["tokentrace_span_pricing_total", (*labels, ("source", "unpriced"))] += unpriced
        # Where the replica's own record cannot be read, its bounds are not known.
        latency = sums.latency if len(sums.latency) == len(texts) else ()
        for text, count in zip(texts, accumulate(latency), strict=False):
            samples[f"{LATENCY}_bucket", (*labels, ("le", text))] += count
        samples[f"{SCORE}_count", labels] += sums.scores
        samples[f"{SCORE}_sum", labels] += sums.score_sum

"""Rules: what each looks at, and the number that it makes of a window's sums.

Metrics are computed from a few *blocks* of columns that are summed by group and minute, for all instances of a rule
at once. Percentiles are interpolated in their bucket as PromQL's `histogram_quantile` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.config.alerts import AlertRule, Delivery
from tokentrace.model.arrays import Ints
from tokentrace.model.measures import Layout

Floats = NDArray[np.float64]

#: Columns of the block `sums`, which every rule needs.
SPANS, ERRORS, TIMEOUTS, COST, TOKENS = range(5)
#: A window is evaluated so often while it passes, unless told otherwise.
EVALUATIONS_A_WINDOW: Final = 10

OPERATORS: Final[Mapping[str, Callable[[Floats, float], NDArray[np.bool_]]]] = {
    "gt": np.greater,
    "gte": np.greater_equal,
    "lt": np.less,
    "lte": np.less_equal,
}


def quantile(q: float, buckets: Ints, bounds: Sequence[float]) -> Floats:
    """buckets: int64[k, b + 1], counts of each bucket, the last +Inf. bounds: b upper bounds.

    float64[k], NaN where there are no observations; see `histogram_quantile` of PromQL.
    """
    cumulated = np.cumsum(buckets, axis=1)
    total = cumulated[:, -1]
    rank = q * total
    found = (cumulated < rank[:, None]).sum(axis=1).clip(max=len(bounds))
    # What is beyond the last bound is told as that bound.
    finite = np.minimum(found, len(bounds) - 1)
    row = np.arange(len(buckets))
    edges = np.array([0.0, *bounds])
    inside = buckets[row, finite]
    before = cumulated[row, finite] - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(found > finite, 1.0, (rank - before) / inside)
    values = edges[finite] + (edges[finite + 1] - edges[finite]) * share
    return np.where(total > 0, values, np.nan)


def _per_span(column: int, scale: float = 1.0) -> Callable[[Ints, Ints], Floats]:
    def value(sums: Ints, _: Ints) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[:, column] / sums[:, SPANS] / scale

    return value


def _sum(column: int, scale: float = 1.0) -> Callable[[Ints, Ints], Floats]:
    return lambda sums, _: sums[:, column] / scale


def _mean_score(_: Ints, scores: Ints) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return scores[:, 1] / scores[:, 0] / 1e6


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric is made. value: (sums int64[k, 5], block int64[k, ...]) -> float64[k].

    block: name of the further block, empty where there is none. q: the quantile, where it is one.
    """

    block: str = ""
    value: Callable[[Ints, Ints], Floats] | None = None
    q: float = 0.0


MEASURES: Final[Mapping[str, Measure]] = {
    "total_cost": Measure(value=_sum(COST, 1e9)),
    "cost_per_span": Measure(value=_per_span(COST, 1e9)),
    "span_count": Measure(value=_sum(SPANS)),
    "error_rate": Measure(value=_per_span(ERRORS)),
    "error_count": Measure(value=_sum(ERRORS)),
    "timeout_rate": Measure(value=_per_span(TIMEOUTS)),
    "latency_p50": Measure("latency_ms", q=0.5),
    "latency_p95": Measure("latency_ms", q=0.95),
    "latency_p99": Measure("latency_ms", q=0.99),
    "ttft_p95": Measure("ttft_ms", q=0.95),
    "prompt_token_p95": Measure("prompt_tokens", q=0.95),
    "total_tokens": Measure(value=_sum(TOKENS)),
    "quality_score": Measure("eval_score", value=_mean_score),
}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which groups a rule looks at, and which of them together. globs: of model, provider and caller; None is all."""

    globs: tuple[str | None, str | None, str | None] = (None, None, None)
    group_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, ready to be evaluated. window, interval: minutes. cooldown_s: seconds.

    rule_id: of all that decides whether it fires. subject: of what it is about; thresholds and times may change
    without making it another alert.
    """

    name: str
    metric: str
    op: str
    threshold: float
    window: int
    interval: int
    cooldown_s: float
    min_spans: int
    selection: Selection
    severity: str
    delivery: Delivery
    rule_id: str
    subject: str

    @property
    def measure(self) -> Measure:
        return MEASURES[self.metric]

    def values(self, sums: Ints, block: Ints, layout: Layout) -> tuple[Floats, Ints]:
        """(the metric of each instance, NaN where it has none; spans, or observations, that it is made from)."""
        measure = self.measure
        if measure.value is not None:
            made_from = block[:, 0] if measure.block else sums[:, SPANS]
            return measure.value(sums, block), made_from
        return quantile(measure.q, block, layout.histograms[measure.block].bounds), block.sum(axis=1)

    @classmethod
    def of(cls, rule: AlertRule) -> Rule:
        """From the configuration."""
        window = int(rule.window) // 60
        interval = int(rule.interval) // 60 if rule.interval is not None else -(-window // EVALUATIONS_A_WINDOW)
        chosen = rule.filter
        selection = Selection((chosen.model, chosen.provider, chosen.caller), rule.group_by)
        subject = [rule.metric, rule.op, selection.globs, selection.group_by]
        return cls(
            name=rule.name,
            metric=rule.metric,
            op=rule.op,
            threshold=rule.threshold,
            window=window,
            interval=interval,
            cooldown_s=rule.cooldown if rule.cooldown is not None else rule.window,
            min_spans=rule.min_spans,
            selection=selection,
            severity=rule.severity,
            delivery=rule.delivery,
            rule_id=digest([rule.name, rule.threshold, window, interval, rule.min_spans, *subject], 16),
            subject=digest(subject, 16),
        )


def digest(parts: object, length: int) -> str:
    """Hex digits that are the same for the same parts, in every process."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:length]

"""Rules: the groups that a rule selects, and the metric that it computes from a window's sums.

Metrics are computed from a few *blocks* of columns that are summed by group and minute, for all instances of a rule
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.config.alerts import AlertRule, Delivery
from tokentrace.model.arrays import Ints
from tokentrace.model.digests import digest
from tokentrace.model.measures import Layout
from tokentrace.model.quantiles import quantile
from tokentrace.model.snapshot import BASE_LABELS
from tokentrace.model.wide import joined

Floats = NDArray[np.float64]

#: Columns of the block `sums`, which every rule needs. The high words are there once the windows are wide.
SPANS, ERRORS, TIMEOUTS, COST, TOKENS, COST_HIGH, TOKENS_HIGH = range(7)
NARROW: Final = 5
WIDE: Final = 7
#: Evaluations while a window passes, unless the rule has an interval.
EVALUATIONS_A_WINDOW: Final = 10

OPERATORS: Final[Mapping[str, Callable[[Floats, float], NDArray[np.bool_]]]] = {
    "gt": np.greater,
    "gte": np.greater_equal,
    "lt": np.less,
    "lte": np.less_equal,
}


def _per_span(column: int, scale: float = 1.0) -> Callable[[Ints, Ints], Floats]:
    def value(sums: Ints, _: Ints) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return _amounts(sums, column) / sums[:, SPANS] / scale

    return value


def _sum(column: int, scale: float = 1.0) -> Callable[[Ints, Ints], Floats]:
    return lambda sums, _: _amounts(sums, column) / scale


def _amounts(sums: Ints, column: int) -> Floats:
    """Return float64[k], the numbers that are nearest to the exact sums."""
    if column >= COST and sums.shape[1] == WIDE:
        return joined(sums[:, column], sums[:, column - COST + COST_HIGH]).astype(np.float64)
    return sums[:, column].astype(np.float64)


def _mean_score(_: Ints, scores: Ints) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return scores[:, 1] / scores[:, 0] / 1e6


@dataclass(frozen=True, slots=True)
class Measure:
    """Computation of a metric. value: (sums int64[k, NARROW or WIDE], block int64[k, ...]) -> float64[k].

    block: name of a second block, empty if there is none. q: the quantile, if the metric is one (value is None).
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
    """The groups that a rule selects and how it groups them. globs: of model, provider and caller; None matches all.

    dimension_globs: (dimension, glob).
    """

    globs: tuple[str | None, str | None, str | None] = (None, None, None)
    group_by: tuple[str, ...] = ()
    dimension_globs: tuple[tuple[str, str], ...] = ()

    def filter(self) -> dict[str, str]:
        """Return label -> glob, of those that have one."""
        given = {label: glob for label, glob in zip(BASE_LABELS, self.globs, strict=True) if glob is not None}
        return given | dict(self.dimension_globs)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, ready to be evaluated. window, interval: minutes. cooldown_s: seconds.

    rule_id: digest of everything that decides whether it fires. subject: digest of what it is about: a rule whose
    threshold or times change keeps its state, one whose subject changes does not.
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
        """Return float64[k], the metric of each instance or NaN, and int64[k], the spans or observations behind it."""
        measure = self.measure
        if measure.value is not None:
            made_from = block[:, 0] if measure.block else sums[:, SPANS]
            return measure.value(sums, block), made_from
        return quantile(measure.q, block, layout.histograms[measure.block].bounds), block.sum(axis=1)

    @classmethod
    def of(cls, rule: AlertRule) -> Rule:
        """Make a rule from its configuration."""
        window = int(rule.window) // 60
        interval = int(rule.interval) // 60 if rule.interval is not None else -(-window // EVALUATIONS_A_WINDOW)
        globs = rule.filter
        dimensions = tuple(sorted(globs.dimensions.items()))
        selection = Selection((globs.model, globs.provider, globs.caller), rule.group_by, dimensions)
        # A rule without dimensions keeps the digest that it had before there were any.
        subject = [rule.metric, rule.op, selection.globs, selection.group_by, *([dimensions] if dimensions else [])]
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

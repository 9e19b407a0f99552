"""Oracle of the rules' results for a list of spans, in plain Python, without code of tokentrace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from tests.oracle import DURATIONS, TOKENS, cost_of

MINUTE_S = 60


def in_window(spans: Iterable[dict[str, Any]], end_s: int, window_s: int) -> list[dict[str, Any]]:
    """Spans whose minute is among those that end at end_s or up to window_s before."""
    last = end_s // MINUTE_S - 1
    first = last - window_s // MINUTE_S + 1
    return [span for span in spans if first <= span["ended_at"] // 60_000_000 <= last]


def matching(spans: Iterable[dict[str, Any]], **globs: str) -> list[dict[str, Any]]:
    """Spans whose labels match, without regard to case."""
    return [
        span for span in spans if all(fnmatchcase(span[label].lower(), glob.lower()) for label, glob in globs.items())
    ]


def quantile(q: float, values: list[float], bounds: tuple[float, ...]) -> float:
    """As `histogram_quantile` of PromQL, over cumulative buckets."""
    if not values:
        return math.nan
    cumulative = [sum(value <= bound for value in values) for bound in bounds]
    rank = q * len(values)
    for index, count in enumerate(cumulative):
        if count >= rank:
            start = bounds[index - 1] if index else 0.0
            before = cumulative[index - 1] if index else 0
            return start + (bounds[index] - start) * (rank - before) / (count - before)
    return bounds[-1]


def _rate(status: str) -> Callable[[list[dict[str, Any]]], float]:
    return lambda spans: sum(span["status"] == status for span in spans) / len(spans) if spans else math.nan


def _cost(spans: list[dict[str, Any]]) -> float:
    return sum(cost_of(span)[0] for span in spans) / 1e9


def _scores(spans: list[dict[str, Any]]) -> float:
    scores = [round(score * 1e6) for span in spans if (score := span["attributes"].get("eval.score")) is not None]
    return sum(scores) / len(scores) / 1e6 if scores else math.nan


def _q(q: float, name: str, bounds: tuple[float, ...]) -> Callable[[list[dict[str, Any]]], float]:
    observed = (lambda value: bool(value)) if name.endswith("_ms") else (lambda _: True)
    return lambda spans: quantile(q, [span[name] for span in spans if observed(span[name])], bounds)


METRICS: dict[str, Callable[[list[dict[str, Any]]], float]] = {
    "total_cost": _cost,
    "cost_per_span": lambda spans: _cost(spans) / len(spans) if spans else math.nan,
    "span_count": lambda spans: float(len(spans)),
    "error_rate": _rate("error"),
    "error_count": lambda spans: float(sum(span["status"] == "error" for span in spans)),
    "timeout_rate": _rate("timeout"),
    "latency_p50": _q(0.5, "latency_ms", DURATIONS),
    "latency_p95": _q(0.95, "latency_ms", DURATIONS),
    "latency_p99": _q(0.99, "latency_ms", DURATIONS),
    "ttft_p95": _q(0.95, "ttft_ms", DURATIONS),
    "prompt_token_p95": _q(0.95, "prompt_tokens", TOKENS),
    "total_tokens": lambda spans: float(sum(span["prompt_tokens"] + span["completion_tokens"] for span in spans)),
    "quality_score": _scores,
}

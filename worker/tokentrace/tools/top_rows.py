"""Rows of `top`: the figures of every value of a label, from the samples of all replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tokentrace.tools.top import Rates, Totals

SPANS: Final = "tokentrace_spans_total"
COST: Final = "tokentrace_cost_total"
TOKENS: Final = "tokentrace_tokens_total"
LATENCY: Final = "tokentrace_latency_ms"
SCORE: Final = "tokentrace_eval_score"

#: Labels that say what a series counts rather than for whom.
_NOT_ROWS: Final = frozenset({"status", "token_type", "source", "unit", "le", "reason", "labels_revision"})
_FIRST_LABELS: Final = ("model", "provider", "caller")


class Figures(NamedTuple):
    """Numbers of one row, None where there is none."""

    spans: float | None
    spans_per_s: float | None
    cost_usd: float | None
    usd_per_hour: float | None
    tokens_per_s: float | None
    p50_ms: float | None
    p95_ms: float | None
    error_ratio: float | None
    quality: float | None


def row_labels(totals: Totals) -> list[str]:
    """Return the labels by which rows can be made, dimensions included."""
    found = (totals.labels_of(COST) | totals.labels_of(SPANS)) - _NOT_ROWS
    return [label for label in _FIRST_LABELS if label in found] + sorted(found - set(_FIRST_LABELS))


def rows_of(totals: Totals, rates: Rates, by: str) -> dict[tuple[str, ...], Figures]:
    """Return name of a row -> its figures. By model, a row is a model of a provider."""
    labels = ("model", "provider") if by == "model" else (by,)
    names: dict[tuple[str, ...], None] = {}
    for sample in (SPANS, COST):
        if set(labels) <= totals.labels_of(sample):
            names |= dict.fromkeys(totals.sum_by(sample, *labels))
    return {name: figures_of(totals, rates, dict(zip(labels, name, strict=True))) for name in names}


def figures_of(totals: Totals, rates: Rates, labels: Mapping[str, str]) -> Figures:
    """Return the figures of the series with these labels; None where a family does not have the labels."""

    def known(sample: str) -> bool:
        return set(labels) <= totals.labels_of(sample)

    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    def rate(sample: str, scale: float = 1.0) -> float | None:
        found = rates.rate(sample, **labels)
        return None if found is None else found * scale

    spans = totals.total(SPANS, **labels) if known(SPANS) else None
    failed = None if spans is None else spans - totals.total(SPANS, status="ok", **labels)
    latency = known(f"{LATENCY}_bucket")
    score = totals.total(f"{SCORE}_sum", **labels) if known(f"{SCORE}_sum") else None
    return Figures(
        spans=spans,
        spans_per_s=None if spans is None else rate(SPANS),
        cost_usd=totals.total(COST, **labels) if known(COST) or not labels else None,
        usd_per_hour=rate(COST, 3600.0) if known(COST) or not labels else None,
        tokens_per_s=rate(TOKENS) if known(TOKENS) or not labels else None,
        p50_ms=totals.quantile(0.5, LATENCY, **labels) if latency else None,
        p95_ms=totals.quantile(0.95, LATENCY, **labels) if latency else None,
        error_ratio=ratio(failed, spans),
        quality=ratio(score, totals.total(f"{SCORE}_count", **labels)),
    )

"""Validate: reject spans that cannot be counted and repair the rest, all spans of a batch at once.

A WHOLE reason rejects the span; a PART reason drops only the field. A missing prompt or completion count is derived
from the total where the other counts allow it. The reasons and the bounds are those of `reasons`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model import reasons
from tokentrace.model.measures import SUM_MEASURES, SUMMED_FIELDS
from tokentrace.model.messages import Reject
from tokentrace.model.spans import UNKNOWN_STATUS, Numbers, SpanBatch

TOKEN_FIELDS = (*SUMMED_FIELDS, "total_tokens")
DURATION_FIELDS = ("latency_ms", "ttft_ms")


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest values of one span: cost in USD, any token count, latency and time to the first token."""

    cost_usd: float = reasons.MAX_COST_USD
    tokens: int = reasons.MAX_TOKENS
    latency_ms: float = reasons.MAX_LATENCY_MS


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Validated:
    """spans: those to count, absent numbers 0. rejects: the others. parts: part reason -> spans it was found in."""

    spans: SpanBatch
    rejects: list[Reject]
    parts: dict[str, int]


def validate(spans: SpanBatch) -> Validated:
    """Reject invalid spans and repair the rest. The arrays of `spans` are never written to."""
    spans, rejects = reject_invalid(spans)
    spans, parts = repair(spans)
    return Validated(spans, rejects, parts)


def reject_invalid(spans: SpanBatch, limits: Limits = DEFAULT_LIMITS) -> tuple[SpanBatch, list[Reject]]:
    """Return (the spans that can be counted, the others)."""
    reason = np.zeros(len(spans), np.uint8)
    for code, (_, test) in enumerate(_CHECKS, start=1):
        bad = test(spans, limits)
        if bad.any():
            reason[bad & (reason == 0)] = code
    rejects = []
    if reason.any():
        rejects = [_reject(spans, int(index), _CHECKS[reason[index] - 1][0]) for index in np.flatnonzero(reason)]
        spans = spans.take(np.flatnonzero(reason == 0))
    return spans, rejects


def repair(spans: SpanBatch) -> tuple[SpanBatch, dict[str, int]]:
    """Return (spans with implausible fields cleared and missing counts derived, PART reason -> spans)."""
    parts: dict[str, int] = {}
    spans = _split_totals(spans, parts)
    for measure in SUM_MEASURES:
        if measure.part_of is not None:
            spans = _drop_excess(spans, measure.name, *measure.part_of, parts)
    score = spans.eval_score
    # Written so that NaN, which stands for an attribute that is not a number, fails.
    bad_score = score.present & ~((score.values >= 0.0) & (score.values <= 1.0))
    if bad_score.any():
        spans = spans.replace({"eval_score": _without(score, bad_score, "eval_score_invalid", parts)})
    return spans, parts


def _split_totals(spans: SpanBatch, parts: dict[str, int]) -> SpanBatch:
    """Derive a missing prompt or completion count from the total and the other."""
    prompt, completion, total = spans.prompt_tokens, spans.completion_tokens, spans.total_tokens
    lacking = total.present & ~(prompt.present & completion.present)
    if not lacking.any():
        return spans
    unsplit = lacking & ~prompt.present & ~completion.present
    if unsplit.any():
        parts["total_tokens_unsplit"] = int(unsplit.sum())
    rest = total.values - prompt.values - completion.values
    usable = lacking & ~unsplit & (rest >= 0)

    def filled(column: Numbers) -> Numbers:
        fill = usable & ~column.present
        return Numbers(np.where(fill, rest, column.values), column.present | fill)

    return spans.replace({"prompt_tokens": filled(prompt), "completion_tokens": filled(completion)})


def _drop_excess(spans: SpanBatch, part: str, whole: str, reason: str, parts: dict[str, int]) -> SpanBatch:
    """Drop a token count that exceeds the count that it is part of."""
    column = spans.numbers(part)
    excess = column.present & (column.values > spans.numbers(whole).values)
    if not excess.any():
        return spans
    return spans.replace({part: _without(column, excess, reason, parts)})


def _without(column: Numbers, bad: NDArray[np.bool_], reason: str, parts: dict[str, int]) -> Numbers:
    parts[reason] = int(bad.sum())
    return Numbers(np.where(bad, 0, column.values), column.present & ~bad)


# -- whole-span checks, in the order of reasons.WHOLE ------------------------------------------------------------------

Check = Callable[[SpanBatch, Limits], NDArray[np.bool_]]


def _unknown_status(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    return np.equal(spans.status, UNKNOWN_STATUS)


def _model_missing(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    return np.equal(spans.model.length, 0)


def _label_too_long(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    longest = np.maximum(np.maximum(spans.model.length, spans.provider.length), spans.caller.length)
    return longest > reasons.MAX_LABEL_BYTES


def _no_token_count(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    return ~(spans.prompt_tokens.present | spans.completion_tokens.present | spans.total_tokens.present)


def _negative_tokens(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    return _any(spans, TOKEN_FIELDS, lambda values: values < 0)


def _tokens_out_of_range(spans: SpanBatch, limits: Limits) -> NDArray[np.bool_]:
    return _any(spans, TOKEN_FIELDS, lambda values: values > limits.tokens)


def _cost_invalid(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    return _any(spans, ("cost_usd",), _not_a_quantity)


def _cost_out_of_range(spans: SpanBatch, limits: Limits) -> NDArray[np.bool_]:
    return _any(spans, ("cost_usd",), lambda values: values > limits.cost_usd)


def _latency_invalid(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    return _any(spans, DURATION_FIELDS, _not_a_quantity)


def _latency_out_of_range(spans: SpanBatch, limits: Limits) -> NDArray[np.bool_]:
    return _any(spans, DURATION_FIELDS, lambda values: values > limits.latency_ms)


def _any(
    spans: SpanBatch, fields: tuple[str, ...], test: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Test the fields of every span. Absent values are 0 and pass."""
    bad = test(getattr(spans, fields[0]).values)
    for name in fields[1:]:
        bad = bad | test(getattr(spans, name).values)
    return bad


def _not_a_quantity(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return bool[m], true for NaN, infinite and negative values; -0.0 is zero."""
    return ~((values >= 0.0) & (values < np.inf))


_CHECKS: tuple[tuple[str, Check], ...] = (
    ("unknown_status", _unknown_status),
    ("model_missing", _model_missing),
    ("label_too_long", _label_too_long),
    ("no_token_count", _no_token_count),
    ("negative_tokens", _negative_tokens),
    ("tokens_out_of_range", _tokens_out_of_range),
    ("cost_invalid", _cost_invalid),
    ("cost_out_of_range", _cost_out_of_range),
    ("latency_invalid", _latency_invalid),
    ("latency_out_of_range", _latency_out_of_range),
)

_FIELDS_OF: dict[str, tuple[str, ...]] = {
    "negative_tokens": TOKEN_FIELDS,
    "tokens_out_of_range": TOKEN_FIELDS,
    "cost_invalid": ("cost_usd",),
    "cost_out_of_range": ("cost_usd",),
    "latency_invalid": DURATION_FIELDS,
    "latency_out_of_range": DURATION_FIELDS,
}


def _reject(spans: SpanBatch, index: int, reason: str) -> Reject:
    """Make the reject, with the values that were tested."""
    values = [
        f"{name}={column.values[index].item()!r}"
        for name in _FIELDS_OF.get(reason, ())
        if (column := getattr(spans, name)).present[index]
    ]
    tested = f" ({', '.join(values)})" if values else ""
    return Reject(int(spans.row[index]), reason, reasons.WHOLE[reason].rstrip(".") + f"{tested}.")

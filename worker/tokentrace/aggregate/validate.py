"""Validate: reject spans that cannot be counted, all spans of a batch at once.

A WHOLE reason rejects the span; a PART reason drops only the field (`aggregate.repair`). The reasons and the bounds are
those of `reasons`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.repair import repair
from tokentrace.model import reasons
from tokentrace.model.measures import SUMMED_FIELDS, UNIT_OF
from tokentrace.model.messages import Reject
from tokentrace.model.spans import OK, UNKNOWN_STATUS, SpanBatch

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
    given: NDArray[np.bool_] = spans.total_tokens.present | spans.cost_usd.present | (spans.status != OK)
    for name in (*SUMMED_FIELDS, *_units(spans)):
        given = given | spans.numbers(name).present
    return ~given


def _negative_tokens(spans: SpanBatch, _: Limits) -> NDArray[np.bool_]:
    return _any(spans, (*TOKEN_FIELDS, *_units(spans)), lambda values: values < 0)


def _tokens_out_of_range(spans: SpanBatch, limits: Limits) -> NDArray[np.bool_]:
    bad = _any(spans, TOKEN_FIELDS, lambda values: values > limits.tokens)
    units = _units(spans)
    if not units:
        return bad
    tokens = np.zeros(len(spans), np.int64)
    for name in units:
        values, unit = spans.numbers(name).values, UNIT_OF[name]
        if unit.is_token:
            # Together, so that a count which is raised to the sum of its parts stays in range.
            tokens = tokens + np.minimum(values, reasons.MAX_TOKENS + 1)
        else:
            bad = bad | (values > unit.most)
    return bad | (tokens > limits.tokens)


def _units(spans: SpanBatch) -> tuple[str, ...]:
    """Return the batch's optional columns that are quantities."""
    return tuple(sorted(name for name in spans.optional if name in UNIT_OF))


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
    bad = test(spans.numbers(fields[0]).values)
    for name in fields[1:]:
        bad = bad | test(spans.numbers(name).values)
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
        for name in (*_FIELDS_OF.get(reason, ()), *(_units(spans) if "tokens" in reason else ()))
        if (column := spans.numbers(name)).present[index]
    ]
    tested = f" ({', '.join(values)})" if values else ""
    sentence = reasons.WHOLE[reason].rstrip(".") + f"{tested}."
    return Reject(int(spans.row[index]), reason, sentence, spans.part_of(index))

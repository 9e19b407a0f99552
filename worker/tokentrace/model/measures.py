"""What is counted: the integer columns of one aggregate cell, and how families read them.

A *group* is one (model, provider, caller); a *cell* is a group with a status. A cell's aggregate is one row of
int64 columns, laid out here once. Rows add: the aggregate is a commutative monoid, so no total depends on
order, batching, replica or restart. Units are the smallest that matter: nano-USD, microseconds, millionths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: Default upper bounds (inclusive, `le`) of the histogram families; the last bucket is +Inf.
DURATION_MS_BOUNDS: Final = (50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 3000.0, 5000.0, 10000.0, 30000.0)
TOKEN_BOUNDS: Final = (
    *(float(1 << power) for power in range(6, 16)),
    65536.0,
    131072.0,
    262144.0,
    1048576.0,
)
SCORE_BOUNDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

DEFAULT_BOUNDS: Final[dict[str, tuple[float, ...]]] = {
    "latency_ms": DURATION_MS_BOUNDS,
    "ttft_ms": DURATION_MS_BOUNDS,
    "prompt_tokens": TOKEN_BOUNDS,
    "completion_tokens": TOKEN_BOUNDS,
    "eval_score": SCORE_BOUNDS,
}

#: The plain sums, in column order. A pricing source's column counts spans.
SUMS: Final = (
    "spans",
    "cost_nano_usd",
    "prompt_tokens",
    "completion_tokens",
    "cached_prompt_tokens",
    "reasoning_tokens",
    "priced_reported",
    "priced_computed",
    "unpriced",
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Where one histogram lives in a cell's row.

    bounds: float[b], ascending inclusive upper bounds. An observation falls by its own value, before rounding.
    first: column of the first of b + 1 bucket counts (not cumulative; the last is +Inf).
    sum: column of the sum of observations; sum / `scale` is in the family's unit.
    """

    name: str
    bounds: tuple[float, ...]
    first: int
    sum: int
    scale: int

    @property
    def buckets(self) -> slice:
        return slice(self.first, self.first + len(self.bounds) + 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of a cell's row: SUMS first, then each histogram's buckets and, where it has its own, its sum.

    The token histograms' sums are the token sums themselves, since a count is observed whenever it is summed.
    """

    width: int
    histograms: Mapping[str, Histogram]

    @staticmethod
    def column(name: str) -> int:
        """Column of one of SUMS."""
        return SUMS.index(name)

    @classmethod
    def build(cls, bounds: Mapping[str, tuple[float, ...]] | None = None) -> Layout:
        """The layout for these bucket bounds; a family that is not named keeps its default."""
        chosen = {**DEFAULT_BOUNDS, **(bounds or {})}
        histograms: dict[str, Histogram] = {}
        next_column = len(SUMS)
        for name, own_scale in (
            ("latency_ms", 1000),
            ("ttft_ms", 1000),
            ("prompt_tokens", None),
            ("completion_tokens", None),
            ("eval_score", 1_000_000),
        ):
            first = next_column
            next_column += len(chosen[name]) + 1
            if own_scale is None:
                total = SUMS.index(name)
            else:
                total = next_column
                next_column += 1
            histograms[name] = Histogram(name, chosen[name], first, total, own_scale or 1)
        return cls(next_column, histograms)

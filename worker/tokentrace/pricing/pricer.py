"""The pricer: finds each group's plan once, and charges a batch of spans by it."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import grown
from tokentrace.model.snapshot import OVERFLOW_GROUP, Group
from tokentrace.model.spans import SpanBatch, Strings
from tokentrace.pricing.genai_prices import GenaiPrices
from tokentrace.pricing.rates import PricePlan, Rates, configured_plan
from tokentrace.pricing.table import NO_PLAN, RateTable

#: Where a cost comes from, by the code in `Priced.source`.
SOURCES: Final = ("reported", "computed", "unpriced")
REPORTED, COMPUTED, UNPRICED = (np.uint8(code) for code in range(3))

_NANO_USD: Final = 1e9
_NOT_LOOKED_UP: Final = -1
#: Names that are remembered with their plans; beyond it all are forgotten, and looked up again as they come.
_MAX_NAMES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Priced:
    """cost_nano_usd: int64[m], 0 where unpriced. source: uint8[m], index into SOURCES."""

    cost_nano_usd: NDArray[np.int64]
    source: NDArray[np.uint8]


class Pricer:
    """Prices spans.

    rates: glob (`*`, `?`, `[...]`) over model names, without regard to case -> Rates; the first that matches holds.
    builtin: whether the published prices come after them. clock: Unix time, the moment of a span that has none.
    """

    def __init__(
        self, rates: Mapping[str, Rates], builtin: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = [
            (re.compile(fnmatch.translate(pattern.lower())), configured_plan(each)) for pattern, each in rates.items()
        ]
        self._builtin = GenaiPrices() if builtin else None
        self._clock = clock
        self._table = RateTable()
        self._plan_of_name: dict[tuple[str, str], int] = {}
        self._groups: Sequence[Group] = ()
        self._plan_of_group: NDArray[np.int32] = np.zeros(0, np.int32)
        self._looked_up = 0

    def price(self, spans: SpanBatch, group: NDArray[np.int64], groups: Sequence[Group]) -> Priced:
        """Price m validated spans. group: int64[m], indices into groups.

        groups may only grow between calls; another sequence starts anew. Spans of the overflow group are priced by
        their own model and provider.
        """
        cost = np.rint(spans.cost_usd.values * _NANO_USD).astype(np.int64)
        reported = spans.cost_usd.present
        if reported.all():
            return Priced(cost, np.full(len(spans), REPORTED))
        source = np.where(reported, REPORTED, UNPRICED)
        rows = np.flatnonzero(~reported & (spans.prompt_tokens.present | spans.completion_tokens.present))
        if len(rows):
            plan = self._plans(spans, rows, group[rows], groups)
            source[rows] = np.where(plan != NO_PLAN, COMPUTED, UNPRICED)
            cost[rows] = self._table.charge(
                plan,
                spans.prompt_tokens.values[rows],
                spans.cached_prompt_tokens.values[rows],
                spans.completion_tokens.values[rows],
                lambda at: self._times_us(spans, rows[at]),
            )
        return Priced(cost, source)

    def _times_us(self, spans: SpanBatch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """When each call was made: prices go by the time of the request."""
        started_us, ended_us = spans.started_at_us.values[rows], spans.ended_at_us.values[rows]
        times_us = np.where(started_us > 0, started_us, ended_us)
        return np.where(times_us > 0, times_us, int(self._clock() * 1e6))

    def _plans(
        self, spans: SpanBatch, rows: NDArray[np.int64], group: NDArray[np.int64], groups: Sequence[Group]
    ) -> NDArray[np.int32]:
        """int32[len(rows)], the number of each span's plan. group: int64[len(rows)]."""
        if groups is not self._groups:
            self._groups, self._looked_up = groups, 0
        if self._looked_up < len(groups):
            self._plan_of_group = grown(self._plan_of_group, len(groups))
            self._plan_of_group[self._looked_up : len(groups)] = _NOT_LOOKED_UP
            # Never looked up: each of its spans has a plan of its own.
            self._plan_of_group[OVERFLOW_GROUP] = NO_PLAN
            self._looked_up = len(groups)
        plan = self._plan_of_group[group]
        unknown = plan == _NOT_LOOKED_UP
        if unknown.any():
            for index in np.unique(group[unknown]).tolist():
                self._plan_of_group[index] = self._plan_id(groups[index].model, groups[index].provider)
            plan = self._plan_of_group[group]
        overflowed = np.flatnonzero(group == OVERFLOW_GROUP)
        if len(overflowed):
            overflow_rows = rows[overflowed]
            names = zip(
                _texts(spans, spans.model, overflow_rows), _texts(spans, spans.provider, overflow_rows), strict=True
            )
            plan[overflowed] = [self._plan_id(*name) for name in names]
        return plan

    def _plan_id(self, model: str, provider: str) -> int:
        plan_id = self._plan_of_name.get((model, provider))
        if plan_id is None:
            plan = self._find_plan(model, provider)
            plan_id = NO_PLAN if plan is None else self._table.add(plan)
            if len(self._plan_of_name) >= _MAX_NAMES:
                self._plan_of_name.clear()
                if self._builtin:
                    self._builtin.clear_cache()
            self._plan_of_name[model, provider] = plan_id
        return plan_id

    def _find_plan(self, model: str, provider: str) -> PricePlan | None:
        lowered = model.lower()
        for pattern, plan in self._configured:
            if pattern.match(lowered):
                return plan
        return self._builtin.find(model, provider) if self._builtin else None


def _texts(spans: SpanBatch, strings: Strings, rows: NDArray[np.int64]) -> list[str]:
    buffer = spans.buffer.data
    start = strings.offset[rows]
    bounds = zip(start.tolist(), (start + strings.length[rows]).tolist(), strict=True)
    return [str(buffer[first:end], "utf-8") for first, end in bounds]

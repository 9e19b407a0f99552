"""The pricer: costs for a batch of spans by arithmetic on arrays, from plans that are looked up once a model."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..delta import grown
from ..groups import OVERFLOW_GROUP
from ..reasons import MAX_TOKENS
from ..snapshot import Group
from ..spans import SpanBatch, Strings
from .plan import Plan, PriceList, Rates, RateRow, configured_plan, published_plan

#: Where a cost comes from, by the code in `Priced.source`.
SOURCES: Final = ("reported", "computed", "unpriced")
REPORTED, COMPUTED, UNPRICED = range(3)

_NO_PLAN: Final = 0
_UNKNOWN: Final = -1
#: A product beyond this might not fit int64 any more, and is computed with Python's integers.
_SAFE: Final = float(1 << 61)
#: Models beyond max_groups whose plans are remembered.
_MAX_STRANGERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Priced:
    """cost_nano_usd: int64[m]. source: uint8[m], index into SOURCES."""

    cost_nano_usd: NDArray[np.int64]
    source: NDArray[np.uint8]


class Pricer:
    """Prices spans. rates: glob over model names, without regard to case -> Rates; the first that matches holds."""

    def __init__(
        self, rates: Mapping[str, Rates], builtin: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = [
            (re.compile(fnmatch.translate(pattern.lower())), configured_plan(each)) for pattern, each in rates.items()
        ]
        self._builtin = builtin
        self._clock = clock
        self._plans: list[Plan] = [Plan(())]
        self._flat: NDArray[np.bool_] = np.zeros(64, np.bool_)
        self._rates: NDArray[np.int64] = np.zeros((64, 4), np.int64)
        self._number_of: dict[tuple[str, str], int] = {}
        self._plan_of_group: NDArray[np.int32] = np.full(0, _UNKNOWN, np.int32)

    def price(self, spans: SpanBatch, group: NDArray[np.int64], groups: Sequence[Group]) -> Priced:
        """Price m validated spans. group: int64[m], indices into groups."""
        reported = spans.cost_usd.present
        cost = np.rint(spans.cost_usd.values * 1e9).astype(np.int64)
        source = np.where(reported, np.uint8(REPORTED), np.uint8(UNPRICED))
        rows = np.flatnonzero(~reported & (spans.prompt_tokens.present | spans.completion_tokens.present))
        if not len(rows):
            return Priced(cost, source)
        plan = self._plan_of(spans, rows, group[rows], groups)
        priced = plan != _NO_PLAN
        rows, plan = rows[priced], plan[priced]
        source[rows] = COMPUTED
        # Most models have one flat price: those are charged together, each span with its own rates.
        flat = self._flat[plan]
        chosen = rows[flat]
        cost[chosen] = _multiply_each(self._rates[plan[flat]], *_tokens(spans, chosen))
        rows, plan = rows[~flat], plan[~flat]
        for number in np.unique(plan).tolist():
            chosen = rows[plan == number]
            cost[chosen] = _charge(self._plans[number], spans, chosen, self._clock)
        return Priced(cost, source)

    # -- plans -----------------------------------------------------------------------------------------------------

    def _plan_of(
        self, spans: SpanBatch, rows: NDArray[np.int64], group: NDArray[np.int64], groups: Sequence[Group]
    ) -> NDArray[np.int32]:
        """int32[len(rows)], each span's plan number."""
        if len(self._plan_of_group) < len(groups):
            before = len(self._plan_of_group)
            self._plan_of_group = grown(self._plan_of_group, len(groups))
            self._plan_of_group[before:] = _UNKNOWN
        plan = self._plan_of_group[group]
        for number in np.unique(group[(plan == _UNKNOWN) & (group != OVERFLOW_GROUP)]).tolist():
            self._plan_of_group[number] = self._number(groups[number].model, groups[number].provider)
        plan = self._plan_of_group[group]
        # The overflow group stands for many models: each of its spans is priced by its own names.
        for index in np.flatnonzero(group == OVERFLOW_GROUP).tolist():
            row = int(rows[index])
            plan[index] = self._number(_text(spans, spans.model, row), _text(spans, spans.provider, row))
        return plan

    def _number(self, model: str, provider: str) -> int:
        number = self._number_of.get((model, provider))
        if number is None:
            plan = self._find(model, provider)
            number = _NO_PLAN
            if plan is not None:
                number = self._plans.index(plan) if plan in self._plans else len(self._plans)
                if number == len(self._plans):
                    self._append(plan)
            if len(self._number_of) >= _MAX_STRANGERS:
                self._number_of.clear()
            self._number_of[model, provider] = number
        return number

    def _append(self, plan: Plan) -> None:
        number = len(self._plans)
        self._plans.append(plan)
        self._flat, self._rates = grown(self._flat, number + 1), grown(self._rates, number + 1)
        if len(plan.lists) == 1 and len(plan.lists[0].tiers) == 1:
            exact = plan.lists[0].tiers[0].rates.exact()
            if exact is not None and max(map(abs, exact)) * 4 * MAX_TOKENS < _SAFE:
                self._flat[number], self._rates[number] = True, exact

    def _find(self, model: str, provider: str) -> Plan | None:
        lowered = model.lower()
        for pattern, plan in self._configured:
            if pattern.match(lowered):
                return plan
        return published_plan(model, provider) if self._builtin else None


# -- arithmetic ----------------------------------------------------------------------------------------------------------


def _charge(plan: Plan, spans: SpanBatch, rows: NDArray[np.int64], clock: Callable[[], float]) -> NDArray[np.int64]:
    """int64[len(rows)], nano-USD of spans that share a plan."""
    if len(plan.lists) == 1:
        return _charge_list(plan.lists[0], spans, rows)
    times_us = _times_us(spans, rows, clock)
    cost = np.zeros(len(rows), np.int64)
    open_ = np.ones(len(rows), np.bool_)
    for each in plan.lists:
        holds = open_ if each.condition is None else open_ & each.condition(times_us)
        if holds.any():
            cost[holds] = _charge_list(each, spans, rows[holds])
            open_ = open_ & ~holds
    return cost


def _times_us(spans: SpanBatch, rows: NDArray[np.int64], clock: Callable[[], float]) -> NDArray[np.int64]:
    """When each call was made: prices change with the time of the request."""
    started, ended = spans.started_at_us.values[rows], spans.ended_at_us.values[rows]
    times_us = np.where(started > 0, started, ended)
    return np.where(times_us > 0, times_us, int(clock() * 1e6))


def _tokens(spans: SpanBatch, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Prompt, cached prompt and completion tokens, int64[len(rows)] each."""
    return (
        spans.prompt_tokens.values[rows],
        spans.cached_prompt_tokens.values[rows],
        spans.completion_tokens.values[rows],
    )


def _charge_list(prices: PriceList, spans: SpanBatch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    prompt, cached, completion = _tokens(spans, rows)
    if len(prices.tiers) == 1:
        return _multiply(prices.tiers[0].rates, prompt, cached, completion)
    cost = np.zeros(len(rows), np.int64)
    bounds = np.array([tier.above for tier in prices.tiers[1:]], np.int64)
    reached = np.searchsorted(bounds, prompt, side="left")
    for number in np.unique(reached).tolist():
        here = reached == number
        cost[here] = _multiply(prices.tiers[number].rates, prompt[here], cached[here], completion[here])
    return cost


def _multiply(
    rates: RateRow, prompt: NDArray[np.int64], cached: NDArray[np.int64], completion: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Exact pico-USD, rounded half to even to nano-USD."""
    exact = rates.exact()
    if exact is None or _might_overflow(exact, prompt, cached, completion):
        amounts = zip(prompt.tolist(), cached.tolist(), completion.tolist(), strict=True)
        return np.array([_multiply_one(rates, *each) for each in amounts], np.int64)
    return _multiply_each(np.array([exact], np.int64), prompt, cached, completion)


def _multiply_each(
    rates: NDArray[np.int64], prompt: NDArray[np.int64], cached: NDArray[np.int64], completion: NDArray[np.int64]
) -> NDArray[np.int64]:
    """rates: int64[m, 4] or int64[1, 4], the exact rates of each span or of all; nothing may overflow."""
    pico = rates[:, 0] + prompt * rates[:, 1] + cached * rates[:, 2] + completion * rates[:, 3]
    nano = pico // 1000
    rest = pico - nano * 1000
    return nano + ((rest > 500) | ((rest == 500) & (nano & 1 == 1)))


def _multiply_one(rates: RateRow, prompt: int, cached: int, completion: int) -> int:
    pico: Fraction = rates.call + prompt * rates.prompt + cached * rates.cached + completion * rates.completion
    return round(pico / 1000)


def _might_overflow(rates: tuple[int, int, int, int], *tokens: NDArray[np.int64]) -> bool:
    most = sum(abs(rate) * float(each.max()) for rate, each in zip(rates[1:], tokens, strict=True))
    return abs(rates[0]) + most > _SAFE


def _text(spans: SpanBatch, strings: Strings, row: int) -> str:
    start = int(strings.offset[row])
    return spans.buffer[start : start + int(strings.length[row])].tobytes().decode()

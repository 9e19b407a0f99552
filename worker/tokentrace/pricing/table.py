"""Rate table: all price plans as arrays, so that a batch is charged without a loop over models.

The price lists of a plan are adjacent rows, and so are the tiers of a list. A span starts at the first list of its
plan and advances while the list's condition is false. It then starts at the first tier of that list and advances
while it reaches the next tier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import Ints, grown
from tokentrace.model.reasons import MAX_TOKENS
from tokentrace.pricing.rates import ALWAYS, NANO_PER_USD, PICO_PER_USD, US_PER_DAY, PriceList, PricePlan, RateRow

#: Plan id of a model without a price; all its rates are 0.
NO_PLAN: Final = 0
_PICO_PER_NANO: Final = PICO_PER_USD // NANO_PER_USD
_NEVER: Final = (1 << 63) - 1
#: Bound on the pico-USD of a call that keeps every step of the arithmetic within int64.
_INT64_SAFE: Final = 1 << 62


class RateTable:
    """Price plans by id. Equal plans have the same id."""

    def __init__(self) -> None:
        self._id_of: dict[PricePlan, int] = {}
        self._first_list: Ints = np.zeros(0, np.int64)
        self._list_count = 0
        #: One row per list: since_us, daily_from_us, daily_for_us, first tier. Conditional: not ALWAYS.
        self._lists: Ints = np.zeros((0, 4), np.int64)
        self._conditional: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._rows: list[RateRow] = []
        #: One row per tier: pico-USD per call, prompt, cached and completion token; `above` of the next tier.
        self._tiers: Ints = np.zeros((0, 5), np.int64)
        #: Tiers that int64 arithmetic in pico-USD cannot charge exactly; these use RateRow.charge.
        self._wide: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._add_tier(RateRow(0, 0, 0, 0, _PICO_PER_NANO), _NEVER)
        self._lists, self._conditional = grown(self._lists, 1), grown(self._conditional, 1)
        self._first_list = grown(self._first_list, 1)
        self._lists[0] = (ALWAYS.since_us, ALWAYS.daily_from_us, ALWAYS.daily_for_us, 0)
        self._list_count = 1

    def add(self, plan: PricePlan) -> int:
        """Add a plan unless it is already present. Returns its id, which is above NO_PLAN."""
        plan_id = self._id_of.get(plan)
        if plan_id is not None:
            return plan_id
        plan_id = self._id_of[plan] = len(self._id_of) + 1
        self._first_list = grown(self._first_list, plan_id + 1)
        self._first_list[plan_id] = self._list_count
        for price_list in plan:
            self._add_list(price_list)
        return plan_id

    def _add_list(self, price_list: PriceList) -> None:
        row = self._list_count
        self._lists, self._conditional = grown(self._lists, row + 1), grown(self._conditional, row + 1)
        condition = price_list.condition
        self._lists[row] = (condition.since_us, condition.daily_from_us, condition.daily_for_us, len(self._rows))
        self._conditional[row] = condition != ALWAYS
        self._list_count += 1
        bounds = [tier.above for tier in price_list.tiers[1:]] + [_NEVER]
        for tier, next_above in zip(price_list.tiers, bounds, strict=True):
            self._add_tier(tier.rates, next_above)

    def _add_tier(self, rates: RateRow, next_above: int) -> None:
        row = len(self._rows)
        self._rows.append(rates)
        self._tiers, self._wide = grown(self._tiers, row + 1), grown(self._wide, row + 1)
        most = rates.call + (rates.prompt + abs(rates.cached) + rates.completion) * MAX_TOKENS
        self._wide[row] = rates.units_per_nano != _PICO_PER_NANO or most > _INT64_SAFE
        exact = (0, 0, 0, 0) if self._wide[row] else (rates.call, rates.prompt, rates.cached, rates.completion)
        self._tiers[row] = (*exact, next_above)

    def charge(
        self, plan: NDArray[np.int32], prompt: Ints, cached: Ints, completion: Ints, times_us: Callable[[Ints], Ints]
    ) -> Ints:
        """Charge k calls. Returns int64[k], nano-USD: exact amounts, rounded half to even.

        plan: int32[k], plan ids. prompt, cached, completion: int64[k], tokens, at most MAX_TOKENS. times_us: returns
        the times (int64[c], microseconds since the epoch) of the calls at some indices (int64[c]); called only for
        calls whose price depends on the time.
        """
        tier = self._tier_of(self._first_list[plan], prompt, times_us)
        call, prompt_rate, cached_rate, completion_rate, _ = self._tiers[tier].T
        pico = call + prompt * prompt_rate + cached * cached_rate + completion * completion_rate
        nano: Ints = pico // _PICO_PER_NANO
        # Exact halves round to even, so only an odd floor moves up.
        nano += pico - nano * _PICO_PER_NANO + (nano & 1) > _PICO_PER_NANO // 2
        for index in np.flatnonzero(self._wide[tier]).tolist():
            nano[index] = self._rows[tier[index]].charge(int(prompt[index]), int(cached[index]), int(completion[index]))
        return nano

    def _tier_of(self, list_: Ints, prompt: Ints, times_us: Callable[[Ints], Ints]) -> Ints:
        """Return int64[k], the tier row of every call. list_: int64[k], first list of its plan; changed in place."""
        undecided = np.flatnonzero(self._conditional[list_])
        if len(undecided):
            moments = times_us(undecided)
            while len(undecided):
                since_us, daily_from_us, daily_for_us, _ = self._lists[list_[undecided]].T
                fails = (moments < since_us) | ((moments - daily_from_us) % US_PER_DAY >= daily_for_us)
                undecided, moments = undecided[fails], moments[fails]
                list_[undecided] += 1
        tier: Ints = self._lists[list_, 3]
        while (reached := prompt > self._tiers[tier, 4]).any():
            tier += reached
        return tier

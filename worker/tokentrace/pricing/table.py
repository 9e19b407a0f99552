"""The rate table: many plans as arrays, so that a batch is charged with no loop over models.

Every plan's price lists lie one after the other, and every list's tiers do. A span starts at its plan's first list and
moves on while a list's condition does not hold, then from that list's first tier on while the next tier is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import Ints, grown
from tokentrace.model.reasons import MAX_TOKENS
from tokentrace.pricing.rates import ALWAYS, NANO_PER_USD, PICO_PER_USD, US_PER_DAY, PricePlan, RateRow

#: The plan of a model without any price: all its rates are 0.
NO_PLAN: Final = 0
_PICO_PER_NANO: Final = PICO_PER_USD // NANO_PER_USD
_NEVER: Final = (1 << 63) - 1
#: Bound on a call's pico-USD that leaves every step of the arithmetic within int64.
_INT64_SAFE: Final = 1 << 62


class RateTable:
    """Numbers plans as they are added; equal plans share a number."""

    def __init__(self) -> None:
        self._id_of: dict[PricePlan, int] = {}
        self._first_list: Ints = np.zeros(0, np.int64)
        self._list_count = 0
        #: A row a list: since_us, daily_from_us, daily_for_us, first tier; and whether it may not hold.
        self._lists: Ints = np.zeros((0, 4), np.int64)
        self._conditional: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._rows: list[RateRow] = []
        #: A row a tier: pico-USD of a call, a prompt, a cached, a completion token; the next tier's `above`.
        self._tiers: Ints = np.zeros((0, 5), np.int64)
        #: Tiers that int64 arithmetic in pico-USD cannot charge exactly.
        self._wide: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._add_tier(RateRow(0, 0, 0, 0, _PICO_PER_NANO), _NEVER)
        self._lists, self._conditional = grown(self._lists, 1), grown(self._conditional, 1)
        self._first_list = grown(self._first_list, 1)
        self._lists[0] = (ALWAYS.since_us, ALWAYS.daily_from_us, ALWAYS.daily_for_us, 0)
        self._list_count = 1

    def add(self, plan: PricePlan) -> int:
        """The plan's number, above NO_PLAN; the plan is added when it is new."""
        plan_id = self._id_of.get(plan)
        if plan_id is not None:
            return plan_id
        plan_id = self._id_of[plan] = len(self._id_of) + 1
        self._first_list = grown(self._first_list, plan_id + 1)
        self._first_list[plan_id] = self._list_count
        for each in plan:
            row = self._list_count
            self._lists, self._conditional = grown(self._lists, row + 1), grown(self._conditional, row + 1)
            when = each.condition
            self._lists[row] = (when.since_us, when.daily_from_us, when.daily_for_us, len(self._rows))
            self._conditional[row] = when != ALWAYS
            self._list_count += 1
            bounds = [tier.above for tier in each.tiers[1:]] + [_NEVER]
            for tier, next_above in zip(each.tiers, bounds, strict=True):
                self._add_tier(tier.rates, next_above)
        return plan_id

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
        """int64[k], nano-USD of k calls: exact amounts, rounded half to even.

        plan: int32[k]. prompt, cached, completion: int64[k], tokens, at most MAX_TOKENS. times_us: gives the moments
        (int64[c], microseconds since the epoch) of the calls at some indices (int64[c]); asked only for those whose
        price depends on it.
        """
        tier = self._tier_of(self._first_list[plan], prompt, times_us)
        call, prompt_rate, cached_rate, completion_rate, _ = self._tiers[tier].T
        pico = call + prompt * prompt_rate + cached * cached_rate + completion * completion_rate
        nano: Ints = pico // _PICO_PER_NANO
        # A whole half is rounded to the even neighbour: the odd ones among the floors move up.
        nano += pico - nano * _PICO_PER_NANO + (nano & 1) > _PICO_PER_NANO // 2
        for index in np.flatnonzero(self._wide[tier]).tolist():
            nano[index] = self._rows[tier[index]].charge(int(prompt[index]), int(cached[index]), int(completion[index]))
        return nano

    def _tier_of(self, list_: Ints, prompt: Ints, times_us: Callable[[Ints], Ints]) -> Ints:
        """int64[k], the row of the tier that each call is charged by, from the first list of its plan."""
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

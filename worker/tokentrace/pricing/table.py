"""Rate table: all price plans as arrays, so that a batch is charged without a loop over models.

The price lists of a plan are adjacent rows, and so are the tiers of a list. A span starts at the first list of its
plan and advances while the list's condition is false. It then starts at the first tier of that list and advances
while it reaches the next tier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import Ints, grown
from tokentrace.model.units import BY_NAME
from tokentrace.pricing.rates import (
    ALWAYS,
    NANO_PER_USD,
    PICO_PER_USD,
    US_PER_DAY,
    Condition,
    PriceList,
    PricePlan,
    RateRow,
)

#: Plan id of a model without a price; all its rates are 0.
NO_PLAN: Final = 0
_PICO_PER_NANO: Final = PICO_PER_USD // NANO_PER_USD
_NEVER: Final = (1 << 63) - 1
#: A count that was raised to the sum of its parts is at most so many times the largest count of a span.
_RAISED: Final = 4
#: Bound on the pico-USD of a call that keeps every step of the arithmetic within int64.
_INT64_SAFE: Final = 1 << 62


class Charged(NamedTuple):
    """nano_usd: int64[k], exact amounts, rounded half to even. billed: bool[k], whether anything had a price.

    estimated: bool[k], whether the price leaves something out of account, see `PriceList`; None for no call.
    tier: int64[k], for `has_price`.
    """

    nano_usd: Ints
    billed: NDArray[np.bool_]
    estimated: NDArray[np.bool_] | None
    tier: Ints


class RateTable:
    """Price plans by id. Equal plans have the same id."""

    def __init__(self) -> None:
        self._id_of: dict[PricePlan, int] = {}
        self._first_list: Ints = np.zeros(0, np.int64)
        self._plan_per_call: NDArray[np.bool_] = np.zeros(1, np.bool_)
        self._list_count = 0
        #: One row per list: since_us, daily_from_us, daily_for_us, until_us, first tier. Conditional: not ALWAYS.
        self._lists: Ints = np.zeros((0, 5), np.int64)
        self._estimated: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._any_estimated = False
        self._conditional: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._rows: list[RateRow] = []
        #: One entry per tier: pico-USD per call, and `above` of the next tier.
        self._call: Ints = np.zeros(0, np.int64)
        self._next_above: Ints = np.zeros(0, np.int64)
        #: Unit -> one entry per tier, pico-USD of one more; a unit that no tier charges for is left out.
        self._rates: dict[str, Ints] = {}
        #: Tiers that int64 arithmetic in pico-USD cannot charge exactly. Those of them that it can charge in another
        #: measure, except for very large calls, have that measure here, the others 0 and use RateRow.charge.
        self._wide: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._per_nano: Ints = np.zeros(0, np.int64)
        #: Tiers that charge for a call itself, and by unit those that have a price for it, even if it is 0.
        self._per_call: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._priced: dict[str, NDArray[np.bool_]] = {"prompt": self._per_call}
        self._any_priced: NDArray[np.bool_] = self._per_call
        self._add_tier(RateRow(0, (), _PICO_PER_NANO, frozenset()), _NEVER)
        self._first_list = grown(self._first_list, 1)
        self._add_list_row(ALWAYS, 0, False)

    def add(self, plan: PricePlan) -> int:
        """Add a plan unless it is already present. Returns its id, which is above NO_PLAN."""
        plan_id = self._id_of.get(plan)
        if plan_id is not None:
            return plan_id
        plan_id = self._id_of[plan] = len(self._id_of) + 1
        self._first_list = grown(self._first_list, plan_id + 1)
        self._first_list[plan_id] = self._list_count
        self._plan_per_call = grown(self._plan_per_call, plan_id + 1)
        rows = [tier.rates for price_list in plan for tier in price_list.tiers]
        self._plan_per_call[plan_id] = any(row.call or "request" in row.priced for row in rows)
        for price_list in plan:
            self._add_list(price_list)
        return plan_id

    def _add_list(self, price_list: PriceList) -> None:
        self._add_list_row(price_list.condition, len(self._rows), price_list.estimated)
        bounds = [tier.above for tier in price_list.tiers[1:]] + [_NEVER]
        for tier, next_above in zip(price_list.tiers, bounds, strict=True):
            self._add_tier(tier.rates, next_above)

    def _add_list_row(self, condition: Condition, first_tier: int, estimated: bool) -> None:
        row = self._list_count
        self._lists, self._conditional = grown(self._lists, row + 1), grown(self._conditional, row + 1)
        self._estimated = grown(self._estimated, row + 1)
        self._lists[row] = (
            condition.since_us, condition.daily_from_us, condition.daily_for_us, condition.until_us, first_tier,
        )  # fmt: skip
        self._conditional[row], self._estimated[row] = condition != ALWAYS, estimated
        self._any_estimated |= estimated
        self._list_count += 1

    def _add_tier(self, rates: RateRow, next_above: int) -> None:
        row = len(self._rows)
        self._rows.append(rates)
        self._call, self._next_above = grown(self._call, row + 1), grown(self._next_above, row + 1)
        self._wide, self._per_call = grown(self._wide, row + 1), grown(self._per_call, row + 1)
        for unit in {*self._rates, *(unit for unit, _ in rates.rates)}:
            self._rates[unit] = grown(self._rates.get(unit, self._call[:0]), row + 1)
        most = rates.call + sum(abs(rate) * _RAISED * BY_NAME[unit].most for unit, rate in rates.rates)
        self._per_nano = grown(self._per_nano, row + 1)
        wide = rates.per_nano != _PICO_PER_NANO or most > _INT64_SAFE or bool(rates.least)
        largest = max(rates.call, rates.per_nano * 2, *(abs(rate) for _, rate in rates.rates), 0)
        if not wide or (largest < _INT64_SAFE and not rates.least):
            self._per_nano[row] = rates.per_nano
            self._call[row] = rates.call
            for unit, rate in rates.rates:
                self._rates[unit][row] = rate
        self._wide[row], self._next_above[row] = wide, next_above
        self._per_call[row] = rates.call > 0 or "request" in rates.priced
        self._any_priced = grown(self._any_priced, row + 1)
        self._any_priced[row] = self._per_call[row] or bool(rates.priced)
        for unit in {*self._priced, *rates.priced}:
            self._priced[unit] = grown(self._priced.get(unit, self._wide[:0]), row + 1)
            self._priced[unit][row] = unit in rates.priced

    def charge(self, plan: NDArray[np.int32], usage: Mapping[str, Ints], times_us: Callable[[Ints], Ints]) -> Charged:
        """Charge k calls.

        plan: int32[k], plan ids. usage: unit -> int64[k], quantities, at most _RAISED times the unit's; prompt is
        among them. times_us: returns the times (int64[c], microseconds since the epoch) of the calls at some indices
        (int64[c]); called only for calls whose price depends on the time.
        """
        prompt = usage["prompt"]
        list_ = self._first_list[plan]
        tier = self._tier_of(list_, prompt, times_us)
        pico = self._call.take(tier)
        for unit, quantity in usage.items():
            rates = self._rates.get(unit)
            if rates is not None:
                pico += quantity * rates.take(tier)
        nano: Ints = pico // _PICO_PER_NANO
        # Exact halves round to even, so only an odd floor moves up.
        nano += pico - nano * _PICO_PER_NANO + (nano & 1) > _PICO_PER_NANO // 2
        wide = np.flatnonzero(self._wide.take(tier))
        if len(wide):
            self._charge_wide(nano, wide, tier, usage)
        estimated = self._estimated.take(list_) if self._any_estimated else None
        return Charged(nano, self._billed(tier, usage), estimated, tier)

    def _charge_wide(self, nano: Ints, rows: Ints, tier: Ints, usage: Mapping[str, Ints]) -> None:
        """Write the nano-USD of calls whose tiers are not in pico-USD. rows: int64[w], of those in all others."""
        tiers = tier.take(rows)
        per_nano, total = self._per_nano.take(tiers), self._call.take(tiers)
        # Approximate, to tell calls that int64 may not hold.
        size = np.abs(total.astype(np.float64))
        for unit, column in usage.items():
            rates = self._rates.get(unit)
            if rates is not None:
                rate, quantity = rates.take(tiers), column.take(rows)
                total += quantity * rate
                size += np.abs(rate.astype(np.float64)) * quantity
        small = (per_nano > 0) & (size < _INT64_SAFE)
        per_nano = np.maximum(per_nano, 1)
        amount = total // per_nano
        rest = 2 * (total - amount * per_nano)
        nano[rows] = amount + ((rest > per_nano) | ((rest == per_nano) & ((amount & 1) == 1)))
        for index in rows[~small].tolist():
            # What exceeds the bound exceeds every limit of a cost.
            nano[index] = min(self._rows[tier[index]].charge(_usage_at(usage, index)), _INT64_SAFE)

    def has_price(self, tier: Ints) -> NDArray[np.bool_]:
        """Return bool[j], whether tiers have a price for anything."""
        return self._any_priced.take(tier)

    def per_call(self, plan: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return bool[k], the plans that may charge for a call itself."""
        return self._plan_per_call.take(plan)

    def _billed(self, tier: Ints, usage: Mapping[str, Ints]) -> NDArray[np.bool_]:
        """Return bool[k], whether a call is charged for itself or has used anything that has a price."""
        billed = self._priced["prompt"].take(tier) & (usage["prompt"] > 0)
        open_ = np.flatnonzero(~billed & self._any_priced.take(tier))
        if len(open_):
            tier = tier.take(open_)
            found = self._per_call.take(tier)
            for unit, quantity in usage.items():
                if unit in self._priced:
                    found |= self._priced[unit].take(tier) & (quantity.take(open_) > 0)
            billed[open_] = found
        return billed

    def _tier_of(self, list_: Ints, prompt: Ints, times_us: Callable[[Ints], Ints]) -> Ints:
        """Return int64[k], the tier row of every call. list_: int64[k], first list of its plan; changed in place."""
        undecided = np.flatnonzero(self._conditional[list_])
        if len(undecided):
            moments = times_us(undecided)
            while len(undecided):
                since_us, daily_from_us, daily_for_us, until_us, _ = self._lists[list_[undecided]].T
                fails = (moments < since_us) | (moments >= until_us)
                fails |= (moments - daily_from_us) % US_PER_DAY >= daily_for_us
                undecided, moments = undecided[fails], moments[fails]
                list_[undecided] += 1
        tier: Ints = self._lists[list_, 4]
        while (reached := prompt > self._next_above.take(tier)).any():
            tier += reached
        return tier


def _usage_at(usage: Mapping[str, Ints], index: int) -> dict[str, int]:
    """Return the quantities of one call that are not 0, by unit."""
    return {unit: quantity for unit, column in usage.items() if (quantity := int(column[index]))}

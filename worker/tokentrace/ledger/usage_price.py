"""Usage price: what calls cost of which only the sum of their usage is known, and by how much that may be wrong.

A price is a sum over units, so the price of a sum of calls is exact, except for what depends on the single call: tiers
by its prompt, smallest quantities, its rounding to the nano-dollar, and a time within the hour, or the part of one. For
these, each unit is charged at the lowest and at the highest rate that any of the calls may have had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

from tokentrace.ledger.parts import Part
from tokentrace.pricing.rates import ALWAYS, US_PER_DAY, PriceList, PricePlan, RateRow

_US_PER_MINUTE: Final = 60_000_000


class Usage(NamedTuple):
    """Sum of some calls of one part of an hour. quantities: unit -> sum. failed: whether the calls failed.

    largest: prompt tokens that none of the calls has more of, None where that is not known.
    """

    part: Part
    spans: int
    quantities: Mapping[str, int]
    failed: bool = False
    largest: int | None = None


class Amount(NamedTuple):
    """Nano-USD: what is most likely, and the bounds of what is possible."""

    likely: int
    low: int
    high: int

    @property
    def exact(self) -> bool:
        """True if nothing else is possible."""
        return self.low == self.high

    def __add__(self, other: object) -> Amount:
        assert isinstance(other, Amount)
        return Amount(self.likely + other.likely, self.low + other.low, self.high + other.high)


NOTHING = Amount(0, 0, 0)


def price(plan: PricePlan, usage: Usage) -> Amount:
    """Return what the calls cost by a plan."""
    lists = [*_lists(plan, usage.part)]
    rows = [row for price_list in lists for row in _rows(price_list, usage)]
    likely = _sum(_likely_row(lists[0], usage), usage)
    low = high = Fraction(0)
    rounded = usage.spans > 1 and not all(_whole(row) for row in rows)
    for unit, quantity in usage.quantities.items():
        charges = [Fraction(row.rate(unit) * quantity, row.per_nano) for row in rows]
        low, high = low + min(charges), high + max(charges)
        # At least so much is charged for each call that has any.
        high += max(Fraction(max(row.rate(unit), 0) * _least(row, unit) * usage.spans, row.per_nano) for row in rows)
    calls = [Fraction(row.call * usage.spans, row.per_nano) for row in rows]
    # Failed calls that used nothing are not charged.
    low, high = low + (0 if usage.failed else min(calls)), high + max(calls)
    # Each call is rounded by at most half a nano-USD.
    slack = Fraction(usage.spans, 2) if rounded else Fraction(0)
    lowest, highest = _floor(low - slack), _ceil(high + slack)
    if low == high and not rounded:
        lowest = highest = round(low)
    return Amount(min(max(round(likely), lowest), highest), lowest, highest)


def lowest_tier(plan: PricePlan, part: Part) -> int | None:
    """Return the prompt tokens above which a call of this part has another tier, None without tiers."""
    bounds = [one.tiers[1].above for one in _lists(plan, part) if len(one.tiers) > 1]
    return min(bounds, default=None)


def either(amounts: Sequence[Amount], likely: int) -> Amount:
    """Return the amount that is one of several. likely: within their bounds, else the nearest bound."""
    low, high = min(amount.low for amount in amounts), max(amount.high for amount in amounts)
    return Amount(min(max(likely, low), high), low, high)


def _lists(plan: PricePlan, part: Part) -> Iterable[PriceList]:
    """Return the price lists that apply at any moment of a part, that of its beginning first."""
    if plan[0].condition == ALWAYS:
        return [plan[0]]
    begin_us = part.start * _US_PER_MINUTE
    moments = [begin_us, *sorted(set(_changes(plan, begin_us, part.end * _US_PER_MINUTE)))]
    found = [next(one for one in plan if one.condition.applies(moment)) for moment in moments]
    return list(dict.fromkeys(found))


def _changes(plan: PricePlan, begin_us: int, end_us: int) -> Iterator[int]:
    """Yield the moments behind the beginning of a part, and in it, at which another list may begin to apply."""
    day_us = begin_us // US_PER_DAY * US_PER_DAY
    for one in plan:
        condition = one.condition
        daily = (condition.daily_from_us, condition.daily_from_us + condition.daily_for_us)
        in_day = [day_us + moment % US_PER_DAY for moment in daily] if condition.daily_for_us < US_PER_DAY else []
        for moment in (condition.since_us, condition.until_us, *in_day):
            if begin_us < moment < end_us:
                yield moment


def _rows(price_list: PriceList, usage: Usage) -> list[RateRow]:
    """Return the rates of the tiers that any of the calls may be in."""
    prompt = usage.quantities.get("prompt", 0)
    if usage.largest is not None:
        prompt = min(prompt, usage.largest)
    reachable = [tier.rates for tier in price_list.tiers if prompt > tier.above]
    return reachable[-1:] if usage.spans == 1 else reachable


def _likely_row(price_list: PriceList, usage: Usage) -> RateRow:
    """Return the rates of the tier of the average call."""
    prompt = usage.quantities.get("prompt", 0)
    return [tier.rates for tier in price_list.tiers if prompt > tier.above * max(usage.spans, 1)][-1]


def _sum(row: RateRow, usage: Usage) -> Fraction:
    total = 0 if usage.failed else row.call * usage.spans
    return Fraction(total + sum(row.rate(unit) * quantity for unit, quantity in usage.quantities.items()), row.per_nano)


def _whole(row: RateRow) -> bool:
    """Return whether no call is rounded: one more of any unit is a whole number of nano-USD."""
    return row.call % row.per_nano == 0 and all(rate % row.per_nano == 0 for _, rate in row.rates)


def _least(row: RateRow, unit: str) -> int:
    return dict(row.least).get(unit, 0)


def _floor(number: Fraction) -> int:
    return number.numerator // number.denominator


def _ceil(number: Fraction) -> int:
    return -(-number.numerator // number.denominator)

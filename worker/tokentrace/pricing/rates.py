"""Price plans: the prices of one model as values. A plan has price lists with conditions; a list has tiers of rates.

Rates are exact integers in a measure that divides the nano-USD. It is the pico-USD (one micro-USD per million tokens)
if that is fine enough, else a smaller one. Rates are never rounded; only the total of a call is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from tokentrace.errors import ConfigError
from tokentrace.model.units import BY_NAME, PARTS, UNITS, WHOLES

#: Above every published rate, and low enough for the cost of every validated span to fit in int64.
MAX_RATE_PER_1M: Final = 10_000
#: Above every published price of a call besides its tokens.
MAX_CALL_USD: Final = 1
PICO_PER_USD: Final = 10**12
NANO_PER_USD: Final = 10**9
US_PER_DAY: Final = 86_400_000_000
_EVER: Final = (1 << 63) - 1
#: The units that a price of prompt and of completion tokens covers.
TOKENS: Final = frozenset({"prompt", "completion", *PARTS["prompt"], *PARTS["completion"]})


@dataclass(frozen=True, slots=True)
class Rates:
    """Configured rates of a model, in USD per million tokens. Cached tokens cost the prompt rate by default.

    Raises ConfigError for a rate outside 0 to MAX_RATE_PER_1M.
    """

    prompt_per_1m: Decimal
    completion_per_1m: Decimal
    cached_prompt_per_1m: Decimal | None = None

    def __post_init__(self) -> None:
        problems = [
            f"pricing.models: invalid {name} {rate}; set USD per million tokens, from 0 to {MAX_RATE_PER_1M}"
            for name in self.__slots__
            if (rate := getattr(self, name)) is not None and not (rate.is_finite() and 0 <= rate <= MAX_RATE_PER_1M)
        ]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class RateRow:
    """Rates as integers, in a measure of which `per_nano` make one nano-USD.

    call: per call, regardless of its usage. rates: (unit, what one more of it adds to the charge), without zeros, in
    the table's order. A part counts in its wholes too, so its rate is the difference, negative where it is cheaper.
    priced: the units that have a price, their own or that of a whole. least: (unit, quantity that is charged at least
    where there is any). Quantities are in the unit of the columns, see `model.units`.
    """

    call: int
    rates: tuple[tuple[str, int], ...]
    per_nano: int
    priced: frozenset[str] = TOKENS
    least: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of_usd(
        cls,
        call: Fraction,
        rates: Mapping[str, Fraction],
        priced: frozenset[str] = TOKENS,
        least: Mapping[str, int] = MappingProxyType({}),
    ) -> RateRow:
        """Convert amounts in USD, using the largest measure that represents all of them exactly."""
        per_usd = math.lcm(PICO_PER_USD, call.denominator, *(rate.denominator for rate in rates.values()))
        whole = {unit.name: int(rates[unit.name] * per_usd) for unit in UNITS if rates.get(unit.name)}
        return cls(
            int(call * per_usd), tuple(whole.items()), per_usd // NANO_PER_USD, priced, tuple(sorted(least.items()))
        )

    @classmethod
    def of_prices(cls, prices: Mapping[str, Fraction]) -> RateRow:
        """Return the row of prices in USD, each for the quantity that such prices are for (`Unit.per`).

        A part has the price of its own, so the wholes of each unit must have one, and so must every unit that is part
        of two of them that are no part of each other.
        """
        rates: dict[str, Fraction] = {}
        for unit in UNITS:
            if unit.name in prices and unit.name != "request":  # Every call is one request.
                price = prices[unit.name] / unit.per / unit.scale
                rates[unit.name] = price - sum(rates.get(whole, 0) for whole in WHOLES[unit.name])
        covered = {part for name in prices for part in (name, *PARTS[name])}
        call = prices.get("request", Fraction(0)) / BY_NAME["request"].per
        return cls.of_usd(call, rates, frozenset(covered))

    def scaled(self, factor: Fraction, but: frozenset[str] = frozenset()) -> RateRow:
        """Return the row with rates times `factor`, except those of some units, which are in no other unit."""
        per_usd = self.per_nano * NANO_PER_USD
        rates = {unit: Fraction(rate, per_usd) * (1 if unit in but else factor) for unit, rate in self.rates}
        return self.of_usd(Fraction(self.call, per_usd) * factor, rates, self.priced, dict(self.least))

    def rate(self, unit: str) -> int:
        """Return the rate of a unit, 0 for one that adds nothing."""
        return dict(self.rates).get(unit, 0)

    def charge(self, usage: Mapping[str, int]) -> int:
        """Return the nano-USD of one call: the exact amount, rounded half to even. usage: unit -> quantity."""
        least = dict(self.least)
        total = self.call
        for unit, rate in self.rates:
            quantity = usage.get(unit, 0)
            total += rate * (max(quantity, least.get(unit, 0)) if quantity else 0)
        return round(Fraction(total, self.per_nano))


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates for every token of a call with more than `above` prompt tokens."""

    above: int
    rates: RateRow


@dataclass(frozen=True, slots=True)
class Condition:
    """Validity of a price list.

    The list applies from `since_us` (microseconds since the epoch) until before `until_us`, on every day (UTC) for
    `daily_for_us` starting `daily_from_us` after midnight, possibly into the next day.
    """

    since_us: int = -_EVER - 1
    daily_from_us: int = 0
    daily_for_us: int = US_PER_DAY
    until_us: int = _EVER

    def applies(self, at_us: int) -> bool:
        """Return whether the list is valid at a time, microseconds since the epoch."""
        in_day = (at_us - self.daily_from_us) % US_PER_DAY < self.daily_for_us
        return self.since_us <= at_us < self.until_us and in_day

    def within(self, other: Condition) -> Condition | None:
        """Return when both apply, None for never. Raises ValueError where both have different hours of the day."""
        since_us, until_us = max(self.since_us, other.since_us), min(self.until_us, other.until_us)
        if since_us >= until_us:
            return None
        hours = {(one.daily_from_us, one.daily_for_us) for one in (self, other) if one.daily_for_us < US_PER_DAY}
        if len(hours) > 1:
            raise ValueError("prices with two different times of the day")
        daily_from_us, daily_for_us = hours.pop() if hours else (0, US_PER_DAY)
        return Condition(since_us, daily_from_us, daily_for_us, until_us)


ALWAYS: Final = Condition()


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a price, in words. source: a rule or table. modifiers: what changed it. discount: empty for none.

    reading: how the model's name was read. left: modifiers without a price.
    """

    source: str = ""
    modifiers: tuple[str, ...] = ()
    discount: str = ""
    reading: str = ""
    left: str = ""


@dataclass(frozen=True, slots=True)
class PriceList:
    """Tiers in ascending order of `above`, the first one -1, and the condition under which they apply.

    estimated: whether something that changes the price of the call has no price of its own.
    """

    tiers: tuple[Tier, ...]
    condition: Condition = ALWAYS
    estimated: bool = False
    origin: Origin = field(default=Origin(), compare=False)

    def scaled(self, factor: Fraction, but: frozenset[str] = frozenset()) -> tuple[Tier, ...]:
        """Return the tiers with rates times `factor`, see `RateRow.scaled`."""
        if factor == 1:
            return self.tiers
        return tuple(Tier(tier.above, tier.rates.scaled(factor, but)) for tier in self.tiers)


#: Price lists in order of precedence; the condition of the last one is ALWAYS.
PricePlan = tuple[PriceList, ...]
#: The last list of a plan that does not price every time.
NO_PRICE: Final = PriceList((Tier(-1, RateRow(0, (), PICO_PER_USD // NANO_PER_USD, frozenset())),))


def classic_prices(rates: Rates) -> dict[str, Fraction]:
    """Return the prices of a glob with rates of prompt, completion and cached tokens."""
    prices = {"prompt": Fraction(rates.prompt_per_1m), "completion": Fraction(rates.completion_per_1m)}
    if rates.cached_prompt_per_1m is not None:
        prices["cache_read"] = Fraction(rates.cached_prompt_per_1m)
    return prices

"""Price plans: the prices of one model as values. A plan has price lists with conditions; a list has tiers of rates.

Rates are exact integers in a unit that divides the nano-USD. The unit is the pico-USD (one micro-USD per million
tokens) if that is fine enough, else a smaller one. Rates are never rounded; only the total of a call is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from tokentrace.errors import ConfigError

#: Above every published rate, and low enough for the cost of every validated span to fit in int64.
MAX_RATE_PER_1M: Final = 10_000
#: Above every published price of a call besides its tokens.
MAX_CALL_USD: Final = 1
PICO_PER_USD: Final = 10**12
NANO_PER_USD: Final = 10**9
US_PER_DAY: Final = 86_400_000_000
_TOKENS_PER_1M: Final = 10**6


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
    """Rates as integers, in a unit of which `units_per_nano` make one nano-USD.

    call: per call, regardless of its tokens. prompt, completion: per token. cached: added per cached prompt token;
    negative if cached tokens are cheaper.
    """

    call: int
    prompt: int
    cached: int
    completion: int
    units_per_nano: int

    @classmethod
    def of_usd(cls, call: Fraction, prompt: Fraction, cached: Fraction, completion: Fraction) -> RateRow:
        """Convert amounts in USD, using the largest unit that represents all of them exactly."""
        amounts = (call, prompt, cached, completion)
        units_per_usd = math.lcm(PICO_PER_USD, *(amount.denominator for amount in amounts))
        units = [int(amount * units_per_usd) for amount in amounts]
        return cls(units[0], units[1], units[2], units[3], units_per_usd // NANO_PER_USD)

    def charge(self, prompt: int, cached: int, completion: int) -> int:
        """Return the nano-USD of one call: the exact amount, rounded half to even."""
        units = self.call + prompt * self.prompt + cached * self.cached + completion * self.completion
        return round(Fraction(units, self.units_per_nano))


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates for every token of a call with more than `above` prompt tokens."""

    above: int
    rates: RateRow


@dataclass(frozen=True, slots=True)
class Condition:
    """Validity of a price list.

    The list applies from `since_us` (microseconds since the epoch), on every day (UTC) for `daily_for_us` starting
    `daily_from_us` after midnight, possibly into the next day.
    """

    since_us: int = -(1 << 63)
    daily_from_us: int = 0
    daily_for_us: int = US_PER_DAY


ALWAYS: Final = Condition()


@dataclass(frozen=True, slots=True)
class PriceList:
    """Tiers in ascending order of `above`, the first one -1, and the condition under which they apply."""

    tiers: tuple[Tier, ...]
    condition: Condition = ALWAYS


#: Price lists in order of precedence; the condition of the last one is ALWAYS.
PricePlan = tuple[PriceList, ...]


def configured_plan(rates: Rates) -> PricePlan:
    """Return the plan of a model with configured rates."""
    prompt = _usd_per_token(rates.prompt_per_1m)
    cached = prompt if rates.cached_prompt_per_1m is None else _usd_per_token(rates.cached_prompt_per_1m)
    row = RateRow.of_usd(Fraction(0), prompt, cached - prompt, _usd_per_token(rates.completion_per_1m))
    return (PriceList((Tier(-1, row),)),)


def _usd_per_token(usd_per_1m: Decimal) -> Fraction:
    return Fraction(usd_per_1m) / _TOKENS_PER_1M

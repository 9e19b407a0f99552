"""Price plans: how one model is charged, as exact integers that arrays can be multiplied with.

A plan is a list of price lists, each with the condition under which it holds; a price list is a list of tiers; a tier
is a rate row: pico-USD for a call, a prompt token, a cached prompt token (on top of the prompt token) and a completion
token. A pico-USD a token is a micro-USD a million tokens, finer than any published price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint
from numpy.typing import NDArray

PICO: Final = 10**12
_US_PER_DAY: Final = 86_400_000_000
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()

#: Whether a price list holds at each of these moments (int64[m], microseconds since the epoch).
Condition = Callable[[NDArray[np.int64]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Rates:
    """Configured rates of a model, USD a million tokens. Without a cached rate, cached tokens cost as others do."""

    prompt_per_1m: Decimal
    completion_per_1m: Decimal
    cached_prompt_per_1m: Decimal | None = None


@dataclass(frozen=True, slots=True)
class RateRow:
    """Pico-USD: `call` once, `prompt` a prompt token, `cached` added for each cached one, `completion` a token."""

    call: Fraction
    prompt: Fraction
    cached: Fraction
    completion: Fraction

    def exact(self) -> tuple[int, int, int, int] | None:
        """The four rates where all of them are whole pico-USD."""
        rates = (self.call, self.prompt, self.cached, self.completion)
        return None if any(rate.denominator != 1 for rate in rates) else tuple(map(int, rates))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Tier:
    """A rate row for calls with more than `above` prompt tokens; it applies to every token of the call."""

    above: int
    rates: RateRow


@dataclass(frozen=True, slots=True)
class PriceList:
    """Tiers by ascending `above`; the first is above -1. condition: None holds always."""

    tiers: tuple[Tier, ...]
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Price lists in the order in which they are tried; the last one holds where no other does."""

    lists: tuple[PriceList, ...]


def configured_plan(rates: Rates) -> Plan:
    """The plan of a model with rates in the configuration."""
    prompt = _per_token(rates.prompt_per_1m)
    cached = prompt if rates.cached_prompt_per_1m is None else _per_token(rates.cached_prompt_per_1m)
    row = RateRow(Fraction(0), prompt, cached - prompt, _per_token(rates.completion_per_1m))
    return Plan((PriceList((Tier(-1, row),)),))


def published_plan(model: str, provider: str) -> Plan | None:
    """The plan of a model in genai-prices' offline table, None where it has none.

    Without a provider the model's name alone decides; a provider that the table does not know is never guessed.
    """
    try:
        _, info = get_snapshot().find_provider_model(model, None, provider or None, None)
    except LookupError:
        return None
    if isinstance(info.prices, ModelPrice):
        conditional: list[tuple[Any, ModelPrice]] = [(None, info.prices)]
    else:
        # The library tries the last one first, and falls back on the first.
        conditional = [(each.constraint, each.prices) for each in reversed(info.prices)]
        conditional.append((None, info.prices[0].prices))
    lists = tuple(
        PriceList(_tiers(prices), None if constraint is None else _condition(constraint))
        for constraint, prices in conditional
        if _has_token_price(prices)
    )
    return Plan(lists) if len(lists) == len(conditional) else None


def _per_token(usd_per_1m: Decimal) -> Fraction:
    return Fraction(usd_per_1m) * PICO / 10**6


def _has_token_price(prices: ModelPrice) -> bool:
    return prices.input_mtok is not None or prices.output_mtok is not None


def _tiers(prices: ModelPrice) -> tuple[Tier, ...]:
    """The tiers of a price list. The library itself is asked for the price of one more token of each sort, so that
    every rule it has on what is charged how is its own."""
    starts = {
        tier.start for price in vars(prices).values() if isinstance(price, TieredPrices) for tier in price.tiers
    }

    def charge(prompt: int, cached: int, completion: int) -> Fraction:
        usage = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
        return Fraction(prices.calc_price(usage)["total_price"]) * PICO

    tiers = []
    for above in (-1, *sorted(starts)):
        base = above + 1 if above >= 0 else 0
        if above == -1 and starts and min(starts) < 1:
            continue
        at = charge(base, 0, 0)
        prompt = charge(base + 1, 0, 0) - at if above >= 0 or not starts else charge(1, 0, 0) - at
        cached = charge(base + 1, 1, 0) - charge(base + 1, 0, 0)
        completion = charge(base, 0, 1) - at
        tiers.append(Tier(above, RateRow(at - prompt * base, prompt, cached, completion)))
    return tuple(tiers)


def _condition(constraint: StartDateConstraint | TimeOfDateConstraint) -> Condition:
    if isinstance(constraint, StartDateConstraint):
        first_us = (constraint.start_date.toordinal() - _EPOCH_ORDINAL) * _US_PER_DAY
        return lambda times_us: times_us >= first_us
    start_us, end_us = _time_of_day_us(constraint.start_time), _time_of_day_us(constraint.end_time)
    if end_us < start_us:
        return lambda times_us: (times_us % _US_PER_DAY >= start_us) | (times_us % _US_PER_DAY < end_us)
    return lambda times_us: (times_us % _US_PER_DAY >= start_us) & (times_us % _US_PER_DAY < end_us)


def _time_of_day_us(moment: time) -> int:
    """Microseconds after UTC midnight."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    utc = datetime.combine(date(2000, 1, 2), aware).astimezone(timezone.utc)
    since_midnight = utc - utc.replace(hour=0, minute=0, second=0, microsecond=0)
    return since_midnight // timedelta(microseconds=1)

"""Built-in prices: price plans from the table that is installed with genai-prices. Never uses the network.

The library matches model names, and every rate is the library's own charge for one more of a unit. Only tiers and
conditions are converted to data, so that arrays of calls can be charged at once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Final, NamedTuple

from genai_prices import Usage
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from tokentrace.model.units import BY_NAME, PARTS, UNITS, WHOLES, Unit
from tokentrace.pricing.model_names import ModelNames, Reading
from tokentrace.pricing.rates import ALWAYS, US_PER_DAY, Condition, PriceList, PricePlan, RateRow, Tier

#: Digits that hold every rate of a token exactly.
_DIGITS: Final = 60
_EPOCH: Final = date(1970, 1, 1)
#: Of prices that do not depend on the time.
_ANY_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: An hour, so that the price of an hour is charged without a remainder.
_MANY: Final = 3600
_NOBODY: Final = Provider(id="", name="", api_pattern="")


class Match(NamedTuple):
    """An entry of the price table. provider, model: its ids there. reading: how the name that was sent is read."""

    provider: str
    model: str
    reading: Reading
    plan: PricePlan


class GenaiPrices:
    """Finds price plans by model and provider."""

    def __init__(self) -> None:
        self.clear_cache()

    def clear_cache(self) -> None:
        """Clear the library's cache of looked-up names, which is otherwise unbounded."""
        from genai_prices.data import providers  # A large module, loaded only if needed.

        self._snapshot = DataSnapshot(providers=providers, from_auto_update=False)
        self._names = ModelNames(frozenset(provider.id for provider in providers), self._owner)

    def _owner(self, model: str) -> str | None:
        """Return the provider that the table's own rules find by a model's name, None where none applies."""
        try:
            return self._snapshot.find_provider(model, None, None).id
        except LookupError:
            return None

    def find(self, model: str, provider: str) -> Match | None:
        """Return the entry of the table for a model, as the application names it, and its provider.

        None if the table has no such model, or no price of it. An empty provider is derived from the model's name. An
        unknown provider is never replaced by a guess.
        """
        for reading in self._names.readings(model, provider):
            try:
                owner, info = self._snapshot.find_provider_model(reading.model, None, reading.provider or None, None)
            except LookupError:
                continue
            try:
                plan = plan_of(info, owner)
            except ValueError:  # Contradictory prices, which the library does not charge by.
                return None
            return None if plan is None else Match(owner.id, info.id, reading, plan)
        return None


def plan_of(info: ModelInfo, provider: Provider = _NOBODY) -> PricePlan | None:
    """Return the plan of one entry of a provider's table; None where it has no price.

    Raises ValueError, as the library does, for prices that it cannot charge by.
    """
    if isinstance(info.prices, ModelPrice):
        conditional = [(ALWAYS, info.prices)]
    else:
        # The library tries the entries from last to first, and falls back to the first.
        conditional = [(_condition(entry.constraint), entry.prices) for entry in reversed(info.prices)]
        conditional.append((ALWAYS, info.prices[0].prices))
    if not all(_priced(prices) for _, prices in conditional):
        return None
    lists = []
    for condition, prices in conditional:
        lists.append(PriceList(_tiers(info, prices, provider), condition))
        if condition == ALWAYS:
            break
    return tuple(lists)


def _tiers(info: ModelInfo, prices: ModelPrice, provider: Provider) -> tuple[Tier, ...]:
    tiered = [price for price in vars(prices).values() if isinstance(price, TieredPrices)]
    bounds = sorted({-1, *(tier.start for price in tiered for tier in price.tiers)})
    flat = [(above, replace(info, prices=_without_tiers(prices, above), price_variants=None)) for above in bounds]
    return tuple(Tier(above, _rates(entry, provider, _priced(prices))) for above, entry in flat)


def _without_tiers(prices: ModelPrice, above: int) -> ModelPrice:
    """Return the prices of calls with just more than `above` prompt tokens, without tiers."""
    flat: dict[str, Decimal | TieredPrices | None] = {}
    for key, price in vars(prices).items():
        if isinstance(price, TieredPrices):
            reached = [tier.price for tier in price.tiers if tier.start <= above]
            price = reached[-1] if reached else price.base
        flat[key] = price
    return ModelPrice(**flat)


def _priced(prices: ModelPrice) -> list[Unit]:
    """Return the units that have a price of their own, wholes before their parts."""
    return [unit for unit in UNITS if getattr(prices, unit.price) is not None]


def _rates(info: ModelInfo, provider: Provider, priced: list[Unit]) -> RateRow:
    """Return the library's charge for a call, and for one more of every unit."""

    def charge(quantity: int, *units: str) -> Fraction:
        usage = Usage(**{BY_NAME[name].usage: quantity for name in units})
        return Fraction(info.calc_price(usage, provider, genai_request_timestamp=_ANY_TIME).total_price)

    with localcontext() as context:
        context.prec = _DIGITS
        call = charge(0)
        rates: dict[str, Fraction] = {}
        least: dict[str, int] = {}
        for unit in priced:
            if unit.name == "request":  # `call` has its price: every call is one, and has no quantity of it.
                continue
            # A call that uses a part uses its wholes. A quantity of _MANY is charged at the rate alone.
            wholes = WHOLES[unit.name]
            together = (charge(2 * _MANY, unit.name, *wholes) - charge(_MANY, unit.name, *wholes)) / _MANY / unit.scale
            rates[unit.name] = together - sum(rates.get(whole, 0) for whole in wholes)
            if together and unit.scale > 1:
                charged = round((charge(1, unit.name, *wholes) - call) / together)
                least.update({unit.name: charged} if charged > unit.scale else {})
    covered = {part for unit in priced for part in (unit.name, *PARTS[unit.name])}
    return RateRow.of_usd(call, rates, frozenset(covered), least)


def _condition(constraint: StartDateConstraint | TimeOfDateConstraint | None) -> Condition:
    if constraint is None:
        return ALWAYS
    if isinstance(constraint, StartDateConstraint):
        return Condition(since_us=(constraint.start_date - _EPOCH).days * US_PER_DAY)
    start_us, end_us = _after_midnight_us(constraint.start_time), _after_midnight_us(constraint.end_time)
    return Condition(daily_from_us=start_us, daily_for_us=(end_us - start_us) % US_PER_DAY)


def _after_midnight_us(moment: time) -> int:
    """Return microseconds after midnight UTC. A time without a zone is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    utc = datetime.combine(_EPOCH, aware).astimezone(UTC)
    return (utc - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) % US_PER_DAY

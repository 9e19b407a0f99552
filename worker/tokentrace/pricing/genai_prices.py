"""Built-in prices: price plans from the table that is installed with genai-prices. Never uses the network.

The library matches model names, and every rate is the library's own charge for one more of a unit. Only tiers and
conditions are converted to data, so that arrays of calls can be charged at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from tokentrace.model.units import BY_NAME, PARTS, UNITS, WHOLES, Unit
from tokentrace.pricing.model_names import ModelNames, Reading
from tokentrace.pricing.modifiers import NONE, Modifiers
from tokentrace.pricing.rates import ALWAYS, US_PER_DAY, Condition, PriceList, PricePlan, RateRow, Tier

#: Digits that hold every rate of a token exactly.
_DIGITS: Final = 60
_EPOCH: Final = date(1970, 1, 1)
#: Of prices that do not depend on the time.
_ANY_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: An hour, so that the price of an hour is charged without a remainder.
_MANY: Final = 3600
#: Key of a variant's condition -> the span's field that decides it.
_FIELD_OF: Final = {"processing": "service_tier", "service_tier": "service_tier", "speed": "speed"}
_NOBODY: Final = Provider(id="", name="", api_pattern="")


class Match(NamedTuple):
    """An entry of the price table. provider, model: its ids there. reading: how the name that was sent is read.

    plan: without modifiers. entry, owner: the library's own.
    """

    provider: str
    model: str
    reading: Reading
    plan: PricePlan
    entry: ModelInfo
    owner: Provider

    def variants(self, call: Modifiers) -> list[tuple[PriceList, frozenset[str]]]:
        """Return the price lists for calls with modifiers, each with the names of those that it has a price for."""
        try:
            return _lists(self.entry, self.owner, call)
        except ValueError:  # Contradictory prices for the modifiers, which the library does not charge by.
            return _lists(self.entry, self.owner, NONE)


class GenaiPrices:
    """Finds price plans by model and provider."""

    def __init__(self) -> None:
        self.clear_cache()

    def clear_cache(self) -> None:
        """Clear the library's cache of looked-up names, which is otherwise unbounded."""
        from genai_prices.data import providers  # A large module, loaded only if needed.

        self._snapshot = DataSnapshot(providers=providers, from_auto_update=False)
        self._names = ModelNames(frozenset(provider.id for provider in providers), self._owner)

    def variant_values(self) -> set[tuple[str, str]]:
        """Return (field of the span, value) of everything that an entry has a price of its own for."""
        return {
            (_FIELD_OF[key], value)
            for provider in self._snapshot.providers
            for info in provider.models
            for variant in info.price_variants or ()
            for key, value in variant.when.items()
            if key in _FIELD_OF
        }

    def billers(self, model: str, provider: str) -> frozenset[str]:
        """Return the names of who bills a model's calls: as sent, and the table's id where it knows the provider."""
        known = self._names.provider(provider)
        if not known:
            known = next((reading.provider for reading in self._names.readings(model, provider)), "")
            known = known or (self._owner(model.lower()) if not provider.strip() else "")
        return frozenset(filter(None, (provider.strip().lower(), known)))

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
            return None if plan is None else Match(owner.id, info.id, reading, plan, info, owner)
        return None


def plan_of(info: ModelInfo, provider: Provider = _NOBODY) -> PricePlan | None:
    """Return the plan of one entry of a provider's table; None where it has no price.

    Raises ValueError, as the library does, for prices that it cannot charge by.
    """
    lists = _lists(info, provider, NONE)
    return tuple(price_list for price_list, _ in lists) or None


def _lists(info: ModelInfo, provider: Provider, call: Modifiers) -> list[tuple[PriceList, frozenset[str]]]:
    """Return the price lists of an entry, none where it has no price, and the modifiers that each has a price for."""
    if isinstance(info.prices, ModelPrice):
        conditional = [(ALWAYS, info.prices)]
    else:
        # The library tries the entries from last to first, and falls back to the first.
        conditional = [(_condition(entry.constraint), entry.prices) for entry in reversed(info.prices)]
        conditional.append((ALWAYS, info.prices[0].prices))
    if not all(_priced(prices) for _, prices in conditional):
        return []
    variants = _variants(info, provider, call)
    lists = []
    for condition, prices in conditional:
        for when, active in _active(condition, variants):
            overlaid = ModelPrice(**_overlaid(prices, active))
            names = frozenset(_FIELD_OF[key] for variant in active for key in variant.when)
            lists.append((PriceList(_tiers(info, overlaid, provider), when), names))
        if condition == ALWAYS:
            break
    return lists


def _variants(info: ModelInfo, provider: Provider, call: Modifiers) -> list[PriceVariant]:
    """Return the entry's own prices for such calls, in order of precedence."""
    # As the library does, where a provider has its models from another.
    if call == NONE or not any(info is model for model in provider.models):
        return []
    context = {"service_tier": call.service_tier, "speed": call.speed}
    if call.service_tier == "batch":
        context["processing"] = "batch"
    return [
        variant
        for variant in info.price_variants or ()
        if all(value and context.get(key) == value for key, value in variant.when.items())
    ]


def _active(
    condition: Condition, variants: Sequence[PriceVariant], active: tuple[PriceVariant, ...] = ()
) -> Iterator[tuple[Condition, tuple[PriceVariant, ...]]]:
    """Yield when which of the variants are valid, in order of precedence."""
    if not variants:
        yield condition, active
        return
    valid = _condition(variants[0].constraint)
    both = condition.within(valid)
    if both is not None:
        yield from _active(both, variants[1:], (*active, variants[0]))
    if both != condition:
        yield from _active(condition, variants[1:], active)


def _overlaid(prices: ModelPrice, active: Sequence[PriceVariant]) -> dict[str, Decimal | TieredPrices | None]:
    """Return the prices with those of the variants instead, the first of them that has one."""
    overlaid = dict(vars(prices))
    for variant in reversed(active):
        overlaid.update((key, price) for key, price in vars(variant.prices).items() if price is not None)
    return overlaid


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

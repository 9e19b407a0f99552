"""Built-in prices: price plans from the table that is installed with genai-prices. Never uses the network.

The library matches model names, and every rate is the library's own charge for one token of that kind. Only tiers and
conditions are converted to data, so that arrays of calls can be charged at once.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Final

from genai_prices import Usage
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

from tokentrace.pricing.rates import ALWAYS, US_PER_DAY, Condition, PriceList, PricePlan, RateRow, Tier

#: Digits that hold every rate of a token exactly.
_DIGITS: Final = 60
_EPOCH: Final = date(1970, 1, 1)


class GenaiPrices:
    """Finds price plans by model and provider."""

    def __init__(self) -> None:
        self.clear_cache()

    def clear_cache(self) -> None:
        """Clear the library's cache of looked-up names, which is otherwise unbounded."""
        from genai_prices.data import providers  # A large module, loaded only if needed.

        self._snapshot = DataSnapshot(providers=providers, from_auto_update=False)

    def find(self, model: str, provider: str) -> PricePlan | None:
        """Return the model's plan; None if the table has no such model, or no price for its tokens.

        An empty provider is derived from the model's name. An unknown provider is never replaced by a guess.
        """
        try:
            _, info = self._snapshot.find_provider_model(model, None, provider or None, None)
        except LookupError:
            return None
        try:
            return plan_of(info)
        except ValueError:  # Contradictory prices, which the library does not charge by.
            return None


def plan_of(info: ModelInfo) -> PricePlan | None:
    """Return the plan of one entry of the table; None if it has no price for tokens.

    Raises ValueError, as the library does, for prices that it cannot charge by.
    """
    if isinstance(info.prices, ModelPrice):
        conditional = [(ALWAYS, info.prices)]
    else:
        # The library tries the entries from last to first, and falls back to the first.
        conditional = [(_condition(entry.constraint), entry.prices) for entry in reversed(info.prices)]
        conditional.append((ALWAYS, info.prices[0].prices))
    if any(prices.input_mtok is None and prices.output_mtok is None for _, prices in conditional):
        return None
    lists = []
    for condition, prices in conditional:
        lists.append(PriceList(_tiers(prices), condition))
        if condition == ALWAYS:
            break
    return tuple(lists)


def _tiers(prices: ModelPrice) -> tuple[Tier, ...]:
    tiered = [price for price in vars(prices).values() if isinstance(price, TieredPrices)]
    bounds = sorted({-1, *(tier.start for price in tiered for tier in price.tiers)})
    return tuple(Tier(above, _rates(_without_tiers(prices, above))) for above in bounds)


def _without_tiers(prices: ModelPrice, above: int) -> ModelPrice:
    """Return the prices of calls with just more than `above` prompt tokens, without tiers."""
    flat: dict[str, Decimal | TieredPrices | None] = {}
    for key, price in vars(prices).items():
        if isinstance(price, TieredPrices):
            reached = [tier.price for tier in price.tiers if tier.start <= above]
            price = reached[-1] if reached else price.base
        flat[key] = price
    return ModelPrice(**flat)


def _rates(prices: ModelPrice) -> RateRow:
    """Return the library's charge for a call, and for one more token of every kind."""
    with localcontext() as context:
        context.prec = _DIGITS
        call, prompt, cached, completion = (
            Fraction(
                prices.calc_price(
                    Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion),
                )["total_price"]
            )
            for prompt, cached, completion in ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1))
        )
    return RateRow.of_usd(call, prompt - call, cached - prompt, completion - call)


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

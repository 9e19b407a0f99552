"""Price of a call, explained: the name as it is read, the rule or entry that applies, its rates, and the sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Final

from tokentrace.errors import UsageError
from tokentrace.model.reasons import MAX_TOKENS
from tokentrace.model.units import BY_NAME, UNITS, WHOLES
from tokentrace.pricing import Pricer
from tokentrace.pricing.modifiers import NONE, Modifiers
from tokentrace.pricing.rates import ALWAYS, NANO_PER_USD, NO_PRICE, US_PER_DAY, Condition, RateRow, Tier

_MINUTE_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """The price of one more of a unit. usd: exact, for `per` of it. quantity: of the call, 0 where it used none."""

    unit: str
    usd: Fraction
    per: int
    quantity: Fraction


@dataclass(frozen=True, slots=True)
class Quote:
    """The price of a call. origin, reading, validity: in words, the last two empty where there is nothing to say.

    modifiers, discount: what changed the price, in words. estimated: modifiers without a price.
    tier: its bounds in words, empty without tiers. call_usd: for the call itself.
    nano_usd: the sum, None without usage. unpriced: units that were used and have no price.
    """

    origin: str
    reading: str
    validity: str
    modifiers: tuple[str, ...]
    discount: str
    estimated: str
    tier: str
    call_usd: Fraction
    prices: list[UnitPrice]
    nano_usd: int | None
    unpriced: list[str]


def parse_usage(text: str) -> dict[str, int]:
    """Parse `prompt=1000,completion=200` into unit -> quantity, in the unit of the columns. Raises UsageError."""
    usage: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        unit = BY_NAME.get(name)
        if unit is None:
            near = get_close_matches(name, BY_NAME, 1)
            raise UsageError(f"--usage: unknown unit {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
        try:
            quantity = Fraction(number) * unit.scale if equals else None
        except (ValueError, ZeroDivisionError):
            quantity = None
        if quantity is None or quantity < 0 or quantity.denominator != 1:
            raise UsageError(f"--usage: {part!r} is not a unit and a quantity; write for example prompt=1000.")
        if quantity > unit.most:
            raise UsageError(f"--usage: {name} is at most {unit.most // unit.scale:,}.")
        if name in usage:
            raise UsageError(f"--usage: {name} is there twice.")
        usage[name] = int(quantity)
    for name, amount in usage.items():
        for whole in WHOLES[name]:
            if whole in usage and usage[whole] < amount:
                raise UsageError(f"--usage: {name} is part of {whole}, and larger.")
            if whole in ("prompt", "completion") and whole not in usage:
                raise UsageError(f"--usage: {name} is part of {whole}, which is missing.")
    return usage


def parse_time(text: str) -> int:
    """Parse an ISO 8601 time, UTC without a zone, into microseconds since the epoch. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at: {text!r} is not a time; write for example 2026-11-26T12:00:00Z.") from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1e6)


def quote(
    pricer: Pricer, model: str, provider: str, at_us: int, usage: Mapping[str, int] | None, call: Modifiers = NONE
) -> Quote | None:
    """Price one call at a time, microseconds since the epoch. None for a model without a price at that time.

    usage: unit -> quantity, in the unit of the columns; None for the prices alone. call: its modifiers.
    """
    plan = pricer.find(model, provider, call)
    if plan is None:
        return None
    used = usage or {}
    price_list = next(one for one in plan if one.condition.applies(at_us))
    if price_list == NO_PRICE:
        return None
    tiers = price_list.tiers
    reached = sum(used.get("prompt", 0) > tier.above for tier in tiers[1:])
    row = tiers[reached].rates
    return Quote(
        origin=price_list.origin.source,
        reading=price_list.origin.reading,
        validity=_validity(price_list.condition),
        modifiers=price_list.origin.modifiers,
        discount=price_list.origin.discount,
        estimated=price_list.origin.left,
        tier=_bounds(tiers, reached),
        call_usd=Fraction(row.call, row.per_nano * NANO_PER_USD),
        prices=[_unit_price(row, unit.name, used.get(unit.name, 0)) for unit in UNITS if _has_rate(row, unit.name)],
        nano_usd=None if usage is None else row.charge(used),
        unpriced=[name for name, quantity in used.items() if quantity and name not in row.priced],
    )


def _has_rate(row: RateRow, unit: str) -> bool:
    """Return whether a unit has a price of its own."""
    return row.rate(unit) != 0 or (unit in row.priced and not any(whole in row.priced for whole in WHOLES[unit]))


def _unit_price(row: RateRow, unit: str, quantity: int) -> UnitPrice:
    """A part is charged with its wholes, of which it is a part: its price is the sum of their rates."""
    declared = BY_NAME[unit]
    rate = sum(row.rate(name) for name in (unit, *WHOLES[unit]))
    per = 10**6 if declared.most == MAX_TOKENS and declared.scale == 1 else 1
    usd = Fraction(rate * declared.scale * per, row.per_nano * NANO_PER_USD)
    return UnitPrice(unit, usd, per, Fraction(quantity, declared.scale))


def _bounds(tiers: tuple[Tier, ...], reached: int) -> str:
    """Return the prompt tokens for which a tier applies, in words."""
    if len(tiers) == 1:
        return ""
    if reached + 1 < len(tiers):
        return f"up to {tiers[reached + 1].above:,} prompt tokens"
    return f"more than {tiers[reached].above:,} prompt tokens"


def _validity(condition: Condition) -> str:
    if condition == ALWAYS:
        return ""
    words = []
    if condition.since_us > ALWAYS.since_us:
        words.append(f"since {datetime.fromtimestamp(condition.since_us / 1e6, UTC):%Y-%m-%d}")
    if condition.until_us < ALWAYS.until_us:
        words.append(f"until {datetime.fromtimestamp(condition.until_us / 1e6, UTC):%Y-%m-%d}")
    if condition.daily_for_us < US_PER_DAY:
        end_us = (condition.daily_from_us + condition.daily_for_us) % US_PER_DAY
        words.append(f"daily from {_clock(condition.daily_from_us)} to {_clock(end_us)} UTC")
    return ", ".join(words)


def _clock(after_midnight_us: int) -> str:
    minutes = after_midnight_us // _MINUTE_US
    return f"{minutes // 60:02}:{minutes % 60:02}"


def decimal(usd: Fraction) -> str:
    """Return an amount in USD as text, exact where it ends within 18 decimals."""
    scaled = usd * 10**18
    if scaled.denominator != 1:
        return f"{float(usd):.12g}"
    whole, rest = divmod(abs(int(scaled)), 10**18)
    digits = f"{rest:018}".rstrip("0").ljust(2, "0")
    return f"{'-' if usd < 0 else ''}{whole}.{digits}"


def as_json(found: Quote) -> dict[str, Any]:
    """Return a quote as a JSON object; amounts are decimal text."""
    return {
        "origin": found.origin,
        "reading": found.reading or None,
        "validity": found.validity or None,
        "modifiers": list(found.modifiers),
        "discount": found.discount or None,
        "estimated": found.estimated or None,
        "tier": found.tier or None,
        "call_usd": decimal(found.call_usd),
        "prices": [
            {"unit": price.unit, "usd": decimal(price.usd), "per": price.per, "quantity": decimal(price.quantity)}
            for price in found.prices
        ],
        "unpriced": found.unpriced,
        "cost_usd": None if found.nano_usd is None else decimal(Fraction(found.nano_usd, NANO_PER_USD)),
    }

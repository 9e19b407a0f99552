"""Price rules of a configuration: the section `pricing` as the values that the pricer takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction

from tokentrace.config import Config
from tokentrace.config.fields import format_moment
from tokentrace.config.price_checks import canonical_provider
from tokentrace.config.pricing import Conditional, Dated, PriceRule, RuleModifier
from tokentrace.config.pricing import Discount as DiscountSection
from tokentrace.model.spans import MODIFIERS
from tokentrace.pricing import Pricer, Rates
from tokentrace.pricing.modifiers import Modifiers
from tokentrace.pricing.rates import ALWAYS, Condition, RateRow, Tier
from tokentrace.pricing.rules import Discount, Modifier, PriceRules, Scope
from tokentrace.pricing.rules import PriceRule as Rule


def pricer(config: Config, clock: Callable[[], float] = time.time) -> Pricer:
    """Return the pricer of a configuration."""
    section = config.pricing
    models = section.models
    rates = {
        glob: Rates(one.prompt_per_1m, one.completion_per_1m, one.cached_prompt_per_1m)
        for glob, one in (models.items() if isinstance(models, Mapping) else ())
    }
    rules = PriceRules(
        [_rule(f"pricing.models[{at}]", one) for at, one in enumerate(() if isinstance(models, Mapping) else models)],
        [_modifier(f"pricing.modifiers[{at}]", one, one.provider, one.model)
         for at, one in enumerate(section.modifiers)],
        [_discount(f"pricing.discounts[{at}]", one) for at, one in enumerate(section.discounts)],
    )  # fmt: skip
    return Pricer(rates, section.builtin, clock, rules)


def _discount(path: str, discount: DiscountSection) -> Discount:
    name = f"{path}, {discount.provider}, {discount.percent:f} %{_dates(discount)}"
    keep = 1 - Fraction(discount.percent) / 100
    return Discount(canonical_provider(discount.provider), keep, _condition(discount), discount.configured, name)


def _rule(path: str, rule: PriceRule) -> Rule:
    scope = _scope(rule, rule.provider, rule.model)
    tiers = tuple(_tiers(rule))
    modifiers = tuple(_modifier(f"{path}.modifiers[{at}]", one, "*", "*") for at, one in enumerate(rule.modifiers))
    name = f"{path}, {rule.model!r}" + (f" of {rule.provider!r}" if rule.provider != "*" else "")
    return Rule(scope, tiers, _condition(rule), modifiers, name + _words(rule) + _dates(rule))


def _tiers(rule: PriceRule) -> Iterator[Tier]:
    yield Tier(-1, _row(rule.rates))
    prices = rule.rates
    for tier in rule.tiers:
        prices = prices | tier.rates
        yield Tier(tier.above, _row(prices))


def _row(prices: Mapping[str, Decimal]) -> RateRow:
    return RateRow.of_prices({unit: Fraction(price) for unit, price in prices.items()})


def _modifier(path: str, modifier: RuleModifier, provider: str, model: str) -> Modifier:
    name = f"{path}{_words(modifier)}, times {modifier.multiply:f}{_dates(modifier)}"
    return Modifier(_scope(modifier, provider, model), Fraction(modifier.multiply), _condition(modifier), name)


def _scope(entry: Conditional, provider: str, model: str) -> Scope:
    when = Modifiers(*((getattr(entry, name) or "").lower() for name in MODIFIERS))
    return Scope(provider if provider == "*" else canonical_provider(provider), model, when)


def _condition(entry: Dated) -> Condition:
    since_us = ALWAYS.since_us if entry.since is None else entry.since
    return Condition(since_us, until_us=ALWAYS.until_us if entry.until is None else entry.until)


def _words(entry: Conditional) -> str:
    return "".join(f", {name} {value}" for name in MODIFIERS if (value := getattr(entry, name)))


def _dates(entry: Dated) -> str:
    words = [f"from {format_moment(entry.since)}"] if entry.since is not None else []
    words += [f"until {format_moment(entry.until)}"] if entry.until is not None else []
    return f", {' '.join(words)}" if words else ""

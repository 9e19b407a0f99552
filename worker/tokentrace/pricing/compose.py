"""Composition: the price plan of a model's calls, from all that may set or change their price.

In order of precedence: the operator's rules; the table of genai-prices with its own prices for a modifier. A price then
takes the factors of the first modifiers that apply, one for each field of the call: those of the rule, the operator's,
and for the table's prices those of `known_modifiers`. The first discount of the contract comes last. All of them may
have dates, so that a plan is a sequence of price lists of which the first that is valid at the call's time applies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import version
from typing import Final, NamedTuple

from tokentrace.model.spans import MODIFIERS
from tokentrace.pricing.genai_prices import GenaiPrices, Match
from tokentrace.pricing.known_modifiers import KNOWN_MODIFIERS
from tokentrace.pricing.modifiers import NONE, Classes, Modifiers
from tokentrace.pricing.rates import ALWAYS, NO_PRICE, Condition, Origin, PriceList, PricePlan
from tokentrace.pricing.rules import TOOLS, Modifier, PriceRule, PriceRules

_ONE: Final = Fraction(1)


class _Branch(NamedTuple):
    """Some of the time of a price: when, its factor, the modifiers of the call that are left, and what was applied."""

    condition: Condition
    factor: Fraction
    rest: Modifiers
    applied: tuple[str, ...]


class Composer:
    """Makes price plans. builtin: the table. use_builtin: whether its prices apply, besides its names of providers."""

    def __init__(self, rules: PriceRules, builtin: GenaiPrices | None, use_builtin: bool) -> None:
        self._rules = rules
        self._builtin = builtin
        self._use_builtin = use_builtin

    def classes(self) -> Classes:
        """Return the classes of modifiers that the prices tell apart."""
        globs: dict[str, set[str]] = {name: set() for name in MODIFIERS}
        modifiers = [*self._rules.modifiers, *(one for rule in self._rules.rules for one in rule.modifiers)]
        scopes = [rule.scope for rule in self._rules.rules] + [one.scope for one in modifiers]
        scopes += [one.scope for one in KNOWN_MODIFIERS]
        for scope in scopes:
            for name in scope.when.names:
                globs[name].add(getattr(scope.when, name))
        if self._builtin is not None:
            for name, value in self._builtin.variant_values():
                globs[name].add(value)
        return Classes(globs)

    def largest_factor(self) -> Fraction:
        """Return a bound on what modifiers make of a price: a factor for each field of a call."""
        modifiers = [*self._rules.modifiers, *KNOWN_MODIFIERS]
        modifiers += [one for rule in self._rules.rules for one in rule.modifiers]
        highest = (
            max([_ONE, *(one.factor for one in modifiers if name in one.scope.when.names)]) for name in MODIFIERS
        )
        return math.prod(highest, start=_ONE)

    def plan(self, model: str, provider: str, call: Modifiers = NONE) -> PricePlan | None:
        """Return the plan of a model, as its application names it and its provider; None for an unpriced one."""
        builtin = self._builtin
        match = builtin.find(model, provider) if builtin is not None and self._use_builtin else None
        rules = self._rules
        if match is not None and not rules.rules and not rules.modifiers and not rules.discounts and call == NONE:
            reading = match.reading
            if not reading.region:
                origin = _table(match)
                return tuple(replace(price_list, origin=origin) for price_list in match.plan)
        billers = builtin.billers(model, provider) if builtin is not None else frozenset({provider.strip().lower()})
        if match is not None and not call.inference_region and match.reading.region:
            call = call._replace(inference_region=match.reading.region)
        modifiers = [modifier for modifier in rules.modifiers if modifier.scope.covers(model, billers)]
        lists: list[tuple[PriceList, bool]] = []
        for rule in rules.rules:
            if rule.scope.covers(model, billers) and rule.scope.holds(call):
                lists += ((one, True) for one in _of_rule(rule, modifiers, call))
        if match is not None:
            lists += ((one, False) for one in _of_table(match, modifiers, call))
        if not lists:
            return None
        plan: list[PriceList] = []
        for price_list, configured in lists:
            for one in self._discounted(price_list, configured, billers):
                plan.append(one)
                if one.condition == ALWAYS:
                    return tuple(plan)
        return (*plan, NO_PRICE)

    def _discounted(self, price_list: PriceList, configured: bool, billers: frozenset[str]) -> Iterator[PriceList]:
        for discount in self._rules.discounts:
            if not discount.covers(billers) or (configured and not discount.configured):
                continue
            both = price_list.condition.within(discount.condition)
            if both is None:
                continue
            origin = replace(price_list.origin, discount=discount.name)
            yield PriceList(price_list.scaled(discount.keep), both, price_list.estimated, origin)
            if both == price_list.condition:
                return
        yield price_list


def _table(match: Match) -> Origin:
    source = f"genai-prices {version('genai-prices')}, {match.provider}/{match.model}"
    return Origin(source, reading=match.reading.how)


def _of_rule(rule: PriceRule, modifiers: Sequence[Modifier], call: Modifiers) -> Iterator[PriceList]:
    start = _Branch(rule.condition, _ONE, call.without(rule.scope.when.names), ())
    price_list = PriceList(rule.tiers)
    for branch in _branches([*rule.modifiers, *modifiers], start):
        yield _modified(price_list, branch, Origin(rule.name))


def _of_table(match: Match, modifiers: Sequence[Modifier], call: Modifiers) -> Iterator[PriceList]:
    origin, billers = _table(match), frozenset({match.provider})
    known = [modifier for modifier in KNOWN_MODIFIERS if modifier.scope.covers(match.model, billers)]
    for branch in _branches(modifiers, _Branch(ALWAYS, _ONE, call, ())):
        for price_list, names in match.variants(branch.rest):
            both = price_list.condition.within(branch.condition)
            if both is None:
                continue
            priced = (f"the table's price of {name} {getattr(branch.rest, name)}" for name in sorted(names))
            inner = _Branch(both, branch.factor, branch.rest.without(names), (*branch.applied, *priced))
            for last in _branches(known, inner):
                yield _modified(price_list, last, origin)


def _branches(modifiers: Sequence[Modifier], branch: _Branch) -> Iterator[_Branch]:
    """Yield what becomes of a price by modifiers, each of which applies where no earlier one has taken its fields."""
    if not modifiers:
        yield branch
        return
    first = modifiers[0]
    if first.scope.holds(branch.rest):
        both = branch.condition.within(first.condition)
        if both is not None:
            rest, applied = branch.rest.without(first.scope.when.names), (*branch.applied, first.name)
            yield from _branches(modifiers[1:], _Branch(both, branch.factor * first.factor, rest, applied))
        if both == branch.condition:
            return
    yield from _branches(modifiers[1:], branch)


def _modified(price_list: PriceList, branch: _Branch, origin: Origin) -> PriceList:
    # What a place changes is published where it changes anything; of a tier without a price, nobody knows it.
    names = [name for name in ("service_tier", "speed") if getattr(branch.rest, name)]
    left = ", ".join(f"{name} {getattr(branch.rest, name)!r}" for name in names)
    origin = replace(origin, modifiers=branch.applied, left=left)
    return PriceList(price_list.scaled(branch.factor, TOOLS), branch.condition, bool(left), origin)

"""Price rules: what an operator sets for models, modifiers and contracts, as values. The first that applies counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tokentrace.model.globs import matches
from tokentrace.pricing.modifiers import NONE, Modifiers
from tokentrace.pricing.rates import ALWAYS, Condition, RateRow, Rates, Tier, classic_prices

#: Units of tools that a model calls. A modifier changes the price of the model, not theirs.
TOOLS: Final = frozenset({"web_search", "social_search", "storage_search", "code_execution"})


@dataclass(frozen=True, slots=True)
class Scope:
    """The calls to which something applies. provider, model: globs. when: globs by field, empty for any value."""

    provider: str = "*"
    model: str = "*"
    when: Modifiers = NONE

    def covers(self, model: str, providers: frozenset[str]) -> bool:
        """Return whether a model's calls may be in the scope. providers: the names of who bills it."""
        return matches(self.model, model) and (
            self.provider == "*" or any(matches(self.provider, name) for name in providers)
        )

    def holds(self, call: Modifiers) -> bool:
        """Return whether a call has the modifiers of the scope."""
        return all(not glob or (value and matches(glob, value)) for glob, value in zip(self.when, call, strict=True))


@dataclass(frozen=True, slots=True)
class Modifier:
    """A factor on the prices of some calls. name: in words, for explanations."""

    scope: Scope
    factor: Fraction
    condition: Condition = ALWAYS
    name: str = ""


@dataclass(frozen=True, slots=True)
class PriceRule:
    """Prices of some calls. modifiers: those of its own, before all others."""

    scope: Scope
    tiers: tuple[Tier, ...]
    condition: Condition = ALWAYS
    modifiers: tuple[Modifier, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Discount:
    """Discount of a contract. keep: the part of a price that is left. configured: of the rules' prices too."""

    provider: str
    keep: Fraction
    condition: Condition = ALWAYS
    configured: bool = False
    name: str = ""

    def covers(self, providers: frozenset[str]) -> bool:
        """Return whether it is of one of the names of who bills a call."""
        return self.provider == "*" or any(matches(self.provider, name) for name in providers)


@dataclass(frozen=True, slots=True)
class PriceRules:
    """All that an operator sets, each in order of precedence."""

    rules: Sequence[PriceRule] = ()
    modifiers: Sequence[Modifier] = ()
    discounts: Sequence[Discount] = ()

    @property
    def name_providers(self) -> bool:
        """True if any of them is for some providers only."""
        scopes = [*(rule.scope for rule in self.rules), *(modifier.scope for modifier in self.modifiers)]
        return any(scope.provider != "*" for scope in scopes) or any(one.provider != "*" for one in self.discounts)


NO_RULES: Final = PriceRules()


def classic_rules(rates: Mapping[str, Rates]) -> list[PriceRule]:
    """Return the rules of globs over model names with rates."""
    return [
        PriceRule(
            Scope(model=glob), (Tier(-1, RateRow.of_prices(classic_prices(one))),), name=f"pricing.models, {glob!r}"
        )
        for glob, one in rates.items()
    ]

"""Section `pricing`: prices for spans that carry no cost. `price_checks` has what must hold between its parts."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, StrictBool, StrictInt, Tag, WithJsonSchema

from tokentrace.config.fields import Factor, Moment, Percent, UsdPerMillion, UsdPrice
from tokentrace.config.hints import keys_meant
from tokentrace.config.section import NonEmpty, Section
from tokentrace.model.units import BY_NAME


def _unit(name: str) -> str:
    if name not in BY_NAME:
        near = keys_meant(name, list(BY_NAME)) or get_close_matches(name, BY_NAME, 1)
        raise ValueError(
            f'unknown unit; did you mean "{near[0]}"?' if near else "unknown unit; docs/pricing.md has all"
        )
    return name


UnitName = Annotated[str, AfterValidator(_unit), WithJsonSchema({"type": "string", "enum": sorted(BY_NAME)})]
#: USD by unit, each per million tokens, thousand calls, hour and so on: see `Unit.per`.
UnitRates = dict[UnitName, UsdPrice]


class ModelRates(Section):
    """Prices of the models that a glob matches, in USD per million tokens."""

    prompt_per_1m: Annotated[UsdPerMillion, Field(examples=[2.5])]
    """Prompt tokens."""
    completion_per_1m: Annotated[UsdPerMillion, Field(examples=[10])]
    """Completion tokens."""
    cached_prompt_per_1m: UsdPerMillion | None = None
    """Cached prompt tokens; the prompt price unless set."""


class Dated(Section):
    """Something that holds for a time, of the calls' event times."""

    since: Moment | None = Field(None, alias="from")
    """First moment at which it applies, a date or time in UTC; always before `until` if unset."""
    until: Moment | None = None
    """First moment at which it applies no more; never if unset."""


class Conditional(Dated):
    """Something that applies to calls of some service tier, place or speed."""

    service_tier: NonEmpty | None = None
    """Glob over the calls' service tier, such as batch, flex or priority; any if unset."""
    inference_region: NonEmpty | None = None
    """Glob over the place where the calls ran, such as us or eu-*; any if unset."""
    speed: NonEmpty | None = None
    """Glob over the calls' speed, such as fast; any if unset."""


class RuleModifier(Conditional):
    """A factor on the prices of one rule."""

    multiply: Annotated[Factor, Field(examples=[0.5])]
    """Factor on all prices but those of tools, such as web searches."""


class Modifier(RuleModifier):
    """A factor on the prices of some calls."""

    provider: NonEmpty = "*"
    """Glob over who bills the call, as the span says or as the price table names it."""
    model: NonEmpty = "*"
    """Glob over the model's name."""


class PriceTier(Section):
    """Prices of calls with long prompts."""

    above: Annotated[StrictInt, Field(ge=1, le=10**9)]
    """Prompt tokens that the calls have more of; the prices are for all of their usage."""
    rates: Annotated[UnitRates, Field(min_length=1)]
    """USD by unit; other units keep the price that they have below the bound."""


class PriceRule(Conditional):
    """Prices of some calls. The first rule that applies counts."""

    provider: NonEmpty = "*"
    """Glob over who bills the call, as the span says or as the price table names it."""
    model: NonEmpty
    """Glob over the model's name, case-insensitive."""
    rates: Annotated[UnitRates, Field(min_length=1, examples=[{"prompt": 2.5, "completion": 10}])]
    """USD by unit: per million tokens or characters, thousand calls, searches or pages, hour of audio."""
    tiers: tuple[PriceTier, ...] = ()
    """Other prices for long prompts, ascending."""
    modifiers: tuple[RuleModifier, ...] = ()
    """Factors for service tiers, places and speeds; the first that applies counts for each."""


class Discount(Dated):
    """Discount that a contract takes off the prices of a provider."""

    provider: NonEmpty
    """Glob over who bills the call, as the span says or as the price table names it."""
    percent: Annotated[Percent, Field(examples=[10])]
    """Part of the price."""
    configured: StrictBool = False
    """Also off the prices of `models`."""


def _form(value: Any) -> str | None:
    return "mapping" if isinstance(value, dict) else "list" if isinstance(value, (list, tuple)) else None


class Pricing(Section):
    """Prices for spans that carry no cost."""

    models: Annotated[
        Annotated[dict[str, ModelRates], Tag("mapping")] | Annotated[tuple[PriceRule, ...], Tag("list")],
        Discriminator(
            _form,
            custom_error_type="models_form",
            custom_error_message="must be a list of rules, or a mapping of model globs to rates",
        ),
    ] = {}
    """Rules, or model globs -> rates: tried in order, before the built-in table."""
    builtin: StrictBool = True
    """Use the price table of genai-prices for calls to which no rule applies."""
    providers: tuple[NonEmpty, ...] = ()
    """Providers of your own that rules name and the price table does not know."""
    modifiers: tuple[Modifier, ...] = ()
    """Factors for service tiers, places and speeds, on all prices; the first that applies counts for each."""
    discounts: tuple[Discount, ...] = ()
    """Contract discounts, on the built-in prices; the first that applies counts."""

"""Section `pricing`: prices for spans that carry no cost."""

from __future__ import annotations

from pydantic import StrictBool

from tokentrace.config.fields import UsdPerMillion
from tokentrace.config.section import Section


class ModelRates(Section):
    """Prices of the models that a glob matches, in USD per million tokens."""

    prompt_per_1m: UsdPerMillion
    """Prompt tokens."""
    completion_per_1m: UsdPerMillion
    """Completion tokens."""
    cached_prompt_per_1m: UsdPerMillion | None = None
    """Cached prompt tokens; the prompt price unless set."""


class Pricing(Section):
    """Prices for spans that carry no cost."""

    models: dict[str, ModelRates] = {}
    """Model glob -> rates, tried in order, case-insensitive, before the built-in table."""
    builtin: StrictBool = True
    """Use the price table of genai-prices for models that no glob matches."""

"""Modifiers that providers publish and the table of genai-prices does not have: for where a call runs, and for batches.

Each applies to the table's own entries, by their ids, and after the table's own prices for a modifier. Every one has
its source; what a provider does not publish is not here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import Final

from tokentrace.pricing.modifiers import Modifiers
from tokentrace.pricing.rates import Condition
from tokentrace.pricing.rules import Modifier, Scope

_PREMIUM: Final = Fraction(11, 10)
_BATCH: Final = Fraction(1, 2)
#: Models that Azure sells in data zones, at a premium of a tenth.
_AZURE_ZONED: Final = "gpt-4o gpt-4o-mini gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-5 gpt-5-mini gpt-5-nano o1 o3-mini"


def _since(year: int, month: int, day: int) -> Condition:
    return Condition(since_us=round(datetime(year, month, day, tzinfo=UTC).timestamp()) * 10**6)


def _premium(provider: str, models: str, region: str, condition: Condition) -> tuple[Modifier, ...]:
    """models: globs over ids of the table, separated by spaces."""
    when = Modifiers(inference_region=region)
    name = f"{provider}, inference_region {region}"
    return tuple(Modifier(Scope(provider, model, when), _PREMIUM, condition, name) for model in models.split())


def _batch(provider: str, models: str, condition: Condition) -> tuple[Modifier, ...]:
    """models: globs over ids of the table, separated by spaces."""
    when, name = Modifiers(service_tier="batch"), f"{provider}, service_tier batch"
    return tuple(Modifier(Scope(provider, model, when), _BATCH, condition, name) for model in models.split())


#: In order of precedence.
KNOWN_MODIFIERS: Final[tuple[Modifier, ...]] = (
    # https://platform.claude.com/docs/en/build-with-claude/data-residency: from Opus 4.6 and Sonnet 4.6 on.
    *_premium(
        "anthropic",
        "claude-opus-4-[6-9]* claude-sonnet-4-[6-9]* claude-haiku-4-[6-9]* "
        "claude-opus-[5-9]* claude-sonnet-[5-9]* claude-haiku-[5-9]* claude-fable-* claude-mythos-*",
        "us",
        _since(2026, 2, 5),
    ),
    # https://cloud.google.com/vertex-ai/generative-ai/pricing: regional and multi-region endpoints, from 4.5 on.
    *_premium(
        "google",
        "claude-opus-4-[5-9]* claude-sonnet-4-[5-9]* claude-haiku-4-[5-9]* "
        "claude-opus-[5-9]* claude-sonnet-[5-9]* claude-haiku-[5-9]* claude-fable-* claude-mythos-*",
        "*",
        _since(2025, 9, 29),
    ),
    # https://azure.microsoft.com/pricing/details/cognitive-services/openai-service: data zones.
    *_premium("azure", _AZURE_ZONED, "eu", _since(2024, 11, 1)),
    *_premium("azure", _AZURE_ZONED, "us", _since(2024, 11, 1)),
    # https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch: half of the global prices.
    *_batch("azure", "gpt-4* gpt-5* gpt-6* o1* o3* o4*", _since(2024, 8, 1)),
    # https://cloud.google.com/vertex-ai/generative-ai/pricing, https://aws.amazon.com/bedrock/pricing: half.
    *_batch("google", "claude-*", _since(2025, 3, 1)),
    *_batch("aws", "*anthropic.claude-*", _since(2024, 8, 21)),
)

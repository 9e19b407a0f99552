"""Section `limits`: the largest values that one span may have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt, field_validator

from tokentrace.config.fields import PositiveDuration
from tokentrace.config.section import Section
from tokentrace.model.reasons import MAX_COST_USD, MAX_LATENCY_MS, MAX_TOKENS


class LimitsSection(Section):
    """Largest values of one span. A span with a larger one is rejected; no total depends on a limit to be exact."""

    max_cost_usd: Annotated[float, Field(strict=True, gt=0, le=MAX_COST_USD)] = MAX_COST_USD
    """Largest cost, reported or computed, in USD; a larger one is rejected as cost_out_of_range."""
    max_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] = MAX_TOKENS
    """Largest token count; a larger one is rejected as tokens_out_of_range."""
    max_latency: PositiveDuration = MAX_LATENCY_MS / 1000
    """Largest latency and time to the first token; a larger one is rejected as latency_out_of_range."""

    @field_validator("max_latency")
    @classmethod
    def _low_enough(cls, value: float) -> float:
        if value > MAX_LATENCY_MS / 1000:
            raise ValueError(f"must be at most {MAX_LATENCY_MS / 1000:.0f}s")
        return value

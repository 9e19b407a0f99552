"""Calls whose bill is more than prompt and completion tokens: what is counted for them is what the provider bills."""

from __future__ import annotations

from typing import Any

import pytest
from genai_prices import Usage, calc_price

from tests.harness import Harness, cells_of
from tests.spanfactory import message, span

CLAUDE = ("claude-sonnet-4-5", "anthropic")
VOICE = ("gpt-realtime", "openai")

#: Call -> the model with its provider, what the provider bills, and what is published of it.
CALLS: dict[str, tuple[tuple[str, str], Usage, dict[str, Any]]] = {
    "an agent's turn that writes to the cache": (
        CLAUDE,
        Usage(input_tokens=33_772, cache_read_tokens=30_008, cache_write_tokens=3_755, output_tokens=500),
        {"prompt_tokens": 33_772, "cached_prompt_tokens": 30_008, "cache_write_tokens": 3_755,
         "completion_tokens": 500},
    ),
    "the same for an hour": (
        CLAUDE,
        Usage(input_tokens=33_772, cache_read_tokens=30_008, cache_write_tokens=3_755, cache_write_1h_tokens=3_755,
              output_tokens=500),
        {"prompt_tokens": 33_772, "cached_prompt_tokens": 30_008, "cache_write_tokens": 3_755,
         "cache_write_1h_tokens": 3_755, "completion_tokens": 500},
    ),
    "a first turn": (
        CLAUDE,
        Usage(input_tokens=100_009, cache_write_tokens=100_000, output_tokens=250),
        {"prompt_tokens": 100_009, "cache_write_tokens": 100_000, "completion_tokens": 250},
    ),
    "the agent's turn in Anthropic's counts, which exclude the cache": (
        CLAUDE,
        Usage(input_tokens=33_772, cache_read_tokens=30_008, cache_write_tokens=3_755, output_tokens=500),
        {"prompt_tokens": 9, "cached_prompt_tokens": 30_008, "cache_write_tokens": 3_755, "completion_tokens": 500},
    ),
    "a voice call": (
        VOICE,
        Usage(input_tokens=1_000, input_audio_tokens=800, output_tokens=500, output_audio_tokens=400),
        {"prompt_tokens": 1_000, "audio_prompt_tokens": 800, "completion_tokens": 500, "audio_completion_tokens": 400},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_call_costs_what_its_provider_bills(name: str) -> None:
    (model, provider), billed, published = CALLS[name]
    harness = Harness()
    harness.count([message(span(model=model, provider=provider, cost_usd=None, total_tokens=None, **published))])
    ((cell, row),) = cells_of(harness.commit()).items()
    assert cell[:2] == (model, provider)
    assert row["cost_nano_usd"] == calc_price(billed, model, provider_id=provider).total_price * 10**9

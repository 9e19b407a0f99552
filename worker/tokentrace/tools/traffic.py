"""Synthetic traffic: spans as a fleet of applications would publish them; the same seed gives the same spans.

The models differ in price, length and speed. The traffic has callers, a daily cycle, errors, timeouts, cached prompts
and quality scores. Most spans carry their cost; the worker computes the cost of the others.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class _Model:
    """Typical properties of a model. prompt, completion: median tokens. Prices: USD per million tokens."""

    name: str
    provider: str
    weight: float
    prompt: int
    completion: int
    ttft_ms: float
    ms_per_token: float
    prompt_per_1m: float
    cached_per_1m: float
    completion_per_1m: float
    reasons: bool = False


_MODELS: Final = (
    _Model("gpt-4o", "openai", 30, 900, 220, 420, 11, 2.5, 1.25, 10.0),
    _Model("gpt-4o-mini", "openai", 34, 600, 160, 310, 7, 0.15, 0.075, 0.6),
    _Model("o3", "openai", 4, 1800, 1500, 2400, 9, 2.0, 0.5, 8.0, True),
    _Model("claude-sonnet-4-20250514", "anthropic", 16, 2400, 420, 700, 13, 3.0, 0.3, 15.0),
    _Model("gemini-2.5-flash", "google", 12, 1500, 260, 350, 5, 0.3, 0.075, 2.5),
    _Model("llama-3.3-70b-local", "vllm", 4, 700, 300, 180, 16, 0.0, 0.0, 0.0),
)

#: Callers and their weights; the empty caller is an application that does not name itself.
_CALLERS: Final = (("support-bot", 34), ("search", 26), ("code-review", 18), ("nightly-summaries", 14), ("", 8))

#: Shares of spans that fail, time out, carry a quality score, and carry no cost.
_ERROR, _TIMEOUT, _SCORED, _WITHOUT_COST = 0.02, 0.006, 0.2, 0.25
_CACHED = 0.35
#: Ratio of the busiest to the quietest traffic of a day.
_PEAK_TO_TROUGH: Final = 4.0


class Traffic:
    """Generates spans. seed: the same seed gives the same spans, apart from their times."""

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.time) -> None:
        self._random = random.Random(seed)
        self._clock = clock

    def span(self) -> dict[str, Any]:
        """Return a span that ends now, in the shape of `schemas/span.avsc`."""
        rng = self._random
        (model,) = rng.choices(_MODELS, [model.weight for model in _MODELS])
        ((caller, _),) = rng.choices(_CALLERS, [weight for _, weight in _CALLERS])
        prompt = _lognormal(rng, model.prompt, 0.9)
        completion = _lognormal(rng, model.completion, 0.7)
        cached = rng.randrange(prompt // 128 + 1) * 128 if rng.random() < _CACHED else None
        reasoning = rng.randrange(completion + 1) if model.reasons else None
        status, error = "ok", None
        outcome = rng.random()
        if outcome < _ERROR:
            status, error, completion, reasoning = "error", "HTTP 503 from the provider", 0, None
        elif outcome < _ERROR + _TIMEOUT:
            status, error = "timeout", "no answer within 60 s"
        ttft_ms = model.ttft_ms * rng.lognormvariate(0, 0.35)
        latency_ms = (
            60_000.0 if status == "timeout" else ttft_ms + completion * model.ms_per_token * rng.uniform(0.8, 1.3)
        )
        cost_usd = (
            (prompt - (cached or 0)) * model.prompt_per_1m
            + (cached or 0) * model.cached_per_1m
            + completion * model.completion_per_1m
        ) / 1e6
        attributes: dict[str, Any] = {"env": "prod", "retry": 0, "stream": True}
        if status == "ok" and rng.random() < _SCORED:
            attributes["eval.score"] = round(min(1.0, max(0.0, rng.gauss(0.86, 0.09))), 3)
        ended_us = int(self._clock() * 1e6)
        return {
            "trace_id": f"{rng.getrandbits(128):032x}",
            "span_id": f"{rng.getrandbits(64):016x}",
            "parent_span_id": None,
            "name": "chat",
            "caller": caller,
            "model": model.name,
            "provider": model.provider,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "cached_prompt_tokens": cached,
            "reasoning_tokens": reasoning,
            "cost_usd": None if rng.random() < _WITHOUT_COST else cost_usd,
            "latency_ms": latency_ms,
            "ttft_ms": ttft_ms if status == "ok" else None,
            "status": status,
            "error": error,
            "started_at": ended_us - int(latency_ms * 1000),
            "ended_at": ended_us,
            "attributes": attributes,
        }


def rate_at(rate: float, time_of_day: float) -> float:
    """Return the spans per second at a time of day (0 to 1, 0 is the quietest); the daily mean is `rate`."""
    swing = (_PEAK_TO_TROUGH - 1) / (_PEAK_TO_TROUGH + 1)
    return rate * (1 - swing * math.cos(2 * math.pi * time_of_day))


def _lognormal(rng: random.Random, median: int, sigma: float) -> int:
    return max(1, min(int(median * rng.lognormvariate(0, sigma)), 200_000))

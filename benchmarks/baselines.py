"""Baselines: what a competent engineer would write without tokentrace, giving every family that tokentrace gives.

Each decodes with fastavro's C reader and a schema that was parsed once, and looks a model's rates up once. Neither
validates, keeps event minutes, or is exact (cost is a float); tokentrace does all of that within its own time.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Any

import fastavro
from genai_prices import Usage, calc_price
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tokentrace.model.measures import DURATION_MS_BOUNDS, SCORE_BOUNDS, TOKEN_BOUNDS

from .workload import HEADER


@cache
def rates(model: str, provider: str) -> tuple[float, float, float] | None:
    """USD a token: prompt, cached prompt, completion. None where there is no published price."""
    try:
        prompt, cached, completion = (
            float(calc_price(Usage(**tokens), model, provider_id=provider).total_price) / 1000
            for tokens in (
                {"input_tokens": 1000},
                {"input_tokens": 1000, "cache_read_tokens": 1000},
                {"output_tokens": 1000},
            )
        )
    except LookupError:
        return None
    return prompt, cached, completion


def cost_of(span: dict[str, Any]) -> tuple[float, str]:
    """(USD, source)."""
    cost = span.get("cost_usd")
    if cost is not None:
        return cost, "reported"
    found = rates(span["model"], span["provider"])
    if found is None:
        return 0.0, "unpriced"
    prompt, cached, completion = found
    part = span.get("cached_prompt_tokens") or 0
    return (
        (span["prompt_tokens"] - part) * prompt + part * cached + span["completion_tokens"] * completion,
        "computed",
    )


class FastavroDict:
    """fastavro and one list of numbers for each (model, provider, caller, status)."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = fastavro.parse_schema(schema)
        self.totals: dict[tuple[str, str, str, str], list[Any]] = {}

    def count(self, messages: Sequence[bytes]) -> None:
        totals, schema, read = self.totals, self._schema, fastavro.schemaless_reader
        for message in messages:
            span: Any = read(io.BytesIO(message[HEADER:]), schema)
            key = (span["model"], span["provider"], span["caller"], span.get("status", "ok"))
            total = totals.get(key)
            if total is None:
                total = totals[key] = [
                    0, 0.0, 0, 0, 0, 0, {}, [0] * 11, 0.0, [0] * 11, 0.0, [0] * 15, [0] * 15, [0] * 11, 0.0
                ]  # fmt: skip
            prompt, completion = span["prompt_tokens"], span["completion_tokens"]
            cost, source = cost_of(span)
            total[0] += 1
            total[1] += cost
            total[2] += prompt
            total[3] += completion
            total[4] += span.get("cached_prompt_tokens") or 0
            total[5] += span.get("reasoning_tokens") or 0
            total[6][source] = total[6].get(source, 0) + 1
            latency_ms, ttft_ms = span.get("latency_ms"), span.get("ttft_ms")
            if latency_ms:
                total[7][bisect_left(DURATION_MS_BOUNDS, latency_ms)] += 1
                total[8] += latency_ms
            if ttft_ms:
                total[9][bisect_left(DURATION_MS_BOUNDS, ttft_ms)] += 1
                total[10] += ttft_ms
            total[11][bisect_left(TOKEN_BOUNDS, prompt)] += 1
            total[12][bisect_left(TOKEN_BOUNDS, completion)] += 1
            attributes = span.get("attributes")
            if attributes:
                score = attributes.get("eval.score")
                if score is not None:
                    total[13][bisect_left(SCORE_BOUNDS, score)] += 1
                    total[14] += score


class FastavroPrometheus:
    """fastavro and prometheus_client, family by family."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = fastavro.parse_schema(schema)
        self.registry = registry = CollectorRegistry()
        two, three = ("model", "provider"), ("model", "provider", "caller")
        self._cost = Counter("tokentrace_cost", "Cost.", three, registry=registry)
        self._spans = Counter("tokentrace_spans", "Spans.", ("status", *two), registry=registry)
        self._tokens = Counter("tokentrace_tokens", "Tokens.", (*three, "token_type"), registry=registry)
        self._cached = Counter("tokentrace_cached_prompt_tokens", "Cached.", three, registry=registry)
        self._reasoning = Counter("tokentrace_reasoning_tokens", "Reasoning.", three, registry=registry)
        self._pricing = Counter("tokentrace_span_pricing", "Sources.", ("source", *two), registry=registry)
        self._quality = Gauge("tokentrace_quality_score", "Quality.", two, registry=registry)

        def histogram(name: str, bounds: Sequence[float]) -> Histogram:
            return Histogram(f"tokentrace_{name}", f"{name}.", two, buckets=bounds, registry=registry)

        self._latency = histogram("latency_ms", DURATION_MS_BOUNDS)
        self._ttft = histogram("ttft_ms", DURATION_MS_BOUNDS)
        self._prompt = histogram("prompt_tokens", TOKEN_BOUNDS)
        self._completion = histogram("completion_tokens", TOKEN_BOUNDS)
        self._score = histogram("eval_score", SCORE_BOUNDS)

    def count(self, messages: Sequence[bytes]) -> None:
        schema, read = self._schema, fastavro.schemaless_reader
        for message in messages:
            span: Any = read(io.BytesIO(message[HEADER:]), schema)
            model, provider, caller = span["model"], span["provider"], span["caller"]
            prompt, completion = span["prompt_tokens"], span["completion_tokens"]
            cost, source = cost_of(span)
            self._cost.labels(model, provider, caller).inc(cost)
            self._spans.labels(span.get("status", "ok"), model, provider).inc()
            self._tokens.labels(model, provider, caller, "prompt").inc(prompt)
            self._tokens.labels(model, provider, caller, "completion").inc(completion)
            self._cached.labels(model, provider, caller).inc(span.get("cached_prompt_tokens") or 0)
            self._reasoning.labels(model, provider, caller).inc(span.get("reasoning_tokens") or 0)
            self._pricing.labels(source, model, provider).inc()
            latency_ms, ttft_ms = span.get("latency_ms"), span.get("ttft_ms")
            if latency_ms:
                self._latency.labels(model, provider).observe(latency_ms)
            if ttft_ms:
                self._ttft.labels(model, provider).observe(ttft_ms)
            self._prompt.labels(model, provider).observe(prompt)
            self._completion.labels(model, provider).observe(completion)
            attributes = span.get("attributes")
            if attributes:
                score = attributes.get("eval.score")
                if score is not None:
                    self._score.labels(model, provider).observe(score)
                    self._quality.labels(model, provider).set(score)

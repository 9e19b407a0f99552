"""An independent recount: what the metrics must say about a list of spans, in plain Python, with no code of tokentrace.

Keys are (family or sample name, frozenset of label pairs); values are exact integers: counts, nano-USD for cost,
microseconds for durations, millionths for scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Any

from genai_prices import Usage, calc_price

DURATIONS = (50, 100, 200, 500, 1000, 2000, 3000, 5000, 10000, 30000)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

Key = tuple[str, frozenset[tuple[str, str]]]


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


@lru_cache(maxsize=200_000)
def computed_nano_usd(
    model: str, provider: str, prompt: int, cached: int, completion: int, started_us: int
) -> int | None:
    """The price by genai-prices itself, None where it has none."""
    usage = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
    moment = datetime.fromtimestamp(started_us / 1e6, tz=UTC)
    try:
        price = calc_price(usage, model, provider_id=provider or None, genai_request_timestamp=moment)
    except LookupError:
        return None
    return int((price.total_price * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


def cost_of(span: dict[str, Any]) -> tuple[int, str]:
    """(nano-USD, source)."""
    if span["cost_usd"] is not None:
        return round(span["cost_usd"] * 1e9), "reported"
    nano = computed_nano_usd(
        span["model"], span["provider"], span["prompt_tokens"], span["cached_prompt_tokens"] or 0,
        span["completion_tokens"], span["started_at"],
    )  # fmt: skip
    return (0, "unpriced") if nano is None else (nano, "computed")


def recount(spans: Iterable[dict[str, Any]]) -> Counter[Key]:
    """Every counter and histogram sample of the valid spans, with default labels."""
    totals: Counter[Key] = Counter()
    for span in spans:
        two = {"model": span["model"], "provider": span["provider"]}
        three = {**two, "caller": span["caller"]}
        nano, source = cost_of(span)
        totals[key("tokentrace_cost_total", **three)] += nano
        totals[key("tokentrace_spans_total", status=span["status"], **two)] += 1
        totals[key("tokentrace_tokens_total", token_type="prompt", **three)] += span["prompt_tokens"]
        totals[key("tokentrace_tokens_total", token_type="completion", **three)] += span["completion_tokens"]
        totals[key("tokentrace_cached_prompt_tokens_total", **three)] += span["cached_prompt_tokens"] or 0
        totals[key("tokentrace_reasoning_tokens_total", **three)] += span["reasoning_tokens"] or 0
        totals[key("tokentrace_span_pricing_total", source=source, **two)] += 1
        for name in ("latency_ms", "ttft_ms"):
            if span[name]:
                _observe(totals, f"tokentrace_{name}", two, span[name], DURATIONS, round(span[name] * 1000))
        for name in ("prompt_tokens", "completion_tokens"):
            _observe(totals, f"tokentrace_{name}", two, span[name], TOKENS, span[name])
        score = span["attributes"].get("eval.score")
        if score is not None:
            _observe(totals, "tokentrace_eval_score", two, score, SCORES, round(score * 1e6))
    return totals


def bound_text(bound: float) -> str:
    """A bound as Prometheus clients write it: seven digits and more before the point take an exponent."""
    return str(float(bound)) if bound < 1e6 else f"{bound / 1e6}e+06"


def _observe(
    totals: Counter[Key], name: str, labels: dict[str, str], value: float, bounds: tuple[float, ...], units: int
) -> None:
    for bound in bounds:
        totals[key(f"{name}_bucket", le=bound_text(bound), **labels)] += value <= bound
    totals[key(f"{name}_bucket", le="+Inf", **labels)] += 1
    totals[key(f"{name}_count", **labels)] += 1
    totals[key(f"{name}_sum", **labels)] += units

"""An independent recount: what the metrics must say about a list of spans, in plain Python, with no code of tokentrace.

Keys are (family or sample name, frozenset of label pairs); values are exact integers: counts, nano-USD for cost,
microseconds for durations, millionths for scores, milliseconds for seconds that are billed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from genai_prices import Usage, calc_price
from genai_prices.units import _get_registry

DURATIONS = (50, 100, 200, 500, 1000, 2000, 3000, 5000, 10000, 30000)
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

Key = tuple[str, frozenset[tuple[str, str]]]


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


#: Field of a span -> the unit that it counts, and the unit -> its name in genai-prices.
FIELDS = {
    "prompt_tokens": "prompt", "completion_tokens": "completion", "cached_prompt_tokens": "cache_read",
    "reasoning_tokens": "reasoning", "cache_write_tokens": "cache_write", "cache_write_1h_tokens": "cache_write_1h",
    "audio_prompt_tokens": "audio_prompt", "audio_completion_tokens": "audio_completion",
    "image_prompt_tokens": "image_prompt", "image_completion_tokens": "image_completion", "web_searches": "web_search",
}  # fmt: skip
USAGE = {
    "prompt": "input_tokens", "completion": "output_tokens", "cache_read": "cache_read_tokens",
    "reasoning": "output_reasoning_tokens", "cache_write": "cache_write_tokens",
    "cache_write_1h": "cache_write_1h_tokens", "audio_prompt": "input_audio_tokens",
    "audio_completion": "output_audio_tokens", "image_prompt": "input_image_tokens",
    "image_completion": "output_image_tokens", "web_search": "web_searches",
    "audio_cache_read": "cache_audio_read_tokens",
    "video_prompt": "input_video_tokens", "citation": "output_citation_tokens", "page": "input_document_pages",
    "annotated_page": "input_annotated_document_pages", "second": "audio_seconds",
    "prompt_second": "input_audio_seconds", "character": "input_characters",
}  # fmt: skip
_KNOWN = _get_registry().units


def _parts_of(unit: str) -> list[str]:
    """The units that are part of this one, as the library's dimensions say, the most special first."""
    whole = _KNOWN[USAGE[unit]].dimensions.items()
    parts = [other for other, name in USAGE.items() if whole < _KNOWN[name].dimensions.items()]
    return sorted(parts, key=lambda part: -len(_KNOWN[USAGE[part]].dimensions))


PARTS = {unit: _parts_of(unit) for unit in USAGE}


@lru_cache(maxsize=200_000)
def computed_nano_usd(
    model: str, provider: str, prompt: int, cached: int, completion: int, started_us: int
) -> int | None:
    """The price by genai-prices itself, None where it has none."""
    found = _price(
        model, provider, (("prompt", prompt), ("cache_read", cached), ("completion", completion)), started_us
    )
    return None if found is None else found[0]


@lru_cache(maxsize=200_000)
def _price(model: str, provider: str, usage: tuple[tuple[str, float], ...], started_us: int) -> tuple[int, bool] | None:
    """(nano-USD by genai-prices itself, whether anything that was used has a price); None for an unknown model."""
    # The library asks for every part by name, those of nothing too.
    quantities = dict.fromkeys((name for name in _KNOWN if name != "requests"), Decimal(0))
    quantities |= {USAGE[unit]: Decimal(str(quantity)) for unit, quantity in usage}
    moment = datetime.fromtimestamp(started_us / 1e6, tz=UTC)
    try:
        price = calc_price(Usage(**quantities), model, provider_id=provider or None, genai_request_timestamp=moment)
    except LookupError:
        return None
    priced = [unit for unit in _KNOWN.values() if getattr(price.model_price, unit.price_key) is not None]
    billed = any(
        unit.usage_key == "requests" or unit.dimensions.items() <= _KNOWN[name].dimensions.items()
        for unit in priced
        for name, quantity in quantities.items()
        if quantity
    )
    return int((price.total_price * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN)), billed


class Counted(NamedTuple):
    """Counts of a span: unit -> quantity, of those that it has; how that was repaired, and whether estimated."""

    usage: dict[str, float]
    repaired: list[str]
    estimated: bool


def counted(span: dict[str, Any]) -> Counted:
    """Read a span's counts as docs/pricing.md says, one span at a time."""
    given: dict[str, float] = {unit: quantity for unit, quantity in span.get("usage", {}).items() if unit in USAGE}
    given |= {unit: span[field] for field, unit in FIELDS.items() if span.get(field) is not None}
    usage, repaired, estimated, from_total = dict(given), list[str](), False, False
    total, prompt, completion = span.get("total_tokens"), usage.get("prompt", 0), usage.get("completion", 0)
    rest = -1 if total is None else total - prompt - completion
    missing = "prompt" not in usage or "completion" not in usage
    if rest > 0 or (rest == 0 and missing):
        if not prompt:
            usage["prompt"], from_total = rest, True
            estimated = rest > 0 and not completion
        elif not completion:
            usage["completion"] = rest
    if "completion" in usage and usage.get("reasoning", 0) > usage["completion"]:
        usage["reasoning"] = 0
    if "cache_write_1h" in usage and usage.get("cache_write", 0) < usage["cache_write_1h"]:
        repaired += ["whole_below_parts"] * ("cache_write" in usage)
        usage["cache_write"] = usage["cache_write_1h"]
    beside = usage.get("cache_read", 0) + usage.get("cache_write", 0)
    more, flag = beside > usage.get("prompt", 0), span.get("prompt_tokens_include_cache")
    if not from_total and (more if flag is None else not flag) and beside:
        repaired += ["prompt_excludes_cache"] * (flag is None and "prompt" in usage)
        usage["prompt"] = usage.get("prompt", 0) + beside
    # What is in no part: a whole has at least what its parts have, each of them counted once.
    alone: dict[str, float] = {}
    for unit in sorted(USAGE, key=lambda unit: -len(_KNOWN[USAGE[unit]].dimensions)):
        if unit in usage or any(alone.get(part) for part in PARTS[unit]):
            inside = sum(alone.get(part, 0) for part in PARTS[unit])
            if usage.get(unit, 0) < inside:
                repaired += ["whole_below_parts"] * (unit in usage)
                usage[unit] = inside
            alone[unit] = usage.get(unit, 0) - inside
    return Counted(usage, sorted(set(repaired)), estimated)


def cost_of(span: dict[str, Any]) -> tuple[int, str]:
    """(nano-USD, source)."""
    if span["cost_usd"] is not None:
        return round(span["cost_usd"] * 1e9), "reported"
    usage, _, estimated = counted(span)
    found = _price(span["model"], span["provider"], tuple(sorted(usage.items())), span["started_at"])
    if found is None:
        return 0, "unpriced"
    nano, billed = found
    if not any(usage.values()):
        # A call that failed has used nothing; of one that succeeded, nobody knows what it has.
        return (0, "computed") if span["status"] != "ok" else (nano, "computed" if nano else "unpriced")
    if not billed:
        return 0, "unpriced"
    return nano, "estimated" if estimated else "computed"


def recount(spans: Iterable[dict[str, Any]]) -> Counter[Key]:
    """Every counter and histogram sample of the valid spans, with default labels."""
    totals: Counter[Key] = Counter()
    for span in spans:
        two = {"model": span["model"], "provider": span["provider"]}
        three = {**two, "caller": span["caller"]}
        nano, source = cost_of(span)
        totals[key("tokentrace_cost_total", **three)] += nano
        totals[key("tokentrace_spans_total", status=span["status"], **two)] += 1
        usage, repaired, _ = counted(span)
        for kind in ("prompt", "completion"):
            totals[key("tokentrace_tokens_total", token_type=kind, **three)] += int(usage.get(kind, 0))
        totals[key("tokentrace_cached_prompt_tokens_total", **three)] += int(usage.get("cache_read", 0))
        totals[key("tokentrace_reasoning_tokens_total", **three)] += int(usage.get("reasoning", 0))
        for unit, quantity in usage.items():
            scale = 1000 if "second" in unit else 1
            totals[key("tokentrace_usage_total", unit=unit, **three)] += round(quantity * scale)
        for reason in repaired:
            totals[key("tokentrace_spans_repaired_total", reason=reason, **two)] += 1
        totals[key("tokentrace_span_pricing_total", source=source, **two)] += 1
        for name in ("latency_ms", "ttft_ms"):
            if span[name]:
                _observe(totals, f"tokentrace_{name}", two, span[name], DURATIONS, round(span[name] * 1000))
        for kind in ("prompt", "completion"):
            if kind in usage:
                _observe(totals, f"tokentrace_{kind}_tokens", two, usage[kind], TOKENS, int(usage[kind]))
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

"""Spans for tests: plain dicts in the shape of schemas/span.avsc, and their bytes by plain fastavro."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

ROOT = Path(__file__).parent.parent
SPAN_SCHEMA: dict[str, Any] = json.loads((ROOT / "schemas" / "span.avsc").read_text())
_PARSED = fastavro.parse_schema(json.loads((ROOT / "schemas" / "span.avsc").read_text()))

MODELS = [
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("claude-sonnet-4-20250514", "anthropic"),
    ("gemini-2.5-pro", "google"),
    ("house-llm", "vllm"),
    ("modèle-été", "maison"),
]
#: Models whose prices are of other units, or of more of them.
UNIT_MODELS = [
    ("gpt-4o-audio-preview", "openai"),
    ("gpt-realtime", "openai"),
    ("whisper-large-v3", "groq"),
    ("mistral-ocr-latest", "mistral"),
    ("sonar-deep-research", "perplexity"),
    ("gemini-2.5-flash", "google"),
]
CALLERS = ["", "search", "support-bot", "batch"]
NOW_US = 1_790_000_000_000_000


def span(**fields: Any) -> dict[str, Any]:
    """A small span of gpt-4o, with these fields instead."""
    return {
        "trace_id": "t",
        "span_id": "s",
        "parent_span_id": None,
        "name": "chat",
        "caller": "",
        "model": "gpt-4o",
        "provider": "openai",
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": None,
        "cached_prompt_tokens": None,
        "reasoning_tokens": None,
        "cost_usd": None,
        "latency_ms": None,
        "ttft_ms": None,
        "status": "ok",
        "error": None,
        "started_at": NOW_US,
        "ended_at": NOW_US + 1_000_000,
        "attributes": {},
        **fields,
    }


def random_span(rng: random.Random) -> dict[str, Any]:
    """A valid span in which every optional part comes and goes."""
    model, provider = rng.choice(MODELS)
    prompt, completion = rng.choice([0, 5, 64, 65, 900, 40_000, 250_000]), rng.randrange(3000)
    attributes: dict[str, Any] = {"user": f"u{rng.randrange(99)}", "retry": rng.randrange(3), "stream": True}
    if rng.random() < 0.3:
        attributes["eval.score"] = rng.choice([0.0, 1.0, 0.1, 0.75, rng.random(), 1])
    started = NOW_US - 900_000_000 + rng.randrange(600_000_000)
    return span(
        trace_id=f"{rng.getrandbits(128):032x}",
        span_id=f"{rng.getrandbits(64):016x}",
        parent_span_id=rng.choice([None, "p"]),
        caller=rng.choice(CALLERS),
        model=model,
        provider=provider,
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=rng.choice([None, prompt + completion]),
        cached_prompt_tokens=rng.choice([None, 0, rng.randrange(prompt + 1)]),
        reasoning_tokens=rng.choice([None, rng.randrange(completion + 1)]),
        cost_usd=rng.choice([None, 0.0, rng.random() / 10, 0.1, 1234.567890123]),
        latency_ms=rng.choice([None, 0.0, 50.0, 50.0001, rng.lognormvariate(6, 1), 30000.0, 99999.5]),
        ttft_ms=rng.choice([None, rng.lognormvariate(5, 1)]),
        status=rng.choices(["ok", "error", "timeout"], [90, 8, 2])[0],
        started_at=started,
        ended_at=started + rng.randrange(90_000_000),
        attributes=attributes,
    )


def unit_span(rng: random.Random) -> dict[str, Any]:
    """A valid span with units of every kind, counts that are absent, and counts that contradict each other."""

    def some(most: int) -> int | None:
        return rng.choice([None, None, 0, rng.randrange(most)])

    usage = {"page": 3, "annotated_page": 1, "second": 12.5, "prompt_second": 2.25, "video_prompt": 70,
             "character": 900, "audio_cache_read": 30, "citation": 12, "audio_prompt": 5, "unknown": 1.0}  # fmt: skip
    model, provider = rng.choice([*MODELS, *UNIT_MODELS])
    return (
        random_span(rng)
        | {
            "model": model,
            "provider": provider,
            "prompt_tokens": rng.choice([None, 0, 40, rng.randrange(9000)]),
            "completion_tokens": some(900),
            "total_tokens": rng.choice([None, None, 0, rng.randrange(20_000)]),
            "cached_prompt_tokens": some(9000),
            "reasoning_tokens": some(900),
            # So that each of them can be counted.
            "cost_usd": rng.choice([0.0, 0.25]),
            "prompt_tokens_include_cache": rng.choice([None, None, True, False]),
            "cache_write_tokens": some(4000),
            "cache_write_1h_tokens": some(2000),
            "audio_prompt_tokens": some(500),
            "audio_completion_tokens": some(500),
            "image_prompt_tokens": some(300),
            "image_completion_tokens": some(300),
            "web_searches": some(4),
            "usage": {unit: usage[unit] for unit in rng.sample(list(usage), rng.choice([0, 0, 1, 4]))},
            # Of models without a price for them, so that a recount need not know any.
            "service_tier": rng.choice([None, None, "", "default", "standard"]),
            "inference_region": rng.choice([None, None, "global", "mars-7"]),
            "speed": rng.choice([None, None, "standard"]),
        }
        | rng.choice([{}, {"cost_usd": None, "audio_prompt_tokens": 1}, {"cost_usd": None, "status": "error"}])
    )


def datum(record: dict[str, Any], schema: Any = None) -> bytes:
    """The bare Avro datum."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, _PARSED if schema is None else schema, record)
    return stream.getvalue()


def single_object_header(schema: Any = None) -> bytes:
    """C3 01 and the CRC-64-AVRO fingerprint of the schema."""
    canonical = to_parsing_canonical_form(SPAN_SCHEMA if schema is None else schema)
    return b"\xc3\x01" + bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))


_HEADER = single_object_header()


def message(record: dict[str, Any]) -> bytes:
    """A span as a message value, in single-object encoding."""
    return _HEADER + datum(record)


#: Version 1 of the span's schema, which every release reads.
FIRST_SCHEMA: dict[str, Any] = json.loads((ROOT / "schemas" / "history" / "0.1.0" / "span.avsc").read_text())
_PARSED_FIRST = fastavro.parse_schema(json.loads(json.dumps(FIRST_SCHEMA)))
_HEADER_FIRST = single_object_header(FIRST_SCHEMA)


def first_message(record: dict[str, Any]) -> bytes:
    """A span as a message value of version 1, which has no units."""
    return _HEADER_FIRST + datum(record, _PARSED_FIRST)

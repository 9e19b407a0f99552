"""Usage objects as providers document them, against genai-prices' extractors and against invoices made by hand."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import ArrayMatch, UsageExtractor
from genai_prices.units import _get_registry

from tests.harness import Harness, cells_of
from tests.oracle import FIELDS, USAGE
from tests.publisher.answers import ANSWERS, Answer
from tokentrace.model.span_encoder import span_message
from tokentrace.publisher.usage import answer_fields, usage_fields

#: Extractors of objects that are not a provider's answer, or of two answers that are the same.
_NOT_READ = {("cursor", "usage-event"), ("mistral", "ocr_annotated")}
EXTRACTORS = [
    pytest.param(provider.id, extractor, id=f"{provider.id}-{extractor.api_flavor}")
    for provider in providers
    for extractor in provider.extractors or ()
    if (provider.id, extractor.api_flavor) not in _NOT_READ
]
#: Field of the span -> genai-prices' name, of what a publisher sends.
_THEIRS = {field: USAGE[unit] for field, unit in FIELDS.items()}
_UNITS = {
    "cache_write_5m": "cache_write_5m_tokens", "tool": "input_tool_tokens", "citation": "output_citation_tokens",
    "page": "input_document_pages", "second": "audio_seconds", "text_message": "input_text_messages",
    "rerank_search": "rerank_searches",
}  # fmt: skip


def theirs(unit: str) -> str:
    """The name of a unit of the span's map in genai-prices."""
    if unit in _UNITS:
        return _UNITS[unit]
    modality, _, detail = unit.partition("_")
    return {
        "prompt": f"input_{modality}_tokens",
        "completion": f"output_{modality}_tokens",
        "cache_read": f"cache_{modality}_read_tokens",
        "tool": f"input_{modality}_tool_tokens",
    }[detail]


def put(answer: dict[str, Any], path: Any, value: int) -> None:
    """Set the value at a path of an extractor, whose steps are keys and matches in lists."""
    steps = [path] if isinstance(path, str) else list(path)
    at: Any = answer
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, ArrayMatch):
            wanted = step.match.equals  # type: ignore[union-attr]
            found = [entry for entry in at if entry[step.field] == wanted]
            if not found:
                found = [{step.field: wanted}]
                at += found
            at = found[0]
        elif following is None:
            at.setdefault(step, value)
        else:
            at = at.setdefault(step, [] if isinstance(following, ArrayMatch) else {})


def random_answer(extractor: UsageExtractor, rng: random.Random) -> dict[str, Any]:
    """An answer as the extractor takes it: counts beside each other are there, details come and go and are smaller."""
    usage: dict[str, Any] = {}
    for mapping in extractor.mappings:
        top = isinstance(mapping.path, str)
        whole = top and mapping.path != "reasoning_tokens"
        if mapping.required or top or mapping.path[0] == "tokens" or rng.random() < 0.7:
            put(usage, mapping.path, rng.randrange(9_000, 99_000) if whole else rng.randrange(1, 900))
    answer: dict[str, Any] = usage
    for name in reversed([extractor.root] if isinstance(extractor.root, str) else list(extractor.root)):
        answer = {name: answer}
    return answer


def as_counted(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a span as genai-prices counts: prompts with their cache, no zeros."""
    found = {_THEIRS[name]: fields[name] for name in _THEIRS if name in fields}
    found |= {theirs(unit): quantity for unit, quantity in fields.get("usage", {}).items()}
    if fields.get("prompt_tokens_include_cache") is False:
        cache = found.get("cache_read_tokens", 0) + found.get("cache_write_tokens", 0)
        found["input_tokens"] = found.get("input_tokens", 0) + cache
    return {name: quantity for name, quantity in found.items() if quantity}


def test_theirs_names_units_that_the_library_has() -> None:
    assert set(_THEIRS.values()) | set(_UNITS.values()) <= set(_get_registry().units)


@pytest.mark.parametrize(("provider", "extractor"), EXTRACTORS)
def test_usage_is_what_genai_prices_extracts(provider: str, extractor: UsageExtractor) -> None:
    rng = random.Random(f"{provider} {extractor.api_flavor}")
    for _ in range(50):
        answer = random_answer(extractor, rng)
        _, usage = extractor.extract(answer)
        expected = {name: quantity for name, quantity in vars(usage).items() if quantity}
        assert as_counted(usage_fields(answer, provider)) == expected, answer


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_answer_costs_what_its_invoice_says(answer: Answer) -> None:
    fields = usage_fields(answer.json, answer.provider)
    span = {"model": answer.model, "provider": answer.provider, "ended_at": answer.ended_at_us, **fields}
    harness = Harness()
    harness.count([span_message(span)])
    ((_, counted),) = cells_of(harness.commit()).items()
    assert counted["cost_nano_usd"] == answer.invoice_nano_usd()
    assert "repaired_prompt_excludes_cache" not in counted


def as_object(value: Any) -> Any:
    """JSON as an SDK's object, with attributes in snake_case."""
    if isinstance(value, dict):
        snake = {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): item for name, item in value.items()}
        return SimpleNamespace(**{name: as_object(item) for name, item in snake.items()})
    return [as_object(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "answer", [answer for answer in ANSWERS if answer.provider != "aws"], ids=lambda answer: answer.name
)
def test_usage_of_an_object_is_that_of_its_json(answer: Answer) -> None:
    assert usage_fields(as_object(answer.json), answer.provider) == usage_fields(answer.json, answer.provider)
    (usage,) = (answer.json.get(name) for name in ("usage", "usageMetadata") if name in answer.json)
    assert usage_fields(usage, answer.provider) == usage_fields(answer.json, answer.provider)


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (
            {"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}},
            {"prompt_tokens": 25, "completion_tokens": 1, "prompt_tokens_include_cache": False},
        ),
        ({"type": "message_delta", "usage": {"output_tokens": 15}}, {"completion_tokens": 15}),
        (
            {"type": "response.completed", "response": {"usage": {"input_tokens": 3, "total_tokens": 4}}},
            {"prompt_tokens": 3, "prompt_tokens_include_cache": True},
        ),
        ({"metadata": {"usage": {"inputTokens": 5, "outputTokens": 2}}},
         {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_include_cache": False}),
        ({"choices": [], "usage": None}, {}),
        ({"usage": {"prompt_tokens": True, "completion_tokens": "9"}}, {}),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 9}}, {"completion_tokens": 9}),
        ("text", {}),
        (None, {}),
        (7, {}),
    ],
)  # fmt: skip
def test_usage_of_events_and_of_what_is_none(event: Any, fields: dict[str, Any]) -> None:
    assert usage_fields(event) == fields


def test_reasoning_is_beside_the_completion_where_the_total_says_so() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}}
    assert usage_fields({**usage, "total_tokens": 15}, "xai")["completion_tokens"] == 5
    assert usage_fields({**usage, "total_tokens": 18}, "litellm")["completion_tokens"] == 8
    assert usage_fields(usage, "xai")["completion_tokens"] == 8
    assert usage_fields(usage, "openai")["completion_tokens"] == 5


def test_answer_says_its_model_and_tier() -> None:
    assert answer_fields({"model": "gpt-4o-2024-08-06", "service_tier": "priority", "usage": {}}) == {
        "model": "gpt-4o-2024-08-06",
        "service_tier": "priority",
    }
    assert answer_fields({"model": "claude-opus-4-6", "usage": {"service_tier": "batch", "speed": "fast",
                          "inference_geo": "us"}}) == {
        "model": "claude-opus-4-6", "service_tier": "batch", "speed": "fast", "inference_region": "us",
    }  # fmt: skip
    assert answer_fields({"modelVersion": "gemini-2.5-flash"}) == {"model": "gemini-2.5-flash"}
    assert answer_fields({"serviceTier": {"type": "flex"}}) == {"service_tier": "flex"}
    assert answer_fields(None) == {}

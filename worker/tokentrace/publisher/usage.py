"""Usage: what a provider's answer says that a call has used, as fields of the span.

An answer, a part of a stream, or the usage object in it is told apart by its keys, since a gateway gives the answers of
one provider in the form of another. Mappings and the objects of the providers' SDKs are read alike. genai-prices has
extractors for the same objects; tests compare every one of them with this table. At run time they would cost 80 us a
span, and an import of half a second in the application's first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tokentrace.publisher.unread import known_counts
from tokentrace.publisher.ways import (
    Either,
    Group,
    count_of,
    grouped,
    items_of,
    scan,
    snake,
    value_at,
    value_of,
    word_of,
)

#: Ways from an answer or an event of a stream to its usage, the innermost object last.
_ROOTS: Final = (
    ("usage",),
    ("usage_metadata",),
    ("usageMetadata",),
    ("usage_info",),
    ("message", "usage"),
    ("response", "usage"),
    ("metadata", "usage"),
    ("data", "usage"),
    ("result", "usage"),
    ("meta", "billed_units"),
    ("meta", "billedUnits"),
)
#: Fields of which one at least is in the usage of a call.
COUNTS: Final = frozenset({"prompt_tokens", "completion_tokens", "usage"})
_INCLUDES: Final = "prompt_tokens_include_cache"

Fields = dict[str, Any]


def usage_fields(answer: Any, provider: str = "") -> Fields:
    """Return the fields of the span that an answer, an event of a stream or a usage object gives; empty for none.

    provider: of the span; two providers count what they have thought beside the completion.
    """
    return find_usage(answer, provider)[1]


def find_usage(answer: Any, provider: str = "") -> tuple[Any, Fields]:
    """Return (the usage object, the fields that it gives), as `usage_fields`; (None, nothing) where there is none."""
    if answer is None:
        return None, {}
    for way in _ROOTS:
        usage = value_at(answer, way)
        if usage is not None and not isinstance(usage, (str, int, float)):
            found = _read(usage, provider)
            if found:
                return usage, found
    found = _read(answer, provider)
    return (answer if found else None), found


def answer_fields(answer: Any) -> Fields:
    """Return what else an answer says of the call: model, service_tier, inference_region and speed, if it has them."""
    return scan(answer, _ANSWER, word_of)


#: Field -> ways to it in an answer, or in an event of a stream.
_ANSWER: Final = grouped(
    (
        "model",
        (("model",), ("model_version",), ("modelVersion",), ("message", "model"), ("response", "model"),
         ("data", "model"), ("result", "model")),
    ),
    (
        "service_tier",
        (("service_tier",), ("usage", "service_tier"), ("message", "usage", "service_tier"),
         ("response", "service_tier"), ("serviceTier", "type"), ("metadata", "serviceTier", "type")),
    ),
    ("inference_region", (("usage", "inference_geo"), ("message", "usage", "inference_geo"))),
    ("speed", (("usage", "speed"), ("message", "usage", "speed"))),
)  # fmt: skip


def has_token(part: Any) -> bool:
    """Return whether a part of a streamed answer has something that the model has written."""
    kind = value_of(part, "type")
    if isinstance(kind, str):
        # Anthropic's events and those of OpenAI's responses; the first ones only open the stream.
        return "delta" in kind and kind != "message_delta"
    choices = value_of(part, "choices")
    if isinstance(choices, (list, tuple)):
        deltas = (value_of(choice, "delta") for choice in choices)
        written = ("content", "tool_calls", "reasoning_content", "reasoning", "refusal", "audio", "function_call")
        return any(value_of(delta, name) for delta in deltas if delta is not None for name in written) or any(
            value_of(choice, "text") for choice in choices
        )
    return True


def _read(usage: Any, provider: str) -> Fields:
    for mark, read in _SHAPES:
        if value_of(usage, mark) is not None:
            return read(usage, provider)
    return {}


# -- shapes ------------------------------------------------------------------------------------------------------------

#: OpenAI's chat completions, and those who answer as it does: prompt_tokens are all input.
_CHAT: Final = grouped(
    ("prompt_tokens", (("prompt_tokens",),)),
    ("completion_tokens", (("completion_tokens",),)),
    (
        "cached_prompt_tokens",
        (("prompt_tokens_details", "cached_tokens"), ("cached_tokens",), ("cache_read_input_tokens",),
         ("prompt_cache_hit_tokens",), ("num_cached_tokens",), ("cached_prompt_text_tokens",)),
    ),
    (
        "cache_write_tokens",
        (("prompt_tokens_details", "cache_write_tokens"), ("prompt_tokens_details", "cache_creation_tokens"),
         ("cache_creation_input_tokens",)),
    ),
    (
        "cache_write_1h_tokens",
        (("prompt_tokens_details", "cache_creation_token_details", "ephemeral_1h_input_tokens"),),
    ),
    ("audio_prompt_tokens", (("prompt_tokens_details", "audio_tokens"),)),
    ("image_prompt_tokens", (("prompt_tokens_details", "image_tokens"),)),
    ("audio_completion_tokens", (("completion_tokens_details", "audio_tokens"),)),
    ("image_completion_tokens", (("completion_tokens_details", "image_tokens"),)),
    ("reasoning_tokens", (("completion_tokens_details", "reasoning_tokens"), ("reasoning_tokens",))),
    (
        "web_searches",
        (("num_search_queries",), ("server_tool_use", "web_search_requests"),
         ("prompt_tokens_details", "web_search_requests")),
    ),
    ("usage.citation", (("citation_tokens",),)),
)  # fmt: skip


def _detail(field: str, direction: str, *way: str) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """A field in the details of input or output, whose name differs between answers and live sessions."""
    return field, ((f"{direction}_tokens_details", *way), (f"{direction}_token_details", *way))


#: OpenAI's responses, images, transcriptions and live sessions: input_tokens are all input.
_RESPONSES: Final = grouped(
    ("prompt_tokens", (("input_tokens",),)),
    ("completion_tokens", (("output_tokens",),)),
    (
        "cached_prompt_tokens",
        (("input_tokens_details", "cached_tokens"), ("input_token_details", "cached_tokens"),
         ("input_tokens_details", "cache_read_input_tokens")),
    ),
    _detail("cache_write_tokens", "input", "cache_write_tokens"),
    _detail("audio_prompt_tokens", "input", "audio_tokens"),
    _detail("image_prompt_tokens", "input", "image_tokens"),
    _detail("usage.text_prompt", "input", "text_tokens"),
    _detail("usage.text_cache_read", "input", "cached_tokens_details", "text_tokens"),
    _detail("usage.audio_cache_read", "input", "cached_tokens_details", "audio_tokens"),
    _detail("usage.image_cache_read", "input", "cached_tokens_details", "image_tokens"),
    _detail("reasoning_tokens", "output", "reasoning_tokens"),
    _detail("audio_completion_tokens", "output", "audio_tokens"),
    _detail("image_completion_tokens", "output", "image_tokens"),
    _detail("usage.text_completion", "output", "text_tokens"),
    ("web_searches", (("tool_calls_details", "search_web", "invocation"),)),
    ("usage.second", (("billable_audio_seconds",),)),
    ("usage.text_message", (("input_text_messages",),)),
)  # fmt: skip

#: Anthropic's messages: input_tokens exclude what was read from and written to a cache.
_ANTHROPIC: Final = grouped(
    ("prompt_tokens", (("input_tokens",),)),
    ("completion_tokens", (("output_tokens",),)),
    ("cached_prompt_tokens", (("cache_read_input_tokens",),)),
    ("cache_write_tokens", (("cache_creation_input_tokens",),)),
    ("usage.cache_write_5m", (("cache_creation", "ephemeral_5m_input_tokens"),)),
    ("cache_write_1h_tokens", (("cache_creation", "ephemeral_1h_input_tokens"),)),
    (
        "reasoning_tokens",
        (("output_tokens_details", "thinking_tokens"), ("output_tokens_details", "reasoning_tokens")),
    ),
    ("web_searches", (("server_tool_use", "web_search_requests"),)),
)

#: Bedrock's Converse: the same.
_BEDROCK: Final = grouped(
    ("prompt_tokens", (("inputTokens",),)),
    ("completion_tokens", (("outputTokens",),)),
    ("cached_prompt_tokens", (("cacheReadInputTokens",), ("cacheReadTokens",))),
    ("cache_write_tokens", (("cacheWriteInputTokens",), ("cacheWriteTokens",))),
)

_COHERE: Final = grouped(
    ("prompt_tokens", (("input_tokens",),)),
    ("completion_tokens", (("output_tokens",),)),
    ("usage.rerank_search", (("search_units",),)),
)
_COHERE_TOKENS: Final = grouped(
    ("prompt_tokens", (("tokens", "input_tokens"),)),
    ("completion_tokens", (("tokens", "output_tokens"),)),
    ("cached_prompt_tokens", (("cached_tokens",),)),
)
_PAGES: Final = grouped(("usage.page", (("pages_processed",),)))
_SECONDS: Final = grouped(("usage.second", (("seconds",),)))
_OLLAMA: Final = grouped(
    ("prompt_tokens", (("prompt_eval_count",),)),
    ("completion_tokens", (("eval_count",),)),
)


def _chat(usage: Any, provider: str) -> Fields:
    found = _plain(usage, _CHAT, True)
    beside = _units(found).get("citation", 0)
    reasoning = found.get("reasoning_tokens", 0)
    if reasoning and _thinks_beside(usage, found, reasoning, provider):
        beside += reasoning
    if beside:
        found["completion_tokens"] = found.get("completion_tokens", 0) + int(beside)
    return found


def _thinks_beside(usage: Any, found: Fields, reasoning: int, provider: str) -> bool:
    """Return whether reasoning tokens are beside the completion tokens: xAI's are, and Perplexity's."""
    total = value_of(usage, "total_tokens")
    prompt, completion = found.get("prompt_tokens", 0), found.get("completion_tokens", 0)
    if total in (prompt + completion, prompt + completion + reasoning) and isinstance(total, int):
        return bool(total > prompt + completion)
    name = provider.lower().replace("-", "").replace("_", "")
    return name in ("xai", "grok", "perplexity") or reasoning > completion


def _input_output(usage: Any, provider: str) -> Fields:
    """Read input_tokens and output_tokens, of which each provider means something else."""
    inclusive = ("input_tokens_details", "input_token_details", "total_tokens", "tool_calls_details",
                 "billable_audio_seconds")  # fmt: skip
    if any(value_of(usage, name) is not None for name in inclusive):
        return _plain(usage, _RESPONSES, True)
    return _plain(usage, _ANTHROPIC, False)


#: Time for which Bedrock keeps a cache -> field.
_BY_TTL: Final = {"1h": "cache_write_1h_tokens", "5m": "usage.cache_write_5m"}


def _bedrock(usage: Any, provider: str) -> Fields:
    found = _plain(usage, _BEDROCK, False)
    for entry in items_of(usage, "cacheDetails"):
        tokens = count_of(value_of(entry, "inputTokens"))
        if tokens is not None:
            _put(found, _BY_TTL.get(value_of(entry, "ttl"), ""), tokens)
    return found


#: Modality of Google's -> the same of ours.
_MODALITIES: Final = {"TEXT": "text", "AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}


def _google(usage: Any, provider: str) -> Fields:
    """Read Gemini's counts: prompts include their cache, and thoughts and the prompts of tools are beside."""
    found: Fields = {}
    get = Either(usage).get
    prompt, tools = count_of(get("promptTokenCount")), count_of(get("toolUsePromptTokenCount"))
    answer = count_of(get("candidatesTokenCount"))
    if answer is None:
        answer = count_of(get("responseTokenCount"))
    thoughts = count_of(get("thoughtsTokenCount"))
    for field, counts in (("prompt_tokens", (prompt, tools)), ("completion_tokens", (answer, thoughts))):
        if any(count is not None for count in counts):
            found[field] = sum(count or 0 for count in counts)
    _put(found, "cached_prompt_tokens", count_of(get("cachedContentTokenCount")))
    _put(found, "reasoning_tokens", thoughts)
    _put(found, "usage.tool", tools)
    for name, units in (
        ("promptTokensDetails", ("{}_prompt",)),
        ("cacheTokensDetails", ("{}_cache_read",)),
        ("candidatesTokensDetails", ("{}_completion",)),
        ("responseTokensDetails", ("{}_completion",)),
        ("toolUsePromptTokensDetails", ("{}_prompt", "{}_tool")),
    ):
        for entry in get(name) or ():
            modality = value_of(entry, "modality")
            of_ours = _MODALITIES.get(str(getattr(modality, "value", modality)))
            tokens = count_of(Either(entry).get("tokenCount"))
            if of_ours is not None and tokens:
                for unit in units:
                    _add(found, unit.format(of_ours), tokens)
    if found:
        found[_INCLUDES] = True
    return found


#: (key that a usage object of this shape has, its reader), the first that is there counts.
_SHAPES: Final[tuple[tuple[str, Callable[[Any, str], Fields]], ...]] = (
    ("prompt_tokens", _chat),
    ("input_tokens", _input_output),
    ("promptTokenCount", _google),
    ("prompt_token_count", _google),
    ("candidatesTokenCount", _google),
    ("candidates_token_count", _google),
    ("inputTokens", _bedrock),
    ("billed_units", lambda usage, provider: _plain(value_of(usage, "billed_units"), _COHERE, None)),
    ("tokens", lambda usage, provider: _plain(usage, _COHERE_TOKENS, True)),
    ("search_units", lambda usage, provider: _plain(usage, _COHERE, None)),
    ("output_tokens", _input_output),
    ("billable_audio_seconds", _input_output),
    ("prompt_eval_count", lambda usage, provider: _plain(usage, _OLLAMA, None)),
    ("pages_processed", lambda usage, provider: _plain(usage, _PAGES, None)),
    ("seconds", lambda usage, provider: _plain(usage, _SECONDS, None)),
)


_GOOGLE_COUNTS: Final = (
    "promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "responseTokenCount", "thoughtsTokenCount",
    "cachedContentTokenCount",
)  # fmt: skip

#: Paths of all counts that are read, of every shape.
KNOWN_COUNTS: Final = known_counts(
    (_CHAT, _RESPONSES, _ANTHROPIC, _BEDROCK, _COHERE, _COHERE_TOKENS, _PAGES, _SECONDS, _OLLAMA),
    (*_GOOGLE_COUNTS, *map(snake, _GOOGLE_COUNTS)),
)


def _plain(usage: Any, ways: Sequence[Group], includes_cache: bool | None) -> Fields:
    found: Fields = {}
    for field, count in scan(usage, ways, count_of).items():
        _put(found, field, count)
    if includes_cache is not None and "prompt_tokens" in found:
        found[_INCLUDES] = includes_cache
    return found


def _units(found: Fields) -> Fields:
    units: Fields = found.get("usage", {})
    return units


def _put(found: Fields, field: str, count: int | float | None) -> None:
    """Set a field, or with the prefix `usage.` a unit of the map. A unit of which nothing was used is left out."""
    if count is None or not field:
        return
    if field.startswith("usage."):
        if count:
            found.setdefault("usage", {})[field.removeprefix("usage.")] = count
    else:
        found[field] = int(count)


#: Unit -> the span's field of its own.
_OWN_FIELD: Final = {
    f"{modality}_{direction}": f"{modality}_{direction}_tokens"
    for modality in ("audio", "image")
    for direction in ("prompt", "completion")
}


def _add(found: Fields, unit: str, count: int | float) -> None:
    """Add to a unit, in its own field where the span has one."""
    field = _OWN_FIELD.get(unit)
    if field is not None:
        found[field] = found.get(field, 0) + int(count)
    else:
        units = found.setdefault("usage", {})
        units[unit] = units.get(unit, 0) + count

"""Answers of six APIs as their providers document them, each with its invoice, made by hand from the price list."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

#: 2026-09-22, the time that spans of tests have.
ENDED_AT_US = 1_790_000_001_000_000


class Answer(NamedTuple):
    """name: the API. json: the answer without its text. invoice: (what, quantity, USD per million of it)."""

    name: str
    provider: str
    model: str
    json: dict[str, Any]
    invoice: tuple[tuple[str, int, Decimal], ...]
    ended_at_us: int = ENDED_AT_US

    def invoice_nano_usd(self) -> int:
        """The amount: a dollar a million is a thousand nano-dollars each."""
        amount = sum(quantity * price * 1000 for _, quantity, price in self.invoice)
        assert amount == int(amount)
        return int(amount)


ANSWERS = [
    Answer(
        "openai-chat", "openai", "gpt-4o-2024-08-06",
        {
            "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "service_tier": "default",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "."}}],
            "usage": {
                "prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
                                              "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
            },
        },
        # The prompt tokens include the cached ones.
        (("prompt", 86, Decimal("2.50")), ("cached", 1920, Decimal("1.25")), ("completion", 300, Decimal(10))),
    ),
    Answer(
        "openai-responses", "openai", "gpt-5",
        {
            "id": "resp_1", "object": "response", "model": "gpt-5", "status": "completed", "service_tier": "default",
            "usage": {
                "input_tokens": 328, "input_tokens_details": {"cached_tokens": 200},
                "output_tokens": 1186, "output_tokens_details": {"reasoning_tokens": 1024}, "total_tokens": 1514,
            },
        },
        # Reasoning is part of the output, and costs the same.
        (("input", 128, Decimal("1.25")), ("cached", 200, Decimal("0.125")), ("output", 1186, Decimal(10))),
    ),
    Answer(
        "anthropic-messages", "anthropic", "claude-sonnet-4-6",
        {
            "id": "msg_1", "type": "message", "model": "claude-sonnet-4-6", "stop_reason": "end_turn",
            "usage": {
                "input_tokens": 21, "cache_creation_input_tokens": 188_086, "cache_read_input_tokens": 1800,
                "cache_creation": {"ephemeral_5m_input_tokens": 187_986, "ephemeral_1h_input_tokens": 100},
                "output_tokens": 393, "service_tier": "standard", "server_tool_use": {"web_search_requests": 2},
            },
        },
        # The input tokens exclude what was read from and written to the cache.
        (
            ("input", 21, Decimal(3)), ("cache read", 1800, Decimal("0.30")),
            ("cache write 5m", 187_986, Decimal("3.75")), ("cache write 1h", 100, Decimal(6)),
            ("output", 393, Decimal(15)), ("web search", 2, Decimal(10_000)),
        ),
    ),
    Answer(
        "google-generate-content", "google", "gemini-2.5-flash",
        {
            "modelVersion": "gemini-2.5-flash",
            "usageMetadata": {
                "promptTokenCount": 1500, "cachedContentTokenCount": 1024, "candidatesTokenCount": 210,
                "thoughtsTokenCount": 640, "toolUsePromptTokenCount": 90, "totalTokenCount": 2440,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1200},
                                        {"modality": "AUDIO", "tokenCount": 300}],
                "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 1024}],
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 210}],
                "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}],
            },
        },
        # Thoughts and the prompts of tools are beside the other counts; audio has a price of its own.
        (
            ("text", 1200 - 1024 + 90, Decimal("0.30")), ("audio", 300, Decimal(1)),
            ("cached", 1024, Decimal("0.03")), ("output", 210 + 640, Decimal("2.50")),
        ),
    ),
    Answer(
        "bedrock-converse", "aws", "anthropic.claude-sonnet-4-5-20250929-v1:0",
        {
            "stopReason": "end_turn", "metrics": {"latencyMs": 1275},
            "usage": {
                "inputTokens": 120, "outputTokens": 90, "totalTokens": 2710, "cacheReadInputTokens": 2000,
                "cacheWriteInputTokens": 500,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 200}, {"ttl": "5m", "inputTokens": 300}],
            },
        },
        (
            ("input", 120, Decimal("3.30")), ("cache read", 2000, Decimal("0.33")),
            ("cache write 5m", 300, Decimal("4.125")), ("cache write 1h", 200, Decimal("6.60")),
            ("output", 90, Decimal("16.50")),
        ),
    ),
    Answer(
        "mistral-chat", "mistral", "mistral-large-2512",
        {
            "id": "cmpl-1", "object": "chat.completion", "model": "mistral-large-2512",
            "usage": {"prompt_tokens": 79, "completion_tokens": 37, "total_tokens": 116,
                      "prompt_tokens_details": {"cached_tokens": 64}},
        },
        (("prompt", 15, Decimal("0.50")), ("cached", 64, Decimal("0.05")), ("completion", 37, Decimal("1.50"))),
    ),
]  # fmt: skip

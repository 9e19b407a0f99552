"""The callback for LiteLLM, with the real package in an environment of its own: its pins exclude ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import unavailable
from tests.publisher.helpers import spans
from tests.services import ROOT, Unavailable
from tests.services.environment import environment
from tests.services.provider import ProviderStandIn
from tokentrace import Publisher
from tokentrace.kafka.clients import EmbeddedBroker
from tokentrace.publisher.litellm_callback import _Callback

#: The oldest that pyproject.toml allows is not tested; the newest that pip finds is, once a cache.
PACKAGES = ("litellm", "confluent-kafka", "fastavro")


@pytest.fixture(scope="module")
def python(real_service: None) -> str:
    """The interpreter of an environment with LiteLLM."""
    try:
        return environment("litellm", PACKAGES)
    except Unavailable as error:
        unavailable(str(error))


def test_call_that_is_reported_twice_is_one_span(publisher: Publisher, broker: EmbeddedBroker, mock_topic: str) -> None:
    reports = _Callback(publisher, "app")
    start = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
    for call_id in ("a", "b"):
        kwargs = {"litellm_call_id": call_id, "model": "gpt-4o", "custom_llm_provider": "openai", "stream": True,
                  "completion_start_time": start + timedelta(seconds=1)}  # fmt: skip
        answer = {"usage": {"prompt_tokens": 7, "completion_tokens": 1}}
        reports.log_success_event(kwargs, answer, start, start + timedelta(seconds=3))
        asyncio.run(reports.async_log_success_event(kwargs, answer, start, start + timedelta(seconds=3)))
    reports.log_success_event({"model": "cached", "cache_hit": True}, None, start, start)
    reports.log_success_event({"model": "m"}, None, None, None)
    assert publisher.flush(10.0) == 0
    found = spans(broker.bootstrap_servers, mock_topic)
    assert sorted((span["span_id"], span["model"], span["ttft_ms"], span["cost_usd"]) for span in found) == [
        ("", "cached", None, 0.0), ("a", "gpt-4o", 1000.0, None), ("b", "gpt-4o", 1000.0, None),
    ]  # fmt: skip


def test_litellm_calls_become_spans_once(
    python: str, provider: ProviderStandIn, broker: EmbeddedBroker, mock_topic: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [python, str(ROOT / "tests" / "publisher" / "litellm_program.py"), provider.url, broker.bootstrap_servers,
         mock_topic],
        env={**os.environ, "PYTHONPATH": str(ROOT / "worker"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = spans(broker.bootstrap_servers, mock_topic)

    def brief(span: dict[str, Any]) -> tuple[Any, ...]:
        # Anthropic's prompt of 21 tokens, with what LiteLLM has added to it: 1800 read and 1000 written.
        counts = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens", "cache_write_tokens")
        assert span["caller"] == "app"
        return (span["model"], span["provider"], span["status"], *(span[name] for name in counts))

    openai = ("gpt-4o", "openai", "ok", 2006, 300, 1920, None)
    anthropic = ("claude-sonnet-4-6", "anthropic", "ok", 2821, 393, 1800, 1000)
    assert Counter(map(brief, found)) == {
        openai: 3,
        anthropic: 3,
        ("text-embedding-3-small", "openai", "ok", 8, 0, None, None): 1,
        ("limited", "openai", "error", None, None, None, None): 2,
        ("slow", "openai", "timeout", None, None, None, None): 2,
        ("cut", "openai", "error", None, None, None, None): 1,
    }, done.stderr[-3000:]
    streamed = [span for span in found if span["ttft_ms"] is not None]
    assert all(0 < span["ttft_ms"] < span["latency_ms"] for span in streamed)
    assert {"gpt-4o", "claude-sonnet-4-6"} <= {span["model"] for span in streamed}

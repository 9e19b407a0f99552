"""The exporter for OpenTelemetry, with its real SDK."""

from __future__ import annotations

from typing import Any

import pytest

from tests.publisher.helpers import spans
from tokentrace import Publisher
from tokentrace.kafka.clients import EmbeddedBroker
from tokentrace.publisher.otel import call_fields

trace = pytest.importorskip("opentelemetry.sdk.trace")

NEW = {
    "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06", "gen_ai.usage.input_tokens": 1200, "gen_ai.usage.output_tokens": 180,
    "gen_ai.usage.cache_read.input_tokens": 1024, "gen_ai.usage.reasoning.output_tokens": 64,
    "gen_ai.response.time_to_first_chunk": 0.25,
}  # fmt: skip
OLD = {"gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.prompt_tokens": 12,
       "gen_ai.usage.completion_tokens": 3, "llm.request.type": "chat"}  # fmt: skip
OPENINFERENCE = {"openinference.span.kind": "LLM", "llm.model_name": "claude-sonnet-4-5", "llm.provider": "anthropic",
                 "llm.token_count.prompt": 2000, "llm.token_count.completion": 20,
                 "llm.token_count.prompt_details.cache_read": 1500}  # fmt: skip


def exported(publisher: Publisher, broker: EmbeddedBroker, topic: str) -> list[dict[str, Any]]:
    assert publisher.flush(10.0) == 0
    assert publisher.stats.lost == {}
    return sorted(spans(broker.bootstrap_servers, topic), key=lambda span: span["started_at"])


def tracer(publisher: Publisher, **resource: str) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(BatchSpanProcessor(publisher.exporter()))
    return provider


def test_exporter_publishes_calls_and_leaves_out_what_wraps_them(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str
) -> None:
    provider = tracer(publisher, **{"service.name": "shop"})
    spans_of = provider.get_tracer("test")
    with spans_of.start_as_current_span("invoke_agent", attributes={**NEW, "gen_ai.operation.name": "invoke_agent"}):
        with spans_of.start_as_current_span("chat gpt-4o", attributes=NEW) as call:
            call.add_event("gen_ai.evaluation.result", {"gen_ai.evaluation.score.value": 0.75})
        with spans_of.start_as_current_span("GET /", attributes={"http.request.method": "GET"}):
            pass
    with spans_of.start_as_current_span("openai.chat", attributes=OLD):
        pass
    with spans_of.start_as_current_span("ChatAnthropic", attributes=OPENINFERENCE):
        pass
    provider.shutdown()
    first, second, third = exported(publisher, broker, mock_topic)
    expected = {"model": "gpt-4o", "provider": "openai", "caller": "shop", "prompt_tokens": 1200, "status": "ok",
                "completion_tokens": 180, "cached_prompt_tokens": 1024, "reasoning_tokens": 64, "ttft_ms": 250.0,
                "name": "chat gpt-4o", "attributes": {"eval.score": 0.75}}  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    context = call.get_span_context()
    assert (first["trace_id"], first["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert first["parent_span_id"] == f"{call.parent.span_id:016x}"
    assert (second["prompt_tokens"], second["completion_tokens"], second["provider"]) == (12, 3, "openai")
    assert (third["model"], third["prompt_tokens"], third["cached_prompt_tokens"]) == ("claude-sonnet-4-5", 2000, 1500)


def test_exporter_publishes_errors_without_their_text(
    publisher: Publisher, broker: EmbeddedBroker, mock_topic: str
) -> None:
    provider = tracer(publisher)
    spans_of = provider.get_tracer("test")
    failed = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
    with pytest.raises(ValueError, match="prompt"), spans_of.start_as_current_span("a", attributes=failed):
        raise ValueError("the prompt")
    with spans_of.start_as_current_span("b", attributes={**failed, "error.type": "openai.APITimeoutError"}):
        pass
    with spans_of.start_as_current_span("c", attributes={**failed, "gen_ai.usage.input_tokens": "many"}):
        pass
    provider.shutdown()
    found = exported(publisher, broker, mock_topic)
    assert [(span["status"], span["error"]) for span in found] == [
        ("error", "error"), ("timeout", "openai.APITimeoutError"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"gen_ai.request.model": "m"},
        {**NEW, "gen_ai.operation.name": "execute_tool"},
        {**OPENINFERENCE, "openinference.span.kind": "CHAIN"},
        {**OLD, "llm.request.type": "workflow"},
    ],
)
def test_spans_that_are_no_calls_are_left_out(attributes: dict[str, Any]) -> None:
    assert call_fields(attributes) is None

"""Messages of OTLP for tests, by the official protobuf classes, with the calls that must be read from them.

What a call is in each dialect is written here by hand, so that nothing is shared with the table that is tested.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

from tests.spanfactory import MODELS, NOW_US

#: Dialect -> (what says that it is a call, names of model, provider, prompt, completion, cached, reasoning tokens).
DIALECTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "genai": ({"gen_ai.operation.name": "chat"}, (
        "gen_ai.request.model", "gen_ai.provider.name", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
        "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.reasoning.output_tokens",
    )),
    "genai before operations": ({}, (
        "gen_ai.request.model", "gen_ai.system", "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens",
        "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.reasoning_tokens",
    )),
    "OpenInference": ({"openinference.span.kind": "LLM"}, (
        "llm.model_name", "llm.provider", "llm.token_count.prompt", "llm.token_count.completion",
        "llm.token_count.prompt_details.cache_read", "llm.token_count.completion_details.reasoning",
    )),
    "OpenLLMetry": ({"llm.request.type": "chat", "llm.usage.total_tokens": ""}, (
        "gen_ai.request.model", "gen_ai.system", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
        "gen_ai.usage.cache_read_input_tokens", "llm.usage.reasoning_tokens",
    )),
}  # fmt: skip
#: Attributes that a wrapper has besides the usage of the calls inside it.
WRAPPERS = (
    {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner"},
    {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"},
    {"openinference.span.kind": "CHAIN"},
    {"openinference.span.kind": "AGENT"},
    {"traceloop.span.kind": "workflow"},
)
SERVICES = ("", "shop", "search", "support-bot")


@dataclass
class OtherSpan:
    """A span to send. call: the fields that tokentrace must read of it, None where it is not a call."""

    attributes: dict[str, Any]
    call: dict[str, Any] | None = None
    trace_id: bytes = b""
    span_id: bytes = b""
    start_ns: int = 0
    end_ns: int = 0
    status: int = 0
    events: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)


def call(rng: random.Random, dialect: str | None = None) -> OtherSpan:
    """A call of a model, in any dialect."""
    kind, names = DIALECTS[dialect or rng.choice(list(DIALECTS))]
    model, provider = rng.choice(MODELS)
    prompt, completion = rng.randrange(0, 100_000), rng.randrange(2000)
    cached = rng.choice([None, 0, rng.randrange(prompt + 1)])
    reasoning = rng.choice([None, rng.randrange(completion + 1)])
    counts = (prompt, completion, cached, reasoning)
    attributes: dict[str, Any] = {"server.port": 443, "gen_ai.request.temperature": 0.5, "stream": True}
    attributes |= {name: value for name, value in kind.items() if value}
    attributes |= {
        name: value for name, value in zip(names, (model, provider, *counts), strict=True) if value is not None
    }
    total = None
    if "llm.usage.total_tokens" in kind:
        total = attributes["llm.usage.total_tokens"] = prompt + completion
    if rng.random() < 0.3:
        attributes["gen_ai.response.model"] = f"{model}-2026"
    start_ns = NOW_US * 1000 - rng.randrange(10**12)
    end_ns = start_ns + rng.randrange(1, 10**11)
    expected = {
        "model": model.encode(), "provider": provider.encode(), "prompt_tokens": prompt,
        "completion_tokens": completion, "cached_prompt_tokens": cached, "reasoning_tokens": reasoning,
        "total_tokens": total, "started_at_us": start_ns // 1000, "ended_at_us": end_ns // 1000,
        "latency_ms": (end_ns - start_ns) / 1e6,
    }  # fmt: skip
    span = OtherSpan(attributes, expected, rng.randbytes(16), rng.randbytes(8), start_ns, end_ns)
    if rng.random() < 0.1:
        span.attributes["error.type"] = rng.choice(["openai.APITimeoutError", "500"])
        span.status, expected["status"] = 2, "timeout" if "Timeout" in span.attributes["error.type"] else "error"
    if rng.random() < 0.1:
        span.events.append(("gen_ai.evaluation.result", end_ns, {"gen_ai.evaluation.score.value": 0.25}))
        expected["eval_score"] = 0.25
    if rng.random() < 0.2:
        span.attributes["gen_ai.response.time_to_first_chunk"] = 0.125
        expected["ttft_ms"] = 125.0
    if rng.random() < 0.2:
        span.attributes["openai.response.service_tier"] = "default"
        expected["service_tier"] = b"default"
    if rng.random() < 0.2:
        span.attributes["gen_ai.usage.audio.input_tokens"] = 3
        expected["audio_prompt_tokens"] = 3
    expected["trace_id"], expected["span_id"] = span.trace_id, span.span_id
    return span


def other(rng: random.Random) -> OtherSpan:
    """A span that is not a call: of a server or a database, or a wrapper that repeats the usage of a call."""
    if rng.random() < 0.5:
        attributes = {
            "http.request.method": "GET",
            "url.full": f"http://shop/{rng.randrange(10**6)}",
            "http.status": 200,
        }
        return OtherSpan(attributes, None, rng.randbytes(16), rng.randbytes(8), NOW_US * 1000, NOW_US * 1000 + 5)
    inner = call(rng, "genai")
    inner.attributes |= {"gen_ai.operation.name": ""} | rng.choice(WRAPPERS)
    inner.call = None
    return inner


def any_value(value: Any) -> AnyValue:
    """An attribute's value."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=map(any_value, value)))
    if isinstance(value, dict):
        return AnyValue(kvlist_value=KeyValueList(values=key_values(value)))
    return AnyValue(string_value=value) if value is not None else AnyValue()


def key_values(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def to_proto(span: OtherSpan) -> Span:
    """The span as the official class has it."""
    return Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        name="POST /v1/chat/completions",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=key_values(span.attributes),
        status=Status(code=span.status) if span.status else None,
        events=[Span.Event(name=n, time_unix_nano=t, attributes=key_values(a)) for n, t, a in span.events],
        flags=256,
    )


def traces(groups: Sequence[tuple[str, Sequence[OtherSpan]]], per_scope: int = 3) -> TracesData:
    """Spans by service, in scopes of a few."""
    data = TracesData()
    for service, spans in groups:
        resource = ResourceSpans(schema_url="https://opentelemetry.io/schemas/1.38.0")
        resource.resource.attributes.extend(
            key_values({"telemetry.sdk.language": "python", **({"service.name": service} if service else {})})
        )
        for first in range(0, len(spans), per_scope):
            scope = ScopeSpans(spans=map(to_proto, spans[first : first + per_scope]))
            scope.scope.name = "an.instrumentation"
            resource.scope_spans.append(scope)
        data.resource_spans.append(resource)
    return data


def random_traces(rng: random.Random, calls: float = 0.3, most: int = 12) -> tuple[TracesData, list[OtherSpan]]:
    """A message, and its spans in order; the expected calls have their caller."""
    groups = []
    for _ in range(rng.randrange(1, 4)):
        service = rng.choice(SERVICES)
        spans = [call(rng) if rng.random() < calls else other(rng) for _ in range(rng.randrange(most))]
        for span in spans:
            if span.call is not None:
                span.call["caller"] = service.encode()
        groups.append((service, spans))
    return traces(groups), [span for _, spans in groups for span in spans]


def to_json(data: TracesData) -> bytes:
    """The message as OTLP has it in JSON: ids in hex, 64-bit numbers as text."""

    def value(item: AnyValue) -> dict[str, Any]:
        match item.WhichOneof("value"):
            case "string_value":
                return {"stringValue": item.string_value}
            case "bool_value":
                return {"boolValue": item.bool_value}
            case "int_value":
                return {"intValue": str(item.int_value)}
            case "double_value":
                return {"doubleValue": item.double_value}
            case "bytes_value":
                return {"bytesValue": base64.b64encode(item.bytes_value).decode()}
            case "array_value":
                return {"arrayValue": {"values": [value(inner) for inner in item.array_value.values]}}
            case "kvlist_value":
                return {"kvlistValue": {"values": attributes(item.kvlist_value.values)}}
        return {}

    def attributes(items: Any) -> list[dict[str, Any]]:
        return [{"key": item.key, "value": value(item.value)} for item in items]

    def span(item: Span) -> dict[str, Any]:
        return {
            "traceId": item.trace_id.hex(), "spanId": item.span_id.hex(), "name": item.name, "kind": item.kind,
            "startTimeUnixNano": str(item.start_time_unix_nano), "endTimeUnixNano": str(item.end_time_unix_nano),
            "attributes": attributes(item.attributes), "status": {"code": item.status.code} if item.status.code else {},
            "events": [
                {"name": event.name, "timeUnixNano": str(event.time_unix_nano),
                 "attributes": attributes(event.attributes)}
                for event in item.events
            ],
        }  # fmt: skip

    resources = [
        {
            "resource": {"attributes": attributes(resource.resource.attributes)},
            "scopeSpans": [
                {"scope": {"name": scope.scope.name}, "spans": [span(item) for item in scope.spans]}
                for scope in resource.scope_spans
            ],
        }
        for resource in data.resource_spans
    ]
    return json.dumps({"resourceSpans": resources}).encode()

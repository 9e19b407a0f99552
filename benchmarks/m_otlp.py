"""(m) Spans of OpenTelemetry: decoding messages of the Collector, of which most spans are not calls of a model.

Beside it, the official protobuf classes, whose parser is compiled (upb), and Python that reads the fields of calls from
them. Both find the same calls. Everything is warm.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, TracesData

from tokentrace.decode.otlp.decoder import OtlpDecoder
from tokentrace.runtime.allocator import tune_malloc

from .effort import Effort
from .measure import Figure, Row, in_turns, rate_of

#: Spans of a message, and resources among which they are.
SPANS, RESOURCES = 50, 2
#: Messages of a batch: seven megabytes.
BATCH = 400
#: Share of the spans that are calls.
CALLS = {"a tenth calls": 0.1, "no calls": 0.0, "all calls": 1.0}
START_NS = 1_790_000_000_000_000_000


def run(effort: Effort) -> Figure:
    """Each share of calls, and the aim for the first."""
    tune_malloc()  # As a worker does.
    rows, results = [], {}
    for name, share in CALLS.items():
        messages = _messages(effort.spans // SPANS, share)
        few = messages[: max(effort.baseline_spans // SPANS, 1)]
        decoder = OtlpDecoder()
        assert len(decoder.decode(few, as_json=False).spans) == _with_upb(few)
        batches = [messages[first : first + BATCH] for first in range(0, len(messages), BATCH)]
        speed, upb = in_turns(
            effort.repeats,
            rate_of(lambda b=batches, d=decoder: _decode(d, b), len(messages) * SPANS),  # type: ignore[misc]
            rate_of(lambda m=few: _with_upb(m), len(few) * SPANS),  # type: ignore[misc]
        )
        size = sum(map(len, messages)) / len(messages) / SPANS
        main = name == "a tenth calls"
        rows.append(
            Row(
                f"{name}, {size:.0f} bytes a span, {SPANS} a message",
                speed.text(" M spans/s", 1e6),
                speed.over(upb).text(),
                "protobuf (upb) + Python",
                ">= 5" if main else "",
            )
        )
        if main:
            results = {"spans_per_s": speed.median, "vs_upb": speed.over(upb).median}
    return Figure("m OpenTelemetry", rows, {"otlp": results})


def _decode(decoder: OtlpDecoder, batches: Sequence[Sequence[bytes]]) -> None:
    for batch in batches:
        decoder.decode(batch, as_json=False)


@cache
def _messages(count: int, share: float) -> Sequence[bytes]:
    rng = random.Random(round(share * 100))
    return [_message(rng, share) for _ in range(max(count, 1))]


def _message(rng: random.Random, share: float) -> bytes:
    data = TracesData()
    for _ in range(RESOURCES):
        resource = ResourceSpans()
        resource.resource.attributes.extend(_attributes({"service.name": f"service-{rng.randrange(8)}"}))
        spans = [_span(rng, rng.random() < share) for _ in range(SPANS // RESOURCES)]
        resource.scope_spans.append(ScopeSpans(spans=spans))
        data.resource_spans.append(resource)
    encoded: bytes = data.SerializeToString()
    return encoded


def _span(rng: random.Random, is_call: bool) -> Span:
    attributes: dict[str, str | int | float] = {
        "http.request.method": "GET", "url.full": f"http://shop.example/items/{rng.randrange(10**6)}",
        "http.response.status_code": 200, "server.address": "shop.example", "server.port": 8080,
        "network.protocol.version": "1.1", "user_agent.original": "Mozilla/5.0", "http.route": "/items/{id}",
    }  # fmt: skip
    if is_call:
        attributes = {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024-08-06", "gen_ai.response.id": f"chatcmpl-{rng.randrange(10**9)}",
            "gen_ai.usage.input_tokens": rng.randrange(9000), "gen_ai.usage.output_tokens": rng.randrange(900),
            "gen_ai.usage.cache_read.input_tokens": rng.randrange(100), "gen_ai.request.max_tokens": 500,
            "gen_ai.request.temperature": 0.5, "server.address": "api.openai.com", "server.port": 443,
            "gen_ai.output.type": "text",
        }  # fmt: skip
    start_ns = START_NS + rng.randrange(10**12)
    return Span(
        trace_id=rng.randbytes(16), span_id=rng.randbytes(8), name="chat gpt-4o" if is_call else "GET /items/{id}",
        kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=start_ns, end_time_unix_nano=start_ns + 10**9,
        attributes=_attributes(attributes), flags=256,
    )  # fmt: skip


def _attributes(values: dict[str, str | int | float]) -> list[KeyValue]:
    kinds = {str: "string_value", int: "int_value", float: "double_value"}
    found = []
    for key, value in values.items():
        item = AnyValue()
        setattr(item, kinds[type(value)], value)
        found.append(KeyValue(key=key, value=item))
    return found


def _with_upb(messages: Sequence[bytes]) -> int:
    """Return the number of calls, after reading the fields of each as a consumer in Python does."""
    calls = []
    for message in messages:
        data = TracesData()
        data.ParseFromString(message)
        for resource in data.resource_spans:
            about = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    found = {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}
                    if found.get("gen_ai.operation.name") == "chat":
                        calls.append(
                            (
                                about.get("service.name"), found["gen_ai.request.model"], found["gen_ai.provider.name"],
                                found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"],
                                found["gen_ai.usage.cache_read.input_tokens"], span.start_time_unix_nano,
                                span.end_time_unix_nano, span.trace_id, span.span_id, span.status.code,
                            )
                        )  # fmt: skip
    return len(calls)

"""OpenTelemetry: an exporter that publishes the GenAI spans of an application's own tracing as spans of tokentrace.

It reads the GenAI conventions, old names included, OpenInference and OpenLLMetry. Spans that are not of models are
left out, and those of agents, tools and workflows, whose usage repeats that of the calls inside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokentrace.publisher.publisher import Publisher

#: Field of the span -> attributes that give it, of which the first that is there counts.
ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
    "prompt_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt",
                      "llm.usage.prompt_tokens"),
    "completion_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens",
                          "llm.token_count.completion", "llm.usage.completion_tokens"),
    "total_tokens": ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    "cached_prompt_tokens": ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens",
                             "llm.token_count.prompt_details.cache_read"),
    "cache_write_tokens": ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens",
                           "llm.token_count.prompt_details.cache_write"),
    "reasoning_tokens": ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens",
                         "llm.token_count.completion_details.reasoning"),
    "audio_prompt_tokens": ("llm.token_count.prompt_details.audio",),
    "audio_completion_tokens": ("llm.token_count.completion_details.audio",),
    "service_tier": ("openai.response.service_tier", "gen_ai.openai.response.service_tier"),
}  # fmt: skip
MODEL: Final = ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "embedding.model_name")
OPERATION: Final = ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind")
#: Operations whose spans are calls of a model, in small letters; any other is a wrapper, a tool or a retrieval.
CALLS: Final = frozenset(
    {"chat", "text_completion", "completion", "generate_content", "embeddings", "embedding", "llm", "rerank",
     "speech", "transcription", "image_generation"}
)  # fmt: skip
#: Microseconds of a nanosecond.
_NANOS: Final = 1000


class TokentraceExporter:
    """Exporter for `BatchSpanProcessor`. `Publisher.exporter` makes it."""

    def __init__(self, publisher: Publisher, caller: str) -> None:
        """caller: of every span; empty takes the resource's service.name."""
        self._publisher, self._caller = publisher, caller

    def export(self, spans: Sequence[Any]) -> Any:
        """Publish the calls of models among the spans."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        for span in spans:
            try:
                found = self._span(span)
                if found is not None:
                    self._publisher.publish(found)
            except Exception as error:
                self._publisher.failed("OpenTelemetry span", error)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Deliver what is queued. The publisher stays open, which others may use."""
        self._publisher.flush()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Deliver what is queued; False if some of it is left."""
        return self._publisher.flush(timeout_millis / 1000) == 0

    def _span(self, span: Any) -> dict[str, Any] | None:
        fields = call_fields(span.attributes or {})
        if fields is None:
            return None
        context, parent = span.context, span.parent
        known = self._publisher.known_fields
        return {
            **{name: value for name, value in fields.items() if name in known},
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "parent_span_id": None if parent is None else f"{parent.span_id:016x}",
            "name": span.name,
            "caller": self._caller or str(span.resource.attributes.get("service.name") or ""),
            "started_at": span.start_time // _NANOS,
            "ended_at": span.end_time // _NANOS,
            "latency_ms": (span.end_time - span.start_time) / 1e6,
            **_outcome(span),
            "attributes": _score(span.events),
        }


def call_fields(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fields that attributes give of a call of a model; None if they are of something else."""
    operation = _first(attributes, OPERATION)
    model = _first(attributes, MODEL)
    if not isinstance(model, str) or not model:
        return None
    if operation is not None and str(operation).lower() not in CALLS:
        return None
    fields: dict[str, Any] = {"model": model}
    for field, names in ATTRIBUTES.items():
        value = _first(attributes, names)
        if value is not None:
            fields[field] = value if field in ("provider", "service_tier") else int(value)
    # Spans of OpenInference and OpenLLMetry that name a model without a kind: chains and the like have no usage.
    if operation is None and not {"prompt_tokens", "completion_tokens", "total_tokens"} & fields.keys():
        return None
    seconds = attributes.get("gen_ai.response.time_to_first_chunk")
    if seconds is not None:
        fields["ttft_ms"] = float(seconds) * 1000
    return fields


def _first(attributes: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _outcome(span: Any) -> dict[str, Any]:
    """Status and error of a span. error.type is a name; a description may quote a prompt."""
    kind = str((span.attributes or {}).get("error.type") or "")
    if not kind and span.status.status_code.name != "ERROR":
        return {"status": "ok"}
    timeout = any(word in kind.lower() for word in ("timeout", "timed_out", "deadline"))
    return {"status": "timeout" if timeout else "error", "error": kind or "error"}


def _score(events: Iterable[Any]) -> dict[str, Any]:
    """The quality score of the answer, where an evaluation is an event of the span."""
    for event in events:
        value = (event.attributes or {}).get("gen_ai.evaluation.score.value")
        if event.name == "gen_ai.evaluation.result" and isinstance(value, (int, float)) and 0 <= value <= 1:
            return {"eval.score": value}
    return {}

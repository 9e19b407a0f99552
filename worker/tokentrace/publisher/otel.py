"""OpenTelemetry: an exporter that publishes the GenAI spans of an application's own tracing as spans of tokentrace.

It reads the GenAI conventions, old names included, OpenInference and OpenLLMetry. Spans that are not of models are
left out, and those of agents, tools and workflows, whose usage repeats that of the calls inside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from tokentrace.model.otel_calls import call_fields, score_of, status_of
from tokentrace.model.units import BY_NAME

if TYPE_CHECKING:
    from tokentrace.publisher.publisher import Publisher

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
        if fields is None or "model" not in fields:
            return None
        context, parent = span.context, span.parent
        known = self._publisher.known_fields
        error = fields.pop("error", None)
        if "ttft" in fields:
            fields["ttft_ms"] = fields["ttft"] * 1000
        score = fields.get("eval_score", _score(span.events))
        units = {name: float(count) for name, count in fields.items() if name in BY_NAME and name not in known}
        return {
            **{name: value for name, value in fields.items() if name in known},
            **({"usage": units} if units and "usage" in known else {}),
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "parent_span_id": None if parent is None else f"{parent.span_id:016x}",
            "name": span.name,
            "caller": self._caller or str(span.resource.attributes.get("service.name") or ""),
            "started_at": span.start_time // _NANOS,
            "ended_at": span.end_time // _NANOS,
            "latency_ms": (span.end_time - span.start_time) / 1e6,
            **_outcome(span, error),
            "attributes": {} if score is None else {"eval.score": score},
        }


def _outcome(span: Any, error: str | None) -> dict[str, Any]:
    """Status and error of a span. error.type is a name; a description may quote a prompt."""
    status = status_of(error, span.status.status_code.name == "ERROR")
    return {"status": status} if status == "ok" else {"status": status, "error": error or "error"}


def _score(events: Iterable[Any]) -> float | None:
    """The quality score of the answer, where an evaluation is an event of the span."""
    scores = (score_of(event.name, event.attributes or {}) for event in events)
    return next((score for score in scores if score is not None and 0 <= score <= 1), None)

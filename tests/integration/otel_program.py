"""An application that calls models and is traced with OpenTelemetry, by an instrumentation that somebody else wrote.

    python -m tests.integration.otel_program INSTRUMENTATION COLLECTOR PROVIDER

It knows nothing of tokentrace. Each span that it sends is printed too, as JSON, for a recount.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from typing import Any

from openai import OpenAI, OpenAIError
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

#: Name -> (module, class) of the instrumentation.
INSTRUMENTATIONS = {
    "openinference": ("openinference.instrumentation.openai", "OpenAIInstrumentor"),
    "openllmetry": ("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
}
HELLO: Any = [{"role": "user", "content": "Hi"}]


class Printer(SpanProcessor):
    """Prints what is sent."""

    def on_end(self, span: ReadableSpan) -> None:
        status = span.status.status_code.name
        print(
            json.dumps({"name": span.name, "status": status, "attributes": dict(span.attributes or {})}, default=list)
        )


def main(name: str, collector: str, url: str) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": f"shop-{name}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces")))
    provider.add_span_processor(Printer())
    trace.set_tracer_provider(provider)
    module, kind = INSTRUMENTATIONS[name]
    instrumentor = getattr(importlib.import_module(module), kind)
    # What prompts and answers say is nobody's business here.
    instrumentor().instrument(tracer_provider=provider)
    client = OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
    tracer = provider.get_tracer("application")
    for turn in range(3):
        # An agent's span has the usage of the calls inside it again.
        agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "gpt-4o",
                 "gen_ai.usage.input_tokens": 4012, "gen_ai.usage.output_tokens": 600}  # fmt: skip
        with tracer.start_as_current_span("invoke_agent", attributes=agent):
            client.chat.completions.create(model="gpt-4o", messages=HELLO)
            with tracer.start_as_current_span("GET /stock", attributes={"http.request.method": "GET"}):
                pass
            stream = client.chat.completions.create(
                model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
            for _ in stream:
                pass
        if turn == 0:
            with contextlib.suppress(OpenAIError):
                client.chat.completions.create(model="broken", messages=HELLO)
    provider.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])

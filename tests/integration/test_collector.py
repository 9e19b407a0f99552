"""A real OpenTelemetry Collector in front of a real Kafka: applications that know nothing of tokentrace are counted."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import unavailable
from tests.docs.blocks import blocks
from tests.integration.test_group import counted, nonzero
from tests.integration.test_otlp import audit, sections
from tests.oracle import recount
from tests.services import ROOT, Unavailable
from tests.services.collector import Collector, built
from tests.services.kafka import KafkaBroker
from tests.services.provider import ProviderStandIn
from tests.services.workers import WorkerProcess, span_totals, wait_for
from tests.spanfactory import span

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

#: Instrumentation -> where a call of it has each field.
FIELDS: dict[str, dict[str, str]] = {
    "openinference": {
        "model": "llm.model_name", "provider": "llm.system", "prompt_tokens": "llm.token_count.prompt",
        "completion_tokens": "llm.token_count.completion", "total_tokens": "llm.token_count.total",
        "cached_prompt_tokens": "llm.token_count.prompt_details.cache_read",
        "reasoning_tokens": "llm.token_count.completion_details.reasoning",
        "audio_prompt_tokens": "llm.token_count.prompt_details.audio",
        "audio_completion_tokens": "llm.token_count.completion_details.audio",
    },
    "openllmetry": {
        "model": "gen_ai.request.model", "provider": "gen_ai.provider.name",
        "prompt_tokens": "gen_ai.usage.input_tokens", "completion_tokens": "gen_ai.usage.output_tokens",
        "total_tokens": "gen_ai.usage.total_tokens", "cached_prompt_tokens": "gen_ai.usage.cache_read.input_tokens",
        "reasoning_tokens": "gen_ai.usage.reasoning_tokens",
    },
}  # fmt: skip
#: Histograms of what only the spans' own clocks say.
TIMED = ("tokentrace_latency_ms", "tokentrace_ttft_ms")


@pytest.fixture
def provider() -> Iterator[ProviderStandIn]:
    server = ProviderStandIn()
    yield server
    server.stop()


def run_application(name: str, collector: Collector, provider: ProviderStandIn) -> list[dict[str, Any]]:
    """Run the application to its end; return what it has sent."""
    command = [sys.executable, "-m", "tests.integration.otel_program", name, collector.url, provider.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def call_of(sent: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The call that a span is, read by hand; None for the application's own spans."""
    if sent["name"] in ("invoke_agent", "GET /stock"):
        return None
    found = {field: sent["attributes"].get(key) for field, key in FIELDS[name].items()}
    if found["model"] is None:
        found["model"] = json.loads(sent["attributes"]["llm.invocation_parameters"])["model"]
    failed = sent["status"] == "ERROR" or "error.type" in sent["attributes"]
    fields = dict.fromkeys(("prompt_tokens", "completion_tokens"))
    status = "error" if failed else "ok"
    return span(**{**fields, **found, "provider": found["provider"] or "", "caller": f"shop-{name}", "status": status})


@pytest.mark.nightly
def test_collector_accepts_the_configuration_of_the_page(tmp_path: Path) -> None:
    try:
        program = built()
    except Unavailable as error:
        unavailable(str(error))
    (config,) = [block.text for block in blocks() if block.text.startswith("receivers:")]
    path = tmp_path / "collector.yaml"
    path.write_text(config)
    done = subprocess.run(
        [str(program), "validate", "--config", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize(("encoding", "framing"), [("otlp_proto", "otlp_proto"), ("otlp_json", "auto")])
def test_calls_of_public_instrumentations_are_counted_without_a_line_of_code(
    kafka: KafkaBroker, start_worker: Callable[..., WorkerProcess], provider: ProviderStandIn, tmp_path: Path,
    encoding: str, framing: str,
) -> None:  # fmt: skip
    topic = kafka.create_topic(f"traces-{uuid.uuid4().hex[:8]}", 2)
    try:
        collector = Collector(tmp_path / "collector", kafka.bootstrap, topic, encoding)
    except Unavailable as error:
        unavailable(str(error))
    collector.start()
    try:
        sent = {name: run_application(name, collector, provider) for name in FIELDS}
    finally:
        collector.stop()
    calls = [call for name, spans in sent.items() for one in spans if (call := call_of(one, name)) is not None]
    # Every request was answered, and has one span.
    assert len(calls) == len(provider.requests) == 14
    configured = sections(kafka, topic, "one")
    configured["kafka"]["framing"] = framing
    worker = start_worker(**configured)
    spans = sum(map(len, sent.values()))
    assert wait_for(lambda: audit([worker])["spans"] == spans), (audit([worker]), spans)
    found = audit([worker])
    assert (found["counted_records"], found["ignored_spans"], found["rejected_records"]) == (14, 12, 0)
    assert counted(worker) == 14

    def comparable(totals: dict[Any, int]) -> dict[Any, int]:
        return {key: number for key, number in nonzero(totals).items() if not key[0].startswith(TIMED)}

    assert comparable(span_totals([worker])) == comparable(recount(calls))

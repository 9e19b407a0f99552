"""The FastAPI program of docs/publishing.md, with the real package in an environment of its own, against a stand-in."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import unavailable
from tests.integration.test_publishing import program
from tests.publisher.helpers import spans
from tests.services import ROOT, Unavailable, free_port
from tests.services.environment import environment
from tests.services.provider import WORDS, ProviderStandIn
from tokentrace.kafka.clients import EmbeddedBroker

PACKAGES = ("fastapi", "uvicorn", "openai", "confluent-kafka", "fastavro")
#: Lines of the program that an application has for tokentrace.
OURS = ("from tokentrace import Publisher", "publisher = Publisher(", "client = publisher.wrap(")


@pytest.fixture(scope="module")
def python(real_service: None) -> str:
    """The interpreter of an environment with FastAPI."""
    try:
        return environment("fastapi", PACKAGES)
    except Unavailable as error:
        unavailable(str(error))


def test_streamed_answers_of_a_fastapi_server_are_spans(
    python: str, provider: ProviderStandIn, broker: EmbeddedBroker, mock_topic: str, tmp_path: Path
) -> None:
    path, port = program("web_server", tmp_path), free_port()
    lines = [line for line in path.read_text().splitlines() if "publisher" in line.lower()]
    assert len(lines) == len(OURS)
    assert all(line.startswith(ours) for line, ours in zip(lines, OURS, strict=True))
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "worker"), "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": f"{provider.url}/v1", "TOKENTRACE_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "TOKENTRACE_TOPIC": mock_topic,
    }  # fmt: skip
    server = subprocess.Popen(
        [python, "-m", "uvicorn", f"{path.stem}:app", "--port", str(port), "--log-level", "warning"],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(3):
            assert _answer(server, port, "Hi there") == "".join(WORDS)
    finally:
        server.terminate()
        _, error = server.communicate(timeout=30)
    assert error == ""
    found = spans(broker.bootstrap_servers, mock_topic)
    names = ("model", "caller", "status", "prompt_tokens", "completion_tokens")
    assert [tuple(span[name] for name in names) for span in found] == [("gpt-4o", "support-bot", "ok", 2006, 300)] * 3
    assert all(span["ttft_ms"] and span["ttft_ms"] <= span["latency_ms"] for span in found)


def _answer(server: subprocess.Popen[str], port: int, question: str) -> str:
    deadline = time.monotonic() + 180
    while True:
        assert server.poll() is None, server.communicate()[1]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", f"/ask?question={quote(question)}")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            connection.close()

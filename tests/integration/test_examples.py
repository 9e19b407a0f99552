"""The programs of examples/, built and run as their README says, on a real Kafka, and counted by a real worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracle import computed_nano_usd, key
from tests.services import ROOT
from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, span_totals, wait_for

#: Framing -> spans: many in the one that an application should use, beyond what a producer's queue holds.
COUNTS = {"avro": 150_000, "json": 20_000}
EXAMPLES = ROOT / "examples"
#: Language -> (its tools, how its example is built, how it is run); the README has the same.
PROGRAMS = {
    "node": (("node", "npm"), "npm install", "node main.js"),
    "go": (("go",), "go build -o main .", "./main"),
    "java": (("java", "mvn"), "mvn package", 'java -cp "target/*:target/lib/*" Main'),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def program(real_service: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an example that is built."""
    language = request.param
    tools, build, _ = PROGRAMS[language]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    folder = tmp_path_factory.mktemp("examples") / language
    shutil.copytree(EXAMPLES / language, folder, ignore=shutil.ignore_patterns("node_modules", "target"))
    done = subprocess.run(build, shell=True, cwd=folder, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_readme_says_how_the_programs_are_built_and_run() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for _, build, run in PROGRAMS.values():
        assert f"`{build} && {run}`" in page


@pytest.mark.parametrize(("framing", "count"), COUNTS.items())
def test_program_publishes_spans_that_are_counted_exactly(
    program: Path, framing: str, count: int, kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    environment = {
        **os.environ,
        "KAFKA": kafka.bootstrap,
        "TOPIC": topic,
        "COUNT": str(count),
        "FRAMING": framing,
        "SCHEMA": str(ROOT / "schemas" / "span.avsc"),
    }
    run = PROGRAMS[program.name][2]
    done = subprocess.run(
        run, shell=True, cwd=program, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert re.search(rf"^delivered {count}, lost 0$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    worker = start_worker(
        kafka={
            "bootstrap_servers": kafka.bootstrap,
            "topic": topic,
            "group_id": topic,
            "framing": "json" if framing == "json" else "auto",
        }
    )
    two = {"model": "gpt-4o", "provider": "openai"}
    three = {**two, "caller": program.name}
    price = sum(
        computed_nano_usd("gpt-4o", "openai", 1000 + number, 512, 50, 1_790_000_000_000_000) or 0
        for number in range(100)
    )
    expected = {
        key("tokentrace_spans_total", status="ok", **two): count,
        key("tokentrace_tokens_total", token_type="prompt", **three): count * 1000 + count // 100 * sum(range(100)),
        key("tokentrace_tokens_total", token_type="completion", **three): count * 50,
        key("tokentrace_cached_prompt_tokens_total", **three): count * 512,
        key("tokentrace_cost_total", **three): count // 100 * price,
    }
    assert wait_for(lambda: {series: span_totals([worker]).get(series) for series in expected} == expected)

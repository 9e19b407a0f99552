"""The commands, as a user runs them: demo, produce and top."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.services.kafka import KafkaBroker
from tests.services.workers import WorkerProcess, wait_for, write_config

#: Until the demo shows figures, on a busy machine. Without load it takes less than ten seconds (2026-11).
LIVE_S = 120.0
COMMAND = [sys.executable, "-m", "tokentrace"]


def test_the_demo_ends_with_one_json_object_that_says_exact() -> None:
    command = [*COMMAND, "demo", "--duration", "6s", "--rate", "300", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["exact"] is True
    assert result["differences"] == {}
    assert result["produced"] == result["counted"] + result["rejected"]
    assert result["produced"] > 1000
    assert result["rejected"] > 0
    assert result["cost_counted_nano_usd"] == result["cost_produced_nano_usd"] > 0
    assert result["tokens_counted"] == result["tokens_produced"] > 0
    assert "counts at least once" in done.stderr
    assert "curl -s http://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr


def test_demos_that_start_together_each_have_a_port() -> None:
    command = [*COMMAND, "demo", "--duration", "1s", "--rate", "50"]
    demos = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [demo.communicate(timeout=120)[1] for demo in demos]
    assert [demo.returncode for demo in demos] == [0, 0, 0], said
    urls = {next(word for word in text.split() if word.startswith("http://")) for text in said}
    assert len(urls) == 3


def test_the_demo_soon_serves_live_numbers_and_draws_them_on_a_terminal() -> None:
    """On a pseudo-terminal, as a user has it."""
    began = time.monotonic()
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "demo", "--duration", "180s"], stdout=theirs, stderr=theirs, stdin=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while b"gpt-4o-mini" not in shown:
            assert time.monotonic() - began < LIVE_S, shown.decode(errors="replace")
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65536)
        url = next(word for word in shown.decode().split() if word.startswith("http://"))
        with urllib.request.urlopen(url, timeout=60) as response:
            assert b"tokentrace_cost_total{" in response.read()
        process.send_signal(2)
        deadline = time.monotonic() + 180
        while process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    shown += os.read(terminal, 65536)
                except OSError:
                    break
        assert process.wait(180.0) == 0
        assert b"Exact:" in shown
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_produce_and_top_speak_of_the_same_numbers(
    kafka: KafkaBroker, topic: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    sections = {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": topic, "group_id": topic}}
    worker = start_worker(**sections)
    config = write_config(tmp_path / "produce.yml", sections, "producer")
    command = [*COMMAND, "produce", "--config", str(config), "--rate", "0", "--count", "2500", "--seed", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Produced 2,500 spans to {topic} in ")
    assert wait_for(lambda: sum(v for (n, _), v in worker.samples().items() if n == "tokentrace_spans_total") == 2500)
    command = [*COMMAND, "top", worker.target, "--once", "--interval", "200ms"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.split()[:1] == ["all"])
    assert line.split()[1] == "2,500"
    cost = sum(v for (n, _), v in worker.samples().items() if n == "tokentrace_cost_total")
    assert f"${cost:,.2f}" in line


def test_produce_without_a_topic_says_what_to_change(kafka: KafkaBroker, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yml", {"kafka": {"bootstrap_servers": kafka.bootstrap, "topic": "none"}}, "p")
    command = [*COMMAND, "produce", "--config", str(config), "--count", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("tokentrace: Topic 'none' cannot be written")


def test_alerts_list_before_the_first_worker_says_who_creates_the_topic(kafka: KafkaBroker, tmp_path: Path) -> None:
    rules = [{"name": "spend", "metric": "total_cost", "op": "gt", "threshold": 1, "window": "5m"}]
    sections = {"kafka": {"bootstrap_servers": kafka.bootstrap, "group_id": "nobody"}, "alerts": rules}
    command = [*COMMAND, "alerts", "list", "--config", str(write_config(tmp_path / "c.yml", sections, "p"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tokentrace: Topic 'nobody.alerts' does not exist; a worker with alert rules creates it when it starts.\n"
    )


def test_top_says_why_no_replica_answers() -> None:
    done = subprocess.run(
        [*COMMAND, "top", "127.0.0.1:1", "--once"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("tokentrace: No replica answers: http://127.0.0.1:1/metrics/prometheus: ")

"""The first five minutes: docs/quick-start.md from the wheel alone, in an empty home, each command as it stands."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.docs.blocks import blocks_of
from tests.services import ROOT, end
from tests.services.kafka import KafkaBroker

pytestmark = pytest.mark.nightly

#: Time that the page promises, and the longest for which a command says nothing.
FIVE_MINUTES_S = 300.0
SILENT_S = 5.0
TOPIC = "llm-spans"
#: Port of the page's worker, which every command names.
PORT = 9090


class Newcomer:
    """Somebody with an empty home, a folder and a virtual environment. report: command, seconds, longest silence."""

    def __init__(self, folder: Path) -> None:
        self.folder, home = folder / "work", folder / "home"
        self.folder.mkdir()
        home.mkdir()
        self.venv = folder / "venv"
        kept = {
            name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_", "http", "HTTP", "no_"))
        }
        self.environment = {**kept, "HOME": str(home), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        self.environment["PATH"] = f"{self.venv / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        self.report: list[tuple[str, float, float]] = []

    def run(self, command: str, typed: str = "") -> str:
        """Run a command of the shell on a terminal, with what is typed; return what it prints."""
        terminal, theirs = pty.openpty()
        began_s = heard_s = time.monotonic()
        silence_s, shown = 0.0, b""
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.write(terminal, typed.encode())
        try:
            while time.monotonic() < began_s + FIVE_MINUTES_S:
                if not select.select([terminal], [], [], 0.05)[0]:
                    continue
                part = b""
                # The terminal ends with its last writer.
                with suppress(OSError):
                    part = os.read(terminal, 65536)
                now_s = time.monotonic()
                silence_s, heard_s = max(silence_s, now_s - heard_s), now_s
                shown += part
                if not part:
                    break
            code = process.wait(180.0)
        finally:
            end(process)
            os.close(terminal)
        text = shown.decode(errors="replace")
        assert code == 0, f"{command}: {text[-3000:]}"
        self.report.append((command, time.monotonic() - began_s, silence_s))
        return text

    @contextmanager
    def running(self, command: str, until: str) -> Iterator[None]:
        """Run a command during the body, from when it has printed `until` on."""
        began_s = time.monotonic()
        log = self.folder / "worker.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            while until not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < began_s + 60.0, log.read_text()
                time.sleep(0.05)
            self.report.append((command, time.monotonic() - began_s, 0.0))
            yield
        finally:
            end(process)


def console_commands() -> list[str]:
    """Return the commands of the page, in their order."""
    page = (ROOT / "docs" / "quick-start.md").read_text()
    lines = "".join(block.text for block in blocks_of("docs/quick-start.md", page) if block.language == "console")
    return re.findall(r"^\$ (.*)$", lines, re.MULTILINE)


def first_program() -> str:
    """Return the first Python program of the page about publishing, which publishes one span."""
    page = (ROOT / "docs" / "publishing.md").read_text()
    return next(block.text for block in blocks_of("docs/publishing.md", page) if block.language == "python")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The package, as it is published."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (found,) = tmp_path.glob("tokentrace-*.whl")
    return found


def test_quick_start_from_the_wheel_takes_less_than_five_minutes(
    own_kafka: KafkaBroker, wheel: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        if taken.connect_ex(("127.0.0.1", PORT)) == 0:
            unavailable(f"port {PORT} is in use")
    own_kafka.create_topic(TOPIC, 4)
    someone = Newcomer(tmp_path)
    commands = console_commands()
    assert commands == [
        "pip install tokentrace",
        "tokentrace demo",
        "tokentrace init",
        "tokentrace doctor",
        "tokentrace worker",
        "tokentrace produce --count 100",
        f"tokentrace top 127.0.0.1:{PORT} --once",
        f"curl -s http://127.0.0.1:{PORT}/metrics/prometheus",
    ]
    install, demo, init, doctor, worker, produce, top, curl = commands
    began_s = time.monotonic()
    someone.run(f"{sys.executable} -m venv {someone.venv}")
    someone.run(install.replace("tokentrace", str(wheel)))
    assert "Exact:" in someone.run(demo)
    assert "Wrote tokentrace.yml." in someone.run(init, typed=f"{own_kafka.bootstrap}\n\n\n\n\n")
    someone.run(doctor)
    with someone.running(worker, until="Partitions assigned"):
        someone.run(produce)
        program = someone.folder / "mine.py"
        program.write_text(first_program())
        someone.environment["KAFKA"] = own_kafka.bootstrap
        someone.run("python mine.py")
        deadline_s = time.monotonic() + 30.0
        while not re.search(r"all +101 ", shown := someone.run(top)):
            assert time.monotonic() < deadline_s, shown
        assert not shutil.which("curl") or 'caller="support-bot"' in someone.run(curl)
    seconds = time.monotonic() - began_s
    print()
    for command, took_s, silence_s in someone.report:
        print(f"{took_s:7.1f} s  {silence_s:5.1f} s silent  {command}")
    print(f"{seconds:7.1f} s in all")
    assert seconds < FIVE_MINUTES_S
    assert {
        command: silence_s
        for command, _, silence_s in someone.report
        if silence_s > SILENT_S and command.startswith("tokentrace")
    } == {}

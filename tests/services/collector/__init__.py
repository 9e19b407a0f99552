"""A real OpenTelemetry Collector that writes what it receives to Kafka, built from its Go modules."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.services import CACHE, ENDS_WITH_PARENT, Unavailable, end, free_port

_SOURCE = Path(__file__).parent
#: Folder of Go's own installer, which is not on the path of every shell.
_GO_FOLDER = "/usr/local/go/bin"
#: Downloading and compiling its modules, on a slow machine.
_BUILD_TIMEOUT_S = 1800.0


def built() -> Path:
    """The program, compiled where it is not in .cache yet. Raises Unavailable without Go, or without its modules."""
    sources = sorted([_SOURCE / "go.mod", _SOURCE / "main.go"])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = CACHE / "collector" / digest
    program = folder / "collector"
    if program.exists():
        return program
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), _GO_FOLDER]))
    if go is None:
        raise Unavailable("Go is not installed, which the OpenTelemetry Collector is built with")
    folder.mkdir(parents=True, exist_ok=True)
    for path in sources:
        shutil.copy(path, folder)
    environment = {**os.environ, "GOFLAGS": "-p=1"}
    for command in (["mod", "tidy"], ["build", "-o", "building", "."]):
        done = subprocess.run(
            ["nice", "-n", "19", go, *command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=_BUILD_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode != 0:
            raise Unavailable(f"the OpenTelemetry Collector could not be built: {done.stderr[-500:]}")
    (folder / "building").rename(program)
    return program


class Collector:
    """One Collector. `url` is where it receives OTLP over HTTP."""

    def __init__(self, folder: Path, bootstrap: str, topic: str, encoding: str) -> None:
        """encoding: otlp_proto or otlp_json. Raises Unavailable."""
        self._program = built()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._config = folder / "collector.yaml"
        self._config.write_text(
            f"""receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}
exporters:
  kafka:
    brokers: ["{bootstrap}"]
    traces: {{topic: "{topic}", encoding: {encoding}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [kafka]}}
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it, and wait until it receives."""
        with (self._folder / "collector.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*ENDS_WITH_PARENT, str(self._program), "--config", str(self._config)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._folder,
            )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/v1/traces", timeout=5.0)
            except urllib.error.HTTPError:
                # It takes no GET, but it is there.
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self._folder / "collector.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"The Collector did not start:\n{said}") from None
                time.sleep(0.1)

    def stop(self) -> None:
        """End it; what it has received is written first."""
        if self._process is not None:
            end(self._process, signal.SIGTERM)

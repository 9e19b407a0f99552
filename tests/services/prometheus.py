"""A real Prometheus from Debian's package, scraping every second."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.services import Unavailable, end, free_port

_CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
scrape_configs:
  - job_name: tokentrace
    metrics_path: /metrics/prometheus
    static_configs: [{{targets: {targets}}}]
"""


class Prometheus:
    """Scrapes `targets` (host:port) into a folder of its own."""

    def __init__(self, folder: Path, targets: list[str], port: int | None = None) -> None:
        """Raises Unavailable where Prometheus is not installed."""
        if shutil.which("prometheus") is None:
            raise Unavailable("Prometheus is not installed (Debian: apt-get install prometheus)")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "prometheus.yml").write_text(_CONFIG.format(targets=json.dumps(targets)))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 30.0) -> None:
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1.0):
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = (self._folder / "prometheus.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Prometheus did not start:\n{text}") from None
                time.sleep(0.05)

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: (labels, value) of each series."""
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10.0) as response:
            answer: Any = json.load(response)
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def stop(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM)

    def wait(self) -> None:
        """Until it ends by itself."""
        assert self._process is not None
        self._process.wait()


def main() -> None:
    """Run a Prometheus in the foreground."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9091)
    parser.add_argument("--target", action="append", required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        prometheus = Prometheus(arguments.data.resolve(), arguments.target, arguments.port)
    except Unavailable as error:
        raise SystemExit(f"No Prometheus: {error}.") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        prometheus.start()
        print(
            f"Prometheus is ready at {prometheus.url} and scrapes {', '.join(arguments.target)}. Ctrl-C ends it.",
            flush=True,
        )
        prometheus.wait()
    except KeyboardInterrupt:
        print("Stopping Prometheus.")
    finally:
        prometheus.stop()


if __name__ == "__main__":
    main()

"""A real Prometheus, from Debian's package or of version 3 as `make servers` builds it, scraping every second."""

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.services import CACHE, ENDS_WITH_PARENT, Unavailable, end, free_port

#: Folder into which `make servers` builds.
BUILT = CACHE / "bin"

#: Targets are read from a file, so that replicas can come and go while Prometheus runs.
_CONFIG = """\
global: {{scrape_interval: {scrape_s}s, scrape_timeout: {scrape_s}s, evaluation_interval: {evaluation_s}s}}
rule_files: {rules}
scrape_configs:
  - job_name: tokentrace
    metrics_path: /metrics/prometheus
    file_sd_configs: [{{files: [targets.json], refresh_interval: 1s}}]
"""


class Refused(Exception):
    """Prometheus does not take a query; the message says why."""


class Target(NamedTuple):
    """A replica at host:port, and the labels that its series get."""

    address: str
    labels: Mapping[str, str]


class Prometheus:
    """Scrapes `targets` (host:port, the `instance` label -> host:port, or Target) into a folder of its own."""

    program = "prometheus"
    #: Advice where the program is missing.
    remedy = "Debian: apt-get install prometheus"
    config = _CONFIG

    def __init__(
        self,
        folder: Path,
        targets: Iterable[str | Target] | Mapping[str, str],
        port: int | None = None,
        rules: Sequence[Path] = (),
        scrape_s: int = 1,
        evaluation_s: int = 1,
    ) -> None:
        """Raises Unavailable where it is not installed. scrape_s, evaluation_s: seconds between two of them."""
        if shutil.which(self.program) is None:
            raise Unavailable(f"{self.program} is not installed ({self.remedy})")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        paths = json.dumps([str(path) for path in rules])
        config = self.config.format(rules=paths, scrape_s=scrape_s, evaluation_s=evaluation_s)
        (folder / "prometheus.yml").write_text(config)
        self.scrape(targets)
        self._process: subprocess.Popen[bytes] | None = None

    def scrape(self, targets: Iterable[str | Target] | Mapping[str, str]) -> None:
        """These targets and no others, from the next second on."""
        if isinstance(targets, Mapping):
            targets = [Target(address, {"instance": name}) for name, address in targets.items()]
        named = [found if isinstance(found, Target) else Target(found, {"instance": found}) for found in targets]
        groups = [{"targets": [target.address], "labels": dict(target.labels)} for target in named]
        written = self._folder / "targets.json.new"
        written.write_text(json.dumps(groups))
        written.rename(self._folder / "targets.json")

    def _arguments(self) -> list[str]:
        """Of the command line."""
        return [
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def start(self, timeout_s: float = 180.0) -> None:
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*ENDS_WITH_PARENT, self.program, *self._arguments()],
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
                    raise RuntimeError(f"{self.program} did not start:\n{text}") from None
                time.sleep(0.05)

    def query(self, expression: str, at_s: float | None = None) -> list[tuple[dict[str, str], float]]:
        """An instant query: (labels, value) of each series."""
        parameters = {"query": expression} | ({} if at_s is None else {"time": str(at_s)})
        return [(series["metric"], float(series["value"][1])) for series in self._get("query", parameters)["result"]]

    def query_range(
        self, expression: str, from_s: float, to_s: float, step_s: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """A query over time: (labels, [(time, value)]) of each series."""
        parameters = {"query": expression, "start": str(from_s), "end": str(to_s), "step": str(step_s)}
        return [
            (series["metric"], [(float(time_s), float(value)) for time_s, value in series["values"]])
            for series in self._get("query_range", parameters)["result"]
        ]

    def samples(self, selector: str, window: str) -> list[tuple[dict[str, str], list[float]]]:
        """The samples of each series as they were scraped: (labels, values in the order of time)."""
        found = self._get("query", {"query": f"{selector}[{window}]"})["result"]
        return [(series["metric"], [float(value) for _, value in series["values"]]) for series in found]

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label in the series of a selector, as Grafana asks for those of a variable."""
        found: list[str] = self._get(f"label/{label}/values", {"match[]": selector})
        return sorted(found)

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health and, of an alert, its state."""
        return [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]

    def firing(self) -> list[dict[str, str]]:
        """Labels of each alert that fires, `alertname` among them."""
        return [alert["labels"] for alert in self._get("alerts", {})["alerts"] if alert["state"] == "firing"]

    def targets(self) -> list[str]:
        """Addresses that are scraped now."""
        found = self._get("targets", {"state": "active"})["activeTargets"]
        return [item["discoveredLabels"]["__address__"] for item in found]

    def _get(self, endpoint: str, parameters: dict[str, str]) -> Any:
        url = f"{self.url}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60.0) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise Refused(json.load(error)["error"]) from error

    def stop(self) -> None:
        if self._process is not None:
            end(self._process, signal.SIGTERM)

    def wait(self) -> None:
        """Until it ends by itself."""
        assert self._process is not None
        self._process.wait()


class Prometheus3(Prometheus):
    """The one that `make servers` has built. It has no web page, and discovers pods of Kubernetes alone."""

    program = str(BUILT / "prometheus")
    remedy = "`make servers` builds it where Go is"


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

"""A real VictoriaMetrics, from Debian's package or as `make servers` builds it, scraping every second.

It answers what Prometheus answers. Its rules are evaluated by `vmalert`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.services.prometheus import BUILT, Prometheus, Prometheus3

#: It evaluates no rules itself.
_CONFIG = """\
global: {{scrape_interval: {scrape_s}s, scrape_timeout: {scrape_s}s}}
scrape_configs:
  - job_name: tokentrace
    metrics_path: /metrics/prometheus
    file_sd_configs: [{{files: [targets.json]}}]
"""


class VictoriaMetrics(Prometheus):
    """Scrapes targets as `Prometheus` does."""

    program = "victoria-metrics"
    remedy = "Debian: apt-get install victoria-metrics"
    config = _CONFIG

    def _arguments(self) -> list[str]:
        return [
            f"-promscrape.config={self._folder / 'prometheus.yml'}",
            "-promscrape.fileSDCheckInterval=1s",
            f"-storageDataPath={self._folder / 'data'}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            # What was scraped shows at once, and answers are of now.
            "-search.latencyOffset=0s",
            "-search.disableCache",
            "-memory.allowedBytes=128MiB",
        ]


class BuiltVictoriaMetrics(VictoriaMetrics):
    """The one that `make servers` has built."""

    program = str(BUILT / "victoria-metrics")
    remedy = Prometheus3.remedy


class VmAlert(Prometheus):
    """Evaluates rules on a VictoriaMetrics, into which it writes what they record. It answers `rules` and `firing`."""

    program = str(BUILT / "vmalert")
    remedy = Prometheus3.remedy

    def __init__(self, folder: Path, server: VictoriaMetrics, rules: Sequence[Path]) -> None:
        """Raises Unavailable where it is not installed."""
        super().__init__(folder, [], rules=rules)
        self._server, self._rules = server, rules

    def _arguments(self) -> list[str]:
        url = self._server.url
        return [
            *(f"-rule={path}" for path in self._rules),
            f"-datasource.url={url}",
            f"-remoteWrite.url={url}",
            "-remoteWrite.flushInterval=200ms",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-evaluationInterval=1s",
            "-rule.evalDelay=0s",
            # It has no Alertmanager to tell.
            "-notifier.blackhole",
        ]

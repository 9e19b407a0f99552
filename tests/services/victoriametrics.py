"""A real VictoriaMetrics from Debian's package, scraping every second. It answers what Prometheus answers."""

from __future__ import annotations

from tests.services.prometheus import Prometheus

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

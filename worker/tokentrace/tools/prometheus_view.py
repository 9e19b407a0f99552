"""Prometheus's view of the replicas, and the time that a server tells."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from tokentrace.tools.http_get import TIMEOUT_S, NoAnswer
from tokentrace.tools.prometheus_api import PrometheusApi

_BUILD: Final = "tokentrace_worker_build_info"
_READY: Final = "tokentrace_worker_ready"


@dataclass(frozen=True, slots=True)
class ScrapedReplica:
    """A replica as it was last scraped."""

    version: str
    ready: bool


def scraped_replicas(url: str) -> dict[str, ScrapedReplica]:
    """Return replica id -> replica. Raises NoAnswer, or UsageError for its address."""
    expression = f"{_READY} * on (instance, job) group_left (replica_id, version) {_BUILD}"
    try:
        return {
            series.labels["replica_id"]: ScrapedReplica(series.labels["version"], series.value > 0)
            for series in PrometheusApi.at(url, os.environ).query(expression)
        }
    except KeyError as error:
        raise NoAnswer(f"its series have no label {error}") from error


def http_date_s(url: str) -> float | None:
    """Return the Unix time that a server has in its answers, in the middle of a second; None if it tells none."""
    parts = urlsplit(url)
    # Credentials in the address are not for this, and any answer has a time.
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            text = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        text = error.headers["Date"]
    except (OSError, ValueError):
        return None
    try:
        return parsedate_to_datetime(text).timestamp() + 0.5
    except (TypeError, ValueError):
        return None

"""Prometheus's view of the replicas, and the time that a server tells."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 5.0
_BUILD: Final = "tokentrace_worker_build_info"
_READY: Final = "tokentrace_worker_ready"


@dataclass(frozen=True, slots=True)
class ScrapedReplica:
    """A replica as it was last scraped."""

    version: str
    ready: bool


def scraped_replicas(url: str) -> dict[str, ScrapedReplica]:
    """Return replica id -> replica. Raises OSError, ValueError or HTTPException if Prometheus does not answer."""
    expression = f"{_READY} * on (instance, job) group_left (replica_id, version) {_BUILD}"
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url.rstrip('/')}/api/v1/query?{query}", timeout=TIMEOUT_S) as answer:
        found = json.load(answer)
    try:
        return {
            series["metric"]["replica_id"]: ScrapedReplica(series["metric"]["version"], float(series["value"][1]) > 0)
            for series in found["data"]["result"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError("its answer is not of Prometheus's API") from error


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

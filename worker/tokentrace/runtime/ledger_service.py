"""The ledger as a process of its own: it follows the rollups, and serves its metrics and health meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tokentrace.config import Config
from tokentrace.exposition import Format, HealthReport, HttpServer, Scrape, scrape_ledger
from tokentrace.model.secrets import hide_secrets
from tokentrace.runtime.service import LIVE_TURN_AGE_S, metrics_url
from tokentrace.runtime.settings import http_settings

if TYPE_CHECKING:
    from tokentrace.ledger.follow import Follower

log = logging.getLogger(__name__)


@contextmanager
def serving_ledger(config: Config, follower: Follower, clock: Callable[[], float]) -> Iterator[HttpServer | None]:
    """Serve the metrics and the health of a ledger at `ledger.addr` during the body; nothing where that is unset.

    clock: that of the follower. Raises UsageError when the address or the TLS files cannot be used.
    """
    addr = config.ledger.addr
    if addr is None:
        yield None
        return

    def render(form: Format, _: bool) -> Scrape:
        return scrape_ledger(follower.progress, follower.outages, form)

    def health() -> HealthReport:
        return health_of(follower, clock())

    settings = replace(http_settings(config), host=addr.host, port=addr.port)
    server = HttpServer(settings, render=render, health=health)
    server.start()
    log.info("Serving metrics at %s", metrics_url(config, addr, server.port))
    try:
        yield server
    finally:
        server.stop()


def health_of(follower: Follower, now_s: float) -> HealthReport:
    """Return whether the loop turns, and whether the database has a position that moves on with it.

    A change of the tables is alive however long it takes: whoever ends it begins it again.
    """
    progress = follower.progress
    waiting_for = follower.problem or ("" if progress is not None else "the first rollups")
    if follower.migrating:
        waiting_for = "the tables of this release"
    detail = {
        "waiting_for": hide_secrets(waiting_for),
        "lag_records": None if progress is None else progress.lag_records,
        "committed_at": None if progress is None else progress.committed_at_us / 1e6,
    }
    live = follower.migrating or now_s - follower.last_turn_s < LIVE_TURN_AGE_S
    return HealthReport(live=live, ready=not waiting_for, detail=detail)

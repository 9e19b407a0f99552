"""Last scrape: after counting has ended, wait until every Prometheus that scrapes this replica has the final totals.

Without it, Prometheus would never see what was counted between its last scrape and the end of the process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from tokentrace.exposition import ClientAddress, Renderer, Scrape
from tokentrace.model.snapshot import Snapshot

log = logging.getLogger(__name__)

SHOW_INTERVAL_S: Final = 0.25


class LastScrape:
    """Remembers which snapshot each scraper received last. `on_scraped` runs on the HTTP server's threads."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._final: Callable[[], Snapshot] | None = None
        self._received: dict[ClientAddress, Snapshot] = {}
        self._complete = threading.Event()

    def on_scraped(self, scrape: Scrape, scraper: ClientAddress, connected: Collection[ClientAddress]) -> None:
        """Record a scrape that was sent to its last byte."""
        self._renderer.record_scrape(scraper, scrape.number, connected)
        # A scraper that is not expected again must not keep an old snapshot in memory.
        expected = self._renderer.active_servers()
        self._received = {address: snapshot for address, snapshot in self._received.items() if address in expected}
        if scrape.complete and scrape.snapshot is not None:
            self._received[scraper] = scrape.snapshot
        self._check()

    def wait(self, final: Callable[[], Snapshot], timeout_s: float, show: Callable[[], bool] = lambda: False) -> None:
        """Wait until all expected scrapers, or any scraper where none is expected, have received the final totals.

        final: returns these. show: lets series be shown in full; it is called until it returns False.
        """
        self._final = final
        self._check()
        log.info("Counting has ended; waiting up to %.0f s for the final values to be scraped.", timeout_s)
        deadline_s = time.monotonic() + timeout_s
        while show() and not self._complete.is_set() and time.monotonic() < deadline_s:
            self._complete.wait(min(SHOW_INTERVAL_S, max(deadline_s - time.monotonic(), 0.0)))
        if self._complete.wait(max(deadline_s - time.monotonic(), 0.0)):
            log.info("The final values have been scraped." if self._is_complete() else "Not waiting any longer.")
        else:
            log.warning("The final values were not scraped within worker.drain_timeout (%.0f s).", timeout_s)

    def cancel(self) -> None:
        """End a wait now."""
        self._complete.set()

    def _check(self) -> None:
        if self._is_complete():
            self._complete.set()

    def _is_complete(self) -> bool:
        if self._final is None:
            return False
        final = self._final()
        received = {address for address, snapshot in self._received.items() if snapshot is final}
        return bool(received) and self._renderer.active_servers() <= received

"""Zero-initialised series: a new series is shown as 0 until every Prometheus that scrapes here has seen it so.

Prometheus counts increments between two values it has seen, so the first value of a new series is lost to `increase()`.
Holding it back for one scrape loses nothing, since totals are durable. Only clients that say that they are a Prometheus
are served so; `curl` and `tokentrace top` see the values themselves.

A Prometheus keeps its connection, so two connections are two servers, wherever they come from. One that was closed, as
by a proxy or between scrapes far apart, goes on in the next new one from the same host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import grown

#: Host and port that a connection comes from.
Address = tuple[str, int]

#: How long a scraper of which one scrape was seen is waited for: more than the longest sensible interval, two minutes.
FIRST_PATIENCE_S = 150.0
#: Scrapes that a scraper may miss before it is taken to be gone.
MISSED_SCRAPES = 2.5


@dataclass(slots=True)
class _Scraper:
    """number: of its last complete scrape. interval_s: between its last two, 0 while only one was seen."""

    number: int
    at_s: float
    interval_s: float = 0.0


class ZeroInit:
    """Knows which series every scraper has seen as 0. Used under the renderer's lock.

    A scrape takes a `begin`, any number of `hold`s, and a `finish` when its last byte was sent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._scrapers: dict[Address, _Scraper] = {}
        self._number = 0
        self._received = 0
        self._horizon = 0
        #: (family, what else its samples are told apart by) -> series -> the first scrape that had it, or 0.
        self._born: dict[tuple[str, str], NDArray[np.int64]] = {}
        self._adopting = False
        self.holding = False

    def begin(self, adopting: bool = False) -> int:
        """The number of a new scrape. adopting: what it shows was shown before this process began."""
        self._number += 1
        self._adopting = adopting
        self.holding = False
        # Where nobody is waited for, what anybody has seen will do. It never goes back: a value once shown stays shown.
        seen_by_all = min((self._scrapers[each].number for each in self.active()), default=self._received)
        self._horizon = max(self._horizon, seen_by_all)
        return self._number

    def hold(self, family: tuple[str, str], series: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool[k]: which of these series of a family have to be shown as 0 in this scrape."""
        if not len(series):
            return np.zeros(0, np.bool_)
        born = self._born[family] = grown(self._born.get(family, np.zeros(0, np.int64)), int(series.max()) + 1)
        mine = born[series]
        fresh = mine == 0
        if fresh.any():
            # Adopted series were seen before the first scrape.
            born[series[fresh]] = -1 if self._adopting else self._number
            mine = born[series]
        held = mine > self._horizon
        self.holding = self.holding or bool(held.any())
        return held

    def finish(self, scraper: Address, number: int, connected: Collection[Address]) -> None:
        """A scraper has received scrape `number` whole. connected: from where connections are open now."""
        now_s = self._clock()
        self._received = max(self._received, number)
        before = self._scrapers.pop(scraper, None) or self._closed(scraper[0], connected)
        if before is None:
            self._scrapers[scraper] = _Scraper(number, now_s)
        else:
            self._scrapers[scraper] = _Scraper(number, now_s, now_s - before.at_s)

    def _closed(self, host: str, connected: Collection[Address]) -> _Scraper | None:
        """Of the scrapers whose connection from this host was closed, the one that was away for longest; taken out."""
        closed = [each for each in self._scrapers if each[0] == host and each not in connected]
        return self._scrapers.pop(min(closed, key=lambda each: self._scrapers[each].at_s)) if closed else None

    def active(self) -> frozenset[Address]:
        """The scrapers that are expected again; others are forgotten."""
        now_s = self._clock()
        for address, each in list(self._scrapers.items()):
            patience_s = MISSED_SCRAPES * each.interval_s + 1.0 if each.interval_s else FIRST_PATIENCE_S
            if now_s - each.at_s > patience_s:
                del self._scrapers[address]
        return frozenset(self._scrapers)

    def renumber(self, family: str, now: NDArray[np.int64]) -> None:
        """The series of a family are numbered anew. now: int64[s], the number each has now, -1 where it has ended."""
        for key in [key for key in self._born if key[0] == family]:
            born = self._born[key]
            # A series may have been numbered and not yet shown, and may be shown that was never numbered again.
            known = min(len(born), len(now))
            left = np.flatnonzero(now[:known] >= 0)
            moved = np.zeros(int(now.max(initial=-1)) + 1, np.int64)
            moved[now[left]] = born[left]
            self._born[key] = moved

"""Zero-initialised series: a new series is exposed as 0 until every Prometheus server that scrapes here has seen it.

Prometheus counts increments between two values it has seen, so `increase()` misses the first value of a new series.
Holding it back for one scrape loses nothing, since totals are durable. That a series may be shown in full is committed
before it is, so a restart neither begins it at 0 again nor begins another above 0. Only clients that identify
themselves as a Prometheus are served this way; `curl` and `tokentrace top` get the values.

A Prometheus server keeps its connection, so two open connections are two servers, even from one host. A server whose
connection was closed (by a proxy, or between scrapes far apart) continues in the next new connection from its host.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.arrays import grown

#: Host and port of a client's end of a connection.
ClientAddress = tuple[str, int]

#: Time within which a server that has scraped once is expected again: more than the longest sensible interval.
FIRST_INTERVAL_S = 150.0
#: Intervals without a scrape after which a server is no longer expected.
MISSED_INTERVALS = 2.5

#: Longest time for which a series is held for servers that have not come since: any client may say that it is one.
LONGEST_HOLD_S = 120.0

#: Scrapes of which it is remembered how new their series are.
_SCRAPES: Final = 1000
#: Scrape number of series that an earlier process has exposed.
_RESTORED = -1


@dataclass(slots=True)
class _LastScrape:
    """A server's last complete scrape. interval_s: since the one before, 0 after only one."""

    number: int
    at_s: float
    interval_s: float = 0.0


class ZeroInit:
    """Knows which series every active server has seen as 0. Used under the renderer's lock.

    A scrape calls `begin`, then `zeros` for each family, and `finish` when its last byte was sent. A series is exposed
    as 0 while the scrape in which it was first seen is beyond the horizon: the last scrape that every active server
    has received, or that one of them has received more than LONGEST_HOLD_S ago; and while that is not committed.

    seen_until_s: Unix time until which series began that the horizon covers, to be committed. Any thread may read it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_scrapes: dict[ClientAddress, _LastScrape] = {}
        self._number = 0
        self._last_received = 0
        self._horizon = 0
        #: The latest scrape whose series may be shown in full as far as the commits go.
        self._committed = 0
        #: (number, Unix time at which the newest of its series began) of the scrapes beyond one of these two.
        self._newest: deque[tuple[int, float]] = deque(maxlen=_SCRAPES)
        self.seen_until_s = 0.0
        #: (number, moment) of the scrapes that were received within LONGEST_HOLD_S.
        self._received: deque[tuple[int, float]] = deque()
        #: (family, extra label value) -> series -> number of the scrape in which it was first seen, or 0.
        self._first_seen: dict[tuple[str, str], NDArray[np.int64]] = {}
        #: True when the scrape that has begun exposes any series as 0.
        self.any_zero = False

    def begin(self, newest_s: float = 0.0, shown_until_s: float = math.inf) -> int:
        """Begin a scrape and return its number. newest_s, shown_until_s: of its snapshot."""
        self._number += 1
        self.any_zero = False
        self._newest.append((self._number, newest_s))
        self._advance()
        for number, scrape_newest_s in self._newest:
            if scrape_newest_s > shown_until_s:
                break
            self._committed = max(self._committed, number)
        while self._newest and self._newest[0][0] <= min(self._horizon, self._committed):
            self._newest.popleft()
        return self._number

    def _advance(self) -> None:
        """Move the horizon. It never goes back: once a server has seen a value, no scrape shows 0 again."""
        # Without an active server, the last received scrape counts.
        received_by_all = min(
            (self._last_scrapes[address].number for address in self.active()), default=self._last_received
        )
        self._horizon = max(self._horizon, received_by_all)
        too_long_ago_s = self._clock() - LONGEST_HOLD_S
        while self._received and self._received[0][1] < too_long_ago_s:
            self._horizon = max(self._horizon, self._received.popleft()[0])
        covered = (newest_s for number, newest_s in self._newest if number <= self._horizon)
        self.seen_until_s = max(self.seen_until_s, max(covered, default=0.0))

    def zeros(self, family: tuple[str, str], series: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these series of a family this scrape must expose as 0, bool[k]."""
        if not len(series):
            return np.zeros(0, np.bool_)
        held = self._seen(family, series, self._number) > min(self._horizon, self._committed)
        self.any_zero = self.any_zero or bool(held.any())
        return held

    def mark_restored(
        self, family: tuple[str, str], series: NDArray[np.int64], exposed: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """As `zeros`, before the first scrape. exposed: bool[k], series that an earlier process may have exposed."""
        if exposed.any():
            self._seen(family, series[exposed], _RESTORED)
        return np.zeros(len(series), np.bool_)

    def _seen(self, family: tuple[str, str], series: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """Return the scrape in which each series was first seen, `number` for new ones, int64[k]."""
        known = self._first_seen.get(family, np.zeros(0, np.int64))
        first_seen = self._first_seen[family] = grown(known, int(series.max()) + 1)
        is_new = first_seen[series] == 0
        first_seen[series[is_new]] = number
        return first_seen[series]

    def finish(self, server: ClientAddress, number: int, connected: Collection[ClientAddress]) -> None:
        """A server has received the whole scrape `number`. connected: clients whose connections are open now."""
        now_s = self._clock()
        self._last_received = max(self._last_received, number)
        self._received.append((number, now_s))
        before = self._last_scrapes.pop(server, None) or self._take_over(server[0], connected)
        interval_s = now_s - before.at_s if before is not None else 0.0
        self._last_scrapes[server] = _LastScrape(number, now_s, interval_s)
        self._advance()

    def _take_over(self, host: str, connected: Collection[ClientAddress]) -> _LastScrape | None:
        """Remove and return the oldest last scrape from this host whose connection was closed."""
        closed = [address for address in self._last_scrapes if address[0] == host and address not in connected]
        if not closed:
            return None
        return self._last_scrapes.pop(min(closed, key=lambda address: self._last_scrapes[address].at_s))

    def active(self) -> frozenset[ClientAddress]:
        """Return the servers that are expected to scrape again, and forget the others."""
        now_s = self._clock()
        for address, last in list(self._last_scrapes.items()):
            expected_within_s = MISSED_INTERVALS * last.interval_s + 1.0 if last.interval_s else FIRST_INTERVAL_S
            if now_s - last.at_s > expected_within_s:
                del self._last_scrapes[address]
        return frozenset(self._last_scrapes)

    def renumber(self, family: str, new_numbers: NDArray[np.int64]) -> None:
        """Follow a renumbering of a family's series. new_numbers: int64[s], -1 for a series that has ended."""
        for key in [key for key in self._first_seen if key[0] == family]:
            first_seen = self._first_seen[key]
            # A series may have a number and never have been exposed, or have been exposed before it got one.
            known = min(len(first_seen), len(new_numbers))
            kept = np.flatnonzero(new_numbers[:known] >= 0)
            moved = np.zeros(int(new_numbers.max(initial=-1)) + 1, np.int64)
            moved[new_numbers[kept]] = first_seen[kept]
            self._first_seen[key] = moved

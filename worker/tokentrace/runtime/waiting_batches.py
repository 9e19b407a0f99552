"""Waiting batches: messages whose writer schema cannot be had yet, in the order of the log.

Of each partition, what precedes the first such message is counted at once; that message and what follows it waits, and
the partition is not read on. Other partitions are counted meanwhile. Polling goes on, which keeps the membership.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokentrace.errors import SchemaUnavailable
from tokentrace.model.arrays import first_rows
from tokentrace.model.backoff import Backoff
from tokentrace.model.messages import RawBatch

log = logging.getLogger(__name__)

#: First and longest delay between two tries while the registry is unavailable.
RETRY_FIRST_S: Final = 0.25
RETRY_LAST_S: Final = 15.0
#: Delay between two tries while schemas are only being fetched.
PENDING_RETRY_S: Final = 0.1
#: Time after which, and interval at which, partitions that wait for look-ups are logged.
REPORT_INTERVAL_S: Final = 30.0


class _Waiting(NamedTuple):
    """The rows (int64[k], ascending) of a batch that are not counted yet."""

    batch: RawBatch
    rows: NDArray[np.int64]


class WaitingBatches:
    """Counts batches as far as their schemas are known, and keeps the rest. Used by the consumer thread alone."""

    def __init__(self, count: Callable[[RawBatch], None], clock: Callable[[], float] = time.monotonic) -> None:
        """count: counts a batch, or raises SchemaUnavailable and counts nothing of it."""
        self._count = count
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._backoff = Backoff(RETRY_FIRST_S, RETRY_LAST_S)
        self._retry_at_s = 0.0
        self._report_at_s = 0.0
        #: The problem of an unavailable registry; "" while nothing waits, or for look-ups only.
        self.problem = ""

    @property
    def partitions(self) -> set[int]:
        """Partitions of which a message waits."""
        return {partition for batch, rows in self._waiting for partition in np.unique(batch.partitions[rows]).tolist()}

    def count(self, batch: RawBatch) -> None:
        """Count a batch; what cannot be counted waits. None of its partitions may be waiting."""
        if not self._waiting:
            self._report_at_s = self._clock() + REPORT_INTERVAL_S
        self._try(_Waiting(batch, np.arange(len(batch))), first=True)

    def retry(self) -> None:
        """Count what waits if a try is due, one batch per call: each may wait a moment for look-ups."""
        if self._waiting and self._clock() >= self._retry_at_s:
            self._try(self._waiting.popleft())

    def clear(self) -> None:
        """Forget what waits: it will be read again."""
        self._waiting.clear()
        self._recover()

    def _try(self, part: _Waiting, first: bool = False) -> None:
        batch, rows = part
        try:
            self._count(batch if len(rows) == len(batch) else batch.select(rows))
        except SchemaUnavailable as unavailable:
            rest = self._count_ready(part, unavailable)
            self._waiting.append(_Waiting(batch, rest))
            self._wait(unavailable, answered=not first and len(rest) < len(rows))
        else:
            if not first:
                self._recover()

    def _count_ready(self, part: _Waiting, unavailable: SchemaUnavailable) -> NDArray[np.int64]:
        """Count what precedes each partition's first message whose schema is missing, and return the other rows."""
        batch, rows = part
        if unavailable.rows is None:
            return rows
        partitions = batch.partitions[rows]
        first = first_rows(partitions, int(partitions.max()) + 1, unavailable.rows)
        ready = np.arange(len(rows)) < first[partitions]
        if ready.any():
            try:
                self._count(batch.select(rows[ready]))
            except SchemaUnavailable:
                # What was known a moment ago has expired.
                return rows
        return rows[~ready]

    def _wait(self, unavailable: SchemaUnavailable, answered: bool) -> None:
        """answered: the registry has answered since the last try."""
        now_s = self._clock()
        if answered:
            self._backoff.reset()
        if unavailable.pending:
            if answered:
                self._recover()
            self._retry_at_s = now_s + PENDING_RETRY_S
            self._report(now_s)
            return
        pause_s = self._backoff.next()
        self._retry_at_s = now_s + pause_s
        self.problem = str(unavailable)
        log.warning(
            "%s Counting is paused for partitions %s; trying again in %.2g s.",
            unavailable, sorted(self.partitions), pause_s,
        )  # fmt: skip

    def _report(self, now_s: float) -> None:
        if not self.problem and now_s >= self._report_at_s:
            self._report_at_s = now_s + REPORT_INTERVAL_S
            log.warning(
                "Partitions %s wait for the schema registry to look up the schema ids of their messages. Many unknown "
                "ids are a sign of messages without a header; see kafka.framing.",
                sorted(self.partitions),
            )

    def _recover(self) -> None:
        if self.problem:
            log.info("Schemas are available again; resuming.")
            self._report_at_s = self._clock() + REPORT_INTERVAL_S
        self.problem = ""
        self._backoff.reset()

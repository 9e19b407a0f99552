"""The ledger inside a worker: a thread that follows the rollups while Kafka gives it their partition.

Every replica takes part in the group `<group>.ledger`, and one of them keeps the ledger. Exactness does not rest on the
election: the position in the database is moved only from where the writer left it, see `store`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from tokentrace.errors import FatalError, StopRequested, TokentraceError
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.ledger.follow import Follower, Progress, Tail

log = logging.getLogger(__name__)

#: Pause after a failure, and the longest wait of the election at once.
RETRY_S: Final = 10.0
_POLL_S: Final = 0.5
#: Longest wait for the thread's end.
_STOP_S: Final = 10.0


class Candidate(Protocol):
    """Takes part in the election; `kafka.election.Election` is one."""

    def poll(self, timeout_s: float) -> bool:
        """Take part, and return whether this replica is elected."""

    def close(self) -> None:
        """Give up."""


class ClosingTail(Tail, Protocol):
    """A tail with connections."""

    def close(self) -> None:
        """Free the connections."""


class NotElected(TokentraceError):
    """Another replica keeps the ledger now."""


class LedgerThread:
    """Keeps the ledger from `start` to `stop`, while this replica is elected. Counting never waits for it."""

    def __init__(
        self,
        *,
        elect: Callable[[], Candidate],
        open_tail: Callable[[], ClosingTail],
        follow: Callable[[Tail], Follower],
    ) -> None:
        self._elect = elect
        self._open_tail = open_tail
        self._follow = follow
        #: Failures before the follower, and the follower, None while another replica keeps the ledger. Replaced whole.
        self._kept: tuple[int, Follower | None] = (0, None)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    @property
    def progress(self) -> Progress | None:
        """Return how far the ledger is, None while this replica does not keep it. Any thread may ask."""
        _, follower = self._kept
        return None if follower is None else follower.progress

    @property
    def failures(self) -> int:
        """Return how often the ledger stopped here because of an error, or its database did not answer."""
        before, follower = self._kept
        return before + (0 if follower is None else follower.outages)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the group and end. What was not added yet is read again by the next owner."""
        self._stopping.set()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._take_part()
            except StopRequested:
                return
            # Counting continues whatever happens here.
            except FatalError as failure:
                self._kept = self.failures + 1, None
                log.error("The ledger stopped on this replica; retrying in %.0f s: %s", RETRY_S, failure)
            except Exception as failure:
                self._kept = self.failures + 1, None
                log.exception("The ledger stopped on this replica; retrying in %.0f s: %s", RETRY_S, repr(failure))
            self._stopping.wait(RETRY_S)

    def _take_part(self) -> None:
        candidate = self._elect()
        try:
            while not self._stopping.is_set():
                if candidate.poll(_POLL_S):
                    self._keep(candidate)
        finally:
            candidate.close()

    def _keep(self, candidate: Candidate) -> None:
        log.info("This replica keeps the ledger.")
        tail = self._open_tail()
        try:
            follower = self._follow(_WhileElected(tail, candidate, self._stopping))
            self._kept = self.failures, follower
            follower.run()
        except NotElected:
            log.info("Another replica keeps the ledger now.")
        finally:
            self._kept = self.failures, None
            tail.close()


class _WhileElected:
    """A tail that ends when another replica is elected."""

    def __init__(self, tail: Tail, candidate: Candidate, stopping: threading.Event) -> None:
        self._tail = tail
        self._candidate = candidate
        self._stopping = stopping
        self.topic = tail.topic

    def exists(self) -> bool:
        return self._tail.exists()

    def topic_id(self) -> str:
        return self._tail.topic_id()

    def bounds(self) -> tuple[int, int]:
        return self._tail.bounds()

    def known_end(self) -> int:
        return self._tail.known_end()

    def seek(self, offset: int) -> None:
        self._tail.seek(offset)

    def poll(self, max_records: int, timeout_s: float) -> list[PartitionRecord]:
        if self._stopping.is_set():
            raise StopRequested("The worker is asked to stop.")
        if not self._candidate.poll(0.0):
            raise NotElected("Another replica keeps the ledger.")
        return self._tail.poll(max_records, timeout_s)

"""Feed: follows the rollups of all replicas while somebody looks, on a thread of its own.

It joins no group and commits nothing, so any number of replicas may follow at the same time. Nobody has looked for
`UNWATCHED_S`: it ends, and gives its memory and its connections up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from tokentrace.alerts.rollup_reader import RollupReader
from tokentrace.errors import FatalError, StopRequested, UnreadableRecord, UsageError
from tokentrace.exposition.ui.backlog import Backlog, RollupsLog
from tokentrace.exposition.ui.inquiry import Inquiry, ThreadInquiry
from tokentrace.exposition.ui.minutes import Minutes
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.model.measures import Layout
from tokentrace.model.secrets import hide_secrets
from tokentrace.model.stop import StopSignal
from tokentrace.state.checksums import require_intact

log = logging.getLogger(__name__)

UNWATCHED_S: Final = 60.0
#: Seconds that are read back for a page that asks for no more.
DEPTH_S: Final = 3600.0
#: Records that are read at once, and how long one is waited for.
BATCH: Final = 50
WAIT_S: Final = 0.5
RETRY_S: Final = 2.0
#: Share of one core that reading the backlog takes at most.
BACKLOG_SHARE: Final = 0.2
#: Replicas that have written nothing for so long are not shown.
REPLICA_AGE_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class FeedState:
    """State of the feed at one moment. from_s: Unix time since which everything is read; None before that is known.

    replicas: name -> Unix time of its last commit that was read. problem: why nothing can be read, empty otherwise.
    fleet: whether these are all replicas.
    """

    from_s: float | None
    reading: bool
    unreadable: int
    replicas: Mapping[str, float]
    problem: str
    fleet: bool = True


class RollupFeed:
    """Follows from the first `look` on. The methods may be called from any thread."""

    def __init__(
        self,
        *,
        open_log: Callable[[], RollupsLog],
        layout: Layout,
        inquiries: Mapping[str, Inquiry | ThreadInquiry],
        stop: StopSignal,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """open_log: connects to the rollups topic. inquiries: what else is asked for while somebody looks."""
        self._open_log = open_log
        self._layout = layout
        self._inquiries = dict(inquiries)
        self._stop = stop
        self._clock, self._monotonic = clock, monotonic
        #: Held by whoever reads or changes what follows.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._looked_s = 0.0
        self._depth_s = DEPTH_S
        self._forget()

    def look(self, depth_s: float) -> None:
        """Somebody looks, and wants to see so many seconds."""
        with self._lock:
            self._looked_s = self._monotonic()
            self._depth_s = max(self._depth_s, depth_s)
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="page", daemon=True)
                self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, once the replica is asked to stop."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    @contextmanager
    def minutes(self) -> Iterator[tuple[Minutes, FeedState]]:
        """Give the sums and the state, which do not change meanwhile."""
        with self._lock:
            backlog = self._backlog
            state = FeedState(
                None if backlog is None else max(backlog.from_s, self._minutes.dropped_before * 60.0),
                backlog is None or backlog.needs(self._depth_s),
                self._unreadable,
                dict(self._replicas),
                self._problem,
            )
            yield self._minutes, state

    @property
    def answers(self) -> dict[str, Any]:
        """Return the answers of the inquiries, by name."""
        return {name: inquiry.shown() for name, inquiry in self._inquiries.items()}

    def _forget(self) -> None:
        self._minutes = Minutes(self._layout)
        self._reader = RollupReader(self._layout, self._minutes.columns.read, self._minutes.number)
        self._replicas: dict[str, float] = {}
        self._backlog: Backlog | None = None
        self._unreadable = 0
        self._problem = ""
        self._next_offset = 0

    def _run(self) -> None:
        with suppress(StopRequested):
            while self._watched():
                try:
                    self._follow()
                except (FatalError, UsageError) as failure:
                    self._fail(hide_secrets(str(failure)))
                except StopRequested:
                    raise
                except Exception as failure:
                    # Counting goes on whatever happens here.
                    log.exception("The page cannot follow the rollups; it tries again.")
                    self._fail(f"unexpected: {type(failure).__name__}")

    def _fail(self, problem: str) -> None:
        with self._lock:
            self._forget()
            self._problem = problem
        self._stop.wait(RETRY_S)

    def _watched(self) -> bool:
        """Return whether to go on. If not, everything is given up in the same moment."""
        with self._lock:
            if self._watching():
                return True
            self._thread = None
            self._depth_s = DEPTH_S
            self._forget()
            for inquiry in self._inquiries.values():
                inquiry.forget()
            return False

    def _follow(self) -> None:
        topic = self._open_log()
        backlog = Backlog(topic, self._clock())
        with self._lock:
            self._forget()
            self._backlog, self._next_offset = backlog, backlog.begin
        tail = topic.read(backlog.begin)
        try:
            wait_s = 0.0
            while self._watching():
                for record in tail.poll(BATCH, wait_s):
                    if record.offset < self._next_offset:
                        raise FatalError("the rollups topic was created again")
                    self._next_offset = record.offset + 1
                    self._apply(record)
                wait_s = WAIT_S
                began_s = time.thread_time()
                if backlog.read(self._depth_s, self._apply, BATCH):
                    wait_s = (time.thread_time() - began_s) * (1 / BACKLOG_SHARE - 1)
                elif backlog.needs(self._depth_s):
                    wait_s = 0.0
                for inquiry in self._inquiries.values():
                    inquiry.refresh(self._monotonic())
        finally:
            backlog.close()
            tail.close()

    def _watching(self) -> bool:
        """Return whether somebody looks, and the replica is not asked to stop."""
        return not self._stop.is_set() and self._monotonic() < self._looked_s + UNWATCHED_S

    def _apply(self, record: PartitionRecord) -> None:
        try:
            value = record.value or b""
            require_intact(record.key, value, record.headers)
            rollup = self._reader.read(value, record.headers)
        except UnreadableRecord:
            # The evaluator logs it, and the page shows how many there were.
            with self._lock:
                self._unreadable += 1
            return
        with self._lock:
            self._minutes.add(rollup, int(self._clock() // 60))
            committed_s = rollup.committed_at_us / 1e6
            if committed_s > max(self._replicas.get(rollup.replica, 0.0), self._clock() - REPLICA_AGE_S):
                self._replicas[rollup.replica] = committed_s

"""Reading in the background: keys work while a source takes its time to answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tokentrace.tools.top import ReplicaScrape


class BackgroundReading:
    """Reads every `interval_s` seconds on a thread of its own, which ends with the process."""

    def __init__(self, read: Callable[[], list[ReplicaScrape]], interval_s: float) -> None:
        self._read, self._interval_s = read, interval_s
        self._found: list[ReplicaScrape] | None = None
        self._failure: Exception | None = None
        #: Moment since which an answer is waited for, 0 while none is.
        self._asked_s = 0.0
        self._done, self._wanted = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="top", daemon=True).start()

    @property
    def waiting_s(self) -> float:
        """Return for how many seconds the source has not answered, 0 while it is not asked."""
        asked_s = self._asked_s
        return time.monotonic() - asked_s if asked_s else 0.0

    def take(self) -> list[ReplicaScrape] | None:
        """Return what was read since the last call, None if nothing was; then the next reading begins in its time.

        Raises what reading raised.
        """
        if not self._done.is_set():
            return None
        self._done.clear()
        if self._failure is not None:
            raise self._failure
        found, self._found = self._found, None
        self._wanted.set()
        return found

    def _run(self) -> None:
        while True:
            self._asked_s = time.monotonic()
            due_s = self._asked_s + self._interval_s
            try:
                self._found = self._read()
            except Exception as failure:
                self._failure = failure
            self._asked_s = 0.0
            self._done.set()
            self._wanted.wait()
            self._wanted.clear()
            time.sleep(max(due_s - time.monotonic(), 0.0))

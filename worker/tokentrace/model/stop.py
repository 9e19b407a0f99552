"""The stop signal: one object a process, which everything that waits looks at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from tokentrace.errors import StopRequested

#: Time after the request for which work in flight, such as a commit, is still tried again.
GRACE_S: Final = 10.0
#: Shortest time-out of a call that is made after the grace has ended.
SHORTEST_S: Final = 0.5


class StopSignal:
    """Set once. Any thread may set it and wait for it. clock: that of every wait it ends; it never steps back."""

    def __init__(self, grace_s: float = GRACE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._event = threading.Event()
        self._grace_s = grace_s
        self.clock = clock
        self._ends_s = 0.0

    def set(self) -> None:
        """Request the stop."""
        if not self._event.is_set():
            self._ends_s = self.clock() + self._grace_s
            self._event.set()

    def is_set(self) -> bool:
        """Return whether the stop is requested."""
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the request for so long; return whether it is there."""
        return self._event.wait(timeout_s)

    @property
    def expired(self) -> bool:
        """True once the grace after the request has ended: what is in flight is given up."""
        return self.is_set() and self.clock() >= self._ends_s

    def bounded(self, timeout_s: float) -> float:
        """Return a call's time-out, shortened to the rest of the grace."""
        if not self.is_set():
            return timeout_s
        return min(timeout_s, max(self._ends_s - self.clock(), SHORTEST_S))

    def check(self) -> None:
        """Raises StopRequested if the stop is requested."""
        if self.is_set():
            raise StopRequested("The worker is asked to stop.")

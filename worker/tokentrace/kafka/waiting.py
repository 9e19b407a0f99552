"""Waiting for Kafka: tries of one request, with a pause between two, that end with the time or with the process.

Loops that ask Kafka again are a `Wait`, so none is deaf to a stop, goes on without a bound, or floods the log. The
steps of a transaction are not: they are repeated through the grace of a stop, see `transaction`.
"""

from __future__ import annotations

import logging
from typing import Final

from tokentrace.model.stop import StopSignal

log = logging.getLogger(__name__)

#: Pause between two requests whose answer may differ.
RETRY_S: Final = 0.1
#: Time of a wait before its first log line, and between two: an answer that comes soon is not worth one.
FIRST_LOG_S: Final = 1.0
LOG_INTERVAL_S: Final = 10.0
#: Time-outs of the tries. They grow: a stop has to wait for a short one, and a slow broker gets a long one.
FIRST_REQUEST_S: Final = 1.0
LONGEST_REQUEST_S: Final = 10.0


class Wait:
    """The tries of one request. Made when the first begins."""

    def __init__(
        self, stop: StopSignal, timeout_s: float, pause_s: float = RETRY_S, level: int = logging.WARNING
    ) -> None:
        """timeout_s: from now to the last try. level: of the log lines. Raises StopRequested."""
        self._level = level
        self._stop = stop
        self._pause_s = pause_s
        self._clock = stop.clock
        now_s = self._clock()
        self._ends_s = now_s + timeout_s
        self._log_at_s = now_s + FIRST_LOG_S
        self._tries = 0
        stop.check()

    @property
    def request_timeout_s(self) -> float:
        """Time-out of the next try."""
        growing = FIRST_REQUEST_S * 2.0 ** min(self._tries, 10)
        return max(min(growing, LONGEST_REQUEST_S, self._ends_s - self._clock()), FIRST_REQUEST_S)

    def pause(self, message: str, *arguments: object) -> bool:
        """Pause before the next try; return False instead once the time is over.

        message, arguments: of the log line that says what is waited for. Raises StopRequested.
        """
        self._tries += 1
        now_s = self._clock()
        if now_s >= self._log_at_s:
            self._log_at_s = now_s + LOG_INTERVAL_S
            text = message % arguments if arguments else message
            log.log(self._level, "%s; retrying.", text.removesuffix("."))
        if now_s >= self._ends_s:
            return False
        self._stop.wait(self._pause_s)
        self._stop.check()
        return True

    def progressed(self, timeout_s: float) -> None:
        """Go on for so long from now. Raises StopRequested."""
        self._ends_s = self._clock() + timeout_s
        self._stop.check()

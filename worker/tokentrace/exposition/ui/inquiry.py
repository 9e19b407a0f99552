"""Inquiry: a question that is asked from time to time while somebody looks, for all who look.

What cannot be answered is a sentence on the page.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tokentrace.errors import StopRequested, TokentraceError
from tokentrace.model.secrets import hide_secrets

log = logging.getLogger(__name__)

#: Share of one core that an inquiry takes at most.
SHARE: Final = 0.01
#: Seconds without an answer that the page does not pass over in silence.
LATE_S: Final = 15.0


@dataclass(slots=True)
class Inquiry:
    """A question that is asked again after a while. ask: may block, and raises TokentraceError.

    rest: after an answer, nothing is asked for so many times as long as it took. answer: the last one, None before it.
    problem: why there is none now, empty if there is.
    """

    ask: Callable[[], Any]
    interval_s: float
    rest: int = 20
    answer: Any = None
    problem: str = ""
    due_s: float = field(default=0.0)

    def refresh(self, now_s: float) -> None:
        """Ask if it is due. now_s: on the monotonic clock. Raises StopRequested."""
        if now_s < self.due_s:
            return
        began_s = time.thread_time()
        try:
            self.answer, self.problem = self.ask(), ""
        except StopRequested:
            raise
        except TokentraceError as error:
            self.problem = hide_secrets(str(error))
        except Exception as error:
            # The page shows the rest.
            log.exception("The page cannot show a part of itself.")
            self.problem = f"unexpected: {type(error).__name__}"
        # An answer that takes long, or much of a core, is asked for less often.
        took_s, worked_s = time.monotonic() - now_s, time.thread_time() - began_s
        self.due_s = now_s + took_s + max(self.interval_s, self.rest * took_s, worked_s / SHARE)

    def forget(self) -> None:
        """Forget the answer: it would be old when somebody looks again."""
        self.answer, self.problem, self.due_s = None, "", 0.0

    def shown(self) -> dict[str, Any]:
        """Return the last answer, and the problem if there is one."""
        return {"answer": self.answer, "problem": self.problem}


class ThreadInquiry:
    """An inquiry on a thread of its own, for what may answer late or never: nothing waits for it."""

    def __init__(self, name: str, ask: Callable[[], Any], interval_s: float, rest: int) -> None:
        """name: of what is asked, as the page says it. For the others, see `Inquiry`."""
        self._name, self._ask, self._interval_s, self._rest = name, ask, interval_s, rest
        self._thread: threading.Thread | None = None
        self._begun_s = 0.0
        self.forget()

    def refresh(self, now_s: float) -> None:
        """Start to ask if it is due, and if the question before is answered."""
        if now_s >= self._inquiry.due_s and not self._asking:
            self._begun_s = time.monotonic()
            self._thread = threading.Thread(
                target=self._inquiry.refresh, args=(now_s,), name="page-inquiry", daemon=True
            )
            self._thread.start()

    def forget(self) -> None:
        """Forget the answer. One that is still on its way belongs to nobody."""
        self._inquiry = Inquiry(self._ask, self._interval_s, self._rest)

    def shown(self) -> dict[str, Any]:
        """Return the last answer, and the problem if there is one."""
        shown = self._inquiry.shown()
        if self._asking and time.monotonic() > self._begun_s + LATE_S:
            shown["problem"] = f"{self._name} has not answered for more than {LATE_S:.0f} s."
        return shown

    @property
    def _asking(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

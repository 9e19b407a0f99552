"""Logging: text on a terminal, one JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Final, Literal

from tokentrace.model.secrets import hide_secrets
from tokentrace.model.text import printable

#: A warning or an error that is the same as one before is logged again after this time.
REPEAT_S: Final = 10.0
#: One line of code logs so many warnings and errors a minute: clients and messages can cause any number.
MOST_A_MINUTE: Final = 20


def left_out(record: logging.LogRecord) -> str:
    """Return what a line adds about lines like it that were not logged, see `RepeatFilter`; empty without any."""
    count = getattr(record, "left_out", 0)
    return f" ({count} lines like it were left out.)" if count else ""


class _Json(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message and, if any, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": hide_secrets(record.getMessage()) + left_out(record),
        }
        if record.exc_info:
            entry["exception"] = hide_secrets(self.formatException(record.exc_info))
        return json.dumps(entry)


class _Text(logging.Formatter):
    """Formats a record as one line, and a traceback below it. Names from messages cannot forge or hide lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(hide_secrets(record.message)) + left_out(record)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return hide_secrets(super().formatException(ei))


class _Place:
    """A line of code that logs. logged_s: when it did in the last minute. left_out: its lines dropped since."""

    def __init__(self) -> None:
        self.logged_s: deque[float] = deque()
        self.left_out = 0


class RepeatFilter(logging.Filter):
    """Drops a warning or an error that was logged a moment ago with the same words, or is one of too many of its kind.

    The next record of the kind says how many were left out, in its attribute `left_out`.
    """

    def __init__(self, interval_s: float = REPEAT_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._clock = clock
        #: Message -> when it was logged last.
        self._logged_s: dict[str, float] = {}
        #: By file and line.
        self._places: defaultdict[tuple[str, int], _Place] = defaultdict(_Place)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now_s, message = self._clock(), record.getMessage()
        place = self._places[record.pathname, record.lineno]
        while place.logged_s and now_s >= place.logged_s[0] + 60.0:
            place.logged_s.popleft()
        # What is left out is not remembered, so a flood of different lines takes neither memory nor time.
        if len(place.logged_s) >= MOST_A_MINUTE or not self._is_new(message, now_s):
            place.left_out += 1
            return False
        place.logged_s.append(now_s)
        # Not in the message: other handlers get the record as well.
        record.left_out, place.left_out = place.left_out, 0
        return True

    def _is_new(self, message: str, now_s: float) -> bool:
        """Remember that a message is logged now, unless it was a moment ago."""
        self._logged_s = {text: at_s for text, at_s in self._logged_s.items() if now_s < at_s + self._interval_s}
        return self._logged_s.setdefault(message, now_s) == now_s


def set_up(level: str, form: Literal["auto", "text", "json"]) -> None:
    """Log to stderr. `auto` is text on a terminal and JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # librdkafka logs every retry; tokentrace logs what a user needs.
    logging.getLogger("librdkafka").setLevel(logging.CRITICAL if level != "debug" else logging.DEBUG)
    # They log the URL of every request, and the path of a webhook's URL may be a secret.
    for name in ("httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

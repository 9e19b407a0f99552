"""Logging: text on a terminal, one JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal


class _Json(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message and, if any, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(level: str, form: Literal["auto", "text", "json"]) -> None:
    """Log to stderr. `auto` is text on a terminal and JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # librdkafka logs every retry; tokentrace logs what a user needs.
    logging.getLogger("librdkafka").setLevel(logging.CRITICAL if level != "debug" else logging.DEBUG)
    # It logs the URL of every request, and a webhook's URL may contain a secret.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

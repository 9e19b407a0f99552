"""Logging: text on a terminal, one JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal


class _Json(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and the exception where there is one."""

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
    # librdkafka repeats every retry; what a user needs of it, tokentrace says in its own words.
    logging.getLogger("librdkafka").setLevel(logging.CRITICAL if level != "debug" else logging.DEBUG)
    # It logs each request with its address, and a webhook's address may hold a secret.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

"""JSON text: the value of a message that is written in JSON, whichever framing says so."""

from __future__ import annotations

import json
from typing import Any


def parse_json(value: bytes, **hooks: Any) -> Any:
    """Return the value. hooks: as `json.loads` takes them. Raises ValueError; its text says why there is none."""
    try:
        return json.loads(value.decode("utf-8"), **hooks)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error

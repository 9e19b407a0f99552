"""Digests: names for what a rule or an event is, the same in every process and every release."""

from __future__ import annotations

import hashlib
import json


def digest(parts: object, length: int) -> str:
    """Return `length` hex digits that are the same for the same parts in every process."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:length]

"""Keys of the records in the state topic: JSON arrays of the replica and the labels."""

from __future__ import annotations

import json
from typing import Final

from tokentrace.model.snapshot import ExpiredKey, Group
from tokentrace.model.spans import STATUSES

#: A group with a status code.
Cell = tuple[Group, int]

#: Made once: `json.dumps` makes one for every call that does not want its defaults.
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def cell_key(replica: str, group: Group, status: int) -> bytes:
    """The key of a cell's record: a JSON array."""
    return _json([replica, *group, STATUSES[status]])


def replica_key(replica: str) -> bytes:
    """The key of a replica's record: a JSON array."""
    return _json([replica])


def expired_key(replica: str, expired: ExpiredKey) -> bytes:
    """The key of a record of expired groups: a JSON array without the labels that were folded together."""
    labels = [] if expired.model is None else [expired.model, expired.provider or ""]
    return _json([replica, *labels, STATUSES[expired.status]])


def record_key(replica: str, key: Cell | ExpiredKey | None) -> bytes:
    """The key of any record of a replica; None is the replica's own."""
    if key is None:
        return replica_key(replica)
    return expired_key(replica, key) if isinstance(key, ExpiredKey) else cell_key(replica, *key)


def parse_key(key: bytes | None) -> tuple[str, Cell | ExpiredKey | None] | None:
    """Parse a key: (replica, its cell, its expired groups or, for the replica's own record, None).

    Returns None for a key that is not of this topic.
    """
    try:
        parts = json.loads(key or b"")
    except ValueError:
        return None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    if len(parts) == 1:
        return parts[0], None
    if len(parts) == 5 and parts[4] in STATUSES:
        return parts[0], (Group(*parts[1:4]), STATUSES.index(parts[4]))
    if len(parts) in (2, 4) and parts[-1] in STATUSES:
        model, provider = parts[1:3] if len(parts) == 4 else (None, None)
        return parts[0], ExpiredKey(model, provider, STATUSES.index(parts[-1]))
    return None


def _json(parts: list[str]) -> bytes:
    return _JSON.encode(parts).encode()

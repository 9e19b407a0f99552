"""Keys of the records in the state topic: JSON arrays of the replica and the labels.

A group with dimensions has them as an object before its status: `["r", "gpt-4o", "openai", "", {"team": "a"}, "ok"]`.
They are by name, so that a record means the same whatever dimensions are configured.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from tokentrace.model.snapshot import ExpiredKey, Group
from tokentrace.model.spans import STATUSES

#: A group with a status code.
Cell = tuple[Group, int]

#: Made once: `json.dumps` makes one for every call that does not want its defaults.
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
#: Labels repeat from commit to commit. More of them than this are encoded again each time.
_CACHED_TEXTS: Final = 1 << 14


@lru_cache(_CACHED_TEXTS)
def _quoted(text: str) -> str:
    return _JSON.encode(text)


def cell_key(replica: str, group: Group, status: int) -> bytes:
    """The key of a cell's record: a JSON array."""
    parts = [_quoted(replica), *map(_quoted, group.base)]
    if group.dimensions:
        items = ",".join([f"{_quoted(name)}:{_quoted(value)}" for name, value in group.dimensions])
        parts.append(f"{{{items}}}")
    parts.append(_quoted(STATUSES[status]))
    return f"[{','.join(parts)}]".encode()


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
    if not isinstance(parts, list):
        return None
    dimensions = parts.pop(4) if len(parts) == 6 else {}
    if not all(isinstance(part, str) for part in parts) or not _is_dimensions(dimensions):
        return None
    if len(parts) == 1:
        return parts[0], None
    if len(parts) == 5 and parts[4] in STATUSES:
        model, provider, caller = parts[1:4]
        group = Group(model, provider, caller, tuple(sorted(dimensions.items())))
        return parts[0], (group, STATUSES.index(parts[4]))
    if len(parts) in (2, 4) and parts[-1] in STATUSES:
        model, provider = parts[1:3] if len(parts) == 4 else (None, None)
        return parts[0], ExpiredKey(model, provider, STATUSES.index(parts[-1]))
    return None


def _is_dimensions(part: Any) -> bool:
    return isinstance(part, dict) and all(isinstance(value, str) and value for value in part.values())


def _json(parts: list[Any]) -> bytes:
    return _JSON.encode(parts).encode()

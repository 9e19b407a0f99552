"""Offset marks: what an exactly-once commit writes beside each offset, so that a lost state is found by it.

Kafka keeps a text with every committed offset. A commit that is part of a transaction with the state names the state
topic by its id. An offset that names another one was counted in a state that is gone. One without a mark was committed
by a command, by an at-least-once worker or by release 0.1.0.
"""

from __future__ import annotations

from typing import Final

_PREFIX: Final = "tokentrace exactly_once state="


def mark_of(state_id: str) -> str:
    """Return the metadata of offsets that are committed with the state of this id."""
    return _PREFIX + state_id


def marks_other_state(metadata: str, state_id: str) -> bool:
    """Return whether an offset was committed with another state than this one. An id that is unknown is empty."""
    return metadata.startswith(_PREFIX) and bool(state_id) and metadata not in (_PREFIX, mark_of(state_id))


def is_marked(metadata: str) -> bool:
    """Return whether an offset was committed with a state."""
    return metadata.startswith(_PREFIX)

"""A `tokentrace ledger` that kills itself at one point.

Run `python -m tests.chaos.crashing_ledger POINT COUNT ledger run --config PATH`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tokentrace.cli import main as tokentrace
from tokentrace.ledger.store import LedgerStore
from tokentrace.ledger.upsert import Upsert

#: Point -> (class, method behind whose COUNTth call the process dies).
POINTS: dict[str, tuple[type, str]] = {
    "group_ids_added": (LedgerStore, "_new_ids"),
    "cells_added": (Upsert, "run"),
    "committed": (LedgerStore, "apply"),
}


def arm(point: str, count: int) -> None:
    """Make the process kill itself behind the count-th call of the point's method."""
    owner, name = POINTS[point]
    method: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        result = method(*arguments, **keywords)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    del sys.argv[1:3]
    tokentrace()

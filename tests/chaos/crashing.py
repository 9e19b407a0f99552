"""A `tokentrace worker` that kills itself at one point.

Run `python -m tests.chaos.crashing POINT COUNT worker --config PATH`.

The points are put around the product's own methods from here; the product has no hook for it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tokentrace.alerts import evaluator, ownership
from tokentrace.alerts.delivery import Deliverer
from tokentrace.cli import main as tokentrace
from tokentrace.kafka.source import KafkaSource
from tokentrace.kafka.transaction import TransactionalProducer
from tokentrace.runtime.worker import Worker
from tokentrace.state import StateReader
from tokentrace.state.replica_state import ReplicaState

#: Point -> (class, method before whose COUNTth call the process dies).
POINTS: dict[str, tuple[type, str]] = {
    "after_produce": (TransactionalProducer, "_send_offsets"),
    "after_offsets_sent": (TransactionalProducer, "_commit_transaction"),
    "after_commit": (ReplicaState, "apply"),
    "in_on_assign": (KafkaSource, "_assign"),
    "in_on_revoke": (Worker, "on_revoke"),
    "during_restore": (StateReader, "read"),
}

#: The same for the evaluator of the alerts: (owner, function or method).
ALERT_POINTS: dict[str, tuple[Any, str]] = {
    "alert_evaluated": (ownership, "alert_record"),
    "alert_committed": (evaluator.EvaluatorSession, "_deliver"),
    "alert_delivered": (Deliverer, "_report"),
}


def arm(point: str, count: int) -> None:
    """Make the process kill itself before the count-th call of the point's method."""
    owner, name = {**POINTS, **ALERT_POINTS}[point]
    method: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **keywords)

    setattr(owner, name, dying)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["tokentrace", *sys.argv[3:]]
    tokentrace()

"""Recovery: new Kafka clients in place of those that failed, in the same process, at the start or while it counts.

A broker that is killed, a coordinator that moves or a call that the library loses ends a client, and nothing that is
committed. So the worker continues from there, as a restart would, and its endpoint shows the totals meanwhile. What no
outage explains (a refused right, a wrong setting, another process with the replica id) ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tokentrace.errors import ClientFailed, Unreachable
from tokentrace.model.backoff import Backoff
from tokentrace.model.stop import StopSignal

log = logging.getLogger(__name__)

#: First and longest delay between two tries.
FIRST_S: Final = 0.5
LONGEST_S: Final = 5.0

#: The errors that pass with an outage.
OUTAGES: Final = (ClientFailed, Unreachable)


def failure_of(outage: ClientFailed | Unreachable) -> ClientFailed:
    """Return an outage as the failure of a client."""
    return outage if isinstance(outage, ClientFailed) else ClientFailed(str(outage))


def try_until_done(
    step: Callable[[], None],
    *,
    stop: StopSignal,
    abandon: Callable[[ClientFailed], None],
    failure: ClientFailed | None = None,
) -> bool:
    """Make a step with new clients until it succeeds; return False if a stop is requested first.

    abandon: drops what is not committed and closes the clients that failed; called before each pause. failure: what has
    made the step necessary, None to make it at once. Raises what `step` raises, other than OUTAGES.
    """
    backoff = Backoff(FIRST_S, LONGEST_S)
    problem = failure
    while not stop.is_set():
        if problem is not None:
            pause_s = backoff.next()
            log.warning("%s The Kafka clients are replaced in %.2g s.", problem, pause_s)
            abandon(problem)
            if stop.wait(pause_s):
                break
        try:
            step()
        except OUTAGES as outage:
            problem = failure_of(outage)
        else:
            if problem is not None:
                log.info("The Kafka clients are replaced; continuing from what is committed.")
            return True
    return False

"""Recovery: new Kafka clients in place of those that failed, in the same process.

A broker that is killed, a coordinator that moves or a call that the library loses ends a client, and nothing that is
committed. So the worker continues from there, as a restart would, and its endpoint shows the totals meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tokentrace.errors import ClientFailed, UsageError
from tokentrace.model.backoff import Backoff
from tokentrace.model.stop import StopSignal

log = logging.getLogger(__name__)

#: First and longest delay between two tries.
FIRST_S: Final = 0.5
LONGEST_S: Final = 5.0


def recover(
    failure: ClientFailed,
    *,
    stop: StopSignal,
    abandon: Callable[[ClientFailed], None],
    begin: Callable[[ClientFailed], None],
) -> None:
    """Try until new clients work or a stop is requested.

    abandon: drops what is not committed and closes the clients that failed. begin: continues with new ones; gets the
    first failure. Raises what `begin` raises, other than ClientFailed and UsageError: those pass with the outage.
    """
    backoff = Backoff(FIRST_S, LONGEST_S)
    problem = failure
    while not stop.is_set():
        pause_s = backoff.next()
        log.warning("%s The Kafka clients are replaced in %.2g s.", problem, pause_s)
        abandon(problem)
        if stop.wait(pause_s):
            return
        try:
            begin(failure)
        except ClientFailed as again:
            if again is failure:
                raise
            problem = again
        except UsageError as unreachable:
            problem = ClientFailed(str(unreachable))
        else:
            log.info("The Kafka clients are replaced; continuing from what is committed.")
            return

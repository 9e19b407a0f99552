"""Leaving: how a member of a group ends its membership, before its consumer is closed.

librdkafka 2.16 ends the group early where a consumer is closed while an assignment waits for its callback, and calls
back about the revoke afterwards (found on a real broker, 2026-11). What that callback requests fails, or is never
answered if the group ends at that moment. The binding holds the interpreter's lock meanwhile, so the whole process
stands still, its watchdog too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from confluent_kafka import Consumer, KafkaException

#: Longest time in which the library may call back about what is left, without the time of the callbacks.
LEAVE_TIMEOUT_S: Final = 5.0
#: Time-out and size of a poll meanwhile. What it returns is dropped.
POLL_S: Final = 0.02
POLL_MESSAGES: Final = 1000
_POLLS: Final = int(LEAVE_TIMEOUT_S / POLL_S)


def leave(consumer: Consumer, assigned: Callable[[], object]) -> None:
    """Unsubscribe, and run the rebalances that wait, so that none is left for `close`.

    assigned: whether the group has assigned something to this member that is not revoked yet, by its callbacks.
    """
    with suppress(KafkaException):
        # An assignment that has arrived before this is in the queue now; one that arrives later is ignored.
        consumer.unsubscribe()
    with suppress(KafkaException):
        consumer.consume(POLL_MESSAGES, 0.0)
        for _ in range(_POLLS):
            if not assigned():
                return
            consumer.consume(POLL_MESSAGES, POLL_S)


def run_rebalances(consumer: Consumer, callbacks: Callable[[], int]) -> None:
    """Run the rebalances that wait, for a static member: it would lose its place in the group by unsubscribing.

    callbacks: how many have run. A rebalance that arrives in the instant between this and `close` waits again then.
    """
    before = -1
    with suppress(KafkaException):
        for _ in range(_POLLS):
            if callbacks() == before:
                return
            before = callbacks()
            consumer.consume(POLL_MESSAGES, POLL_S)

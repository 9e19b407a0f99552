"""Leaving a group, with a consumer that follows a script. On a real Kafka: tests/integration/test_stopping.py."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from tests.kafka.fakes import Scripted
from tokentrace.kafka.leaving import LEAVE_TIMEOUT_S, POLL_S, leave, run_rebalances


def test_leave_polls_until_everything_is_revoked() -> None:
    consumer = Scripted({})
    leave(consumer, lambda: consumer.calls.count("consume") < 4)  # type: ignore[arg-type]
    assert consumer.calls == ["unsubscribe", *["consume"] * 4]


def test_leave_polls_once_without_an_assignment() -> None:
    """An assignment may wait for its callback, which tells of it."""
    consumer = Scripted({})
    leave(consumer, lambda: False)  # type: ignore[arg-type]
    assert consumer.calls == ["unsubscribe", "consume"]


def test_leave_ends_where_the_library_does_not_call_back() -> None:
    consumer = Scripted({})
    leave(consumer, lambda: True)  # type: ignore[arg-type]
    assert consumer.calls == ["unsubscribe", "consume", *["consume"] * int(LEAVE_TIMEOUT_S / POLL_S)]


def test_leave_raises_nothing_for_a_member_that_has_failed() -> None:
    consumer = Scripted({})
    fatal = KafkaException(KafkaError(KafkaError._FATAL, "scripted"))
    consumer.errors = {"unsubscribe": [fatal], "consume": [fatal]}
    leave(consumer, lambda: True)  # type: ignore[arg-type]
    assert consumer.calls == ["unsubscribe", "consume"]


def test_a_static_member_runs_what_waits_and_keeps_its_place() -> None:
    """Unsubscribing sends a LeaveGroup request, also of a static member: its restart would move its partitions."""
    consumer = Scripted({})
    run_rebalances(consumer, lambda: min(consumer.calls.count("consume"), 2))  # type: ignore[arg-type]
    assert consumer.calls == ["consume"] * 3


def test_a_static_member_does_not_wait_for_a_group_that_rebalances_on_and_on() -> None:
    consumer = Scripted({})
    run_rebalances(consumer, lambda: len(consumer.calls))  # type: ignore[arg-type]
    assert consumer.calls == ["consume"] * int(LEAVE_TIMEOUT_S / POLL_S)

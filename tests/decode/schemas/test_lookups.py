"""Look-ups in the background: their order, their number, and what a failure cancels."""

from __future__ import annotations

import threading

import pytest

from tokentrace.decode.schemas import lookups
from tokentrace.decode.schemas.lookups import MAX_PENDING, THREADS, Lookups
from tokentrace.errors import SchemaError, SchemaUnavailable


class Gate:
    """A registry that answers when it is opened. asked: ids in the order of their requests. down: ids that fail."""

    def __init__(self, *, opened: bool = True, down: frozenset[int] = frozenset()) -> None:
        self.asked: list[int] = []
        self.opened = threading.Event()
        self.down = down
        self._lock = threading.Lock()
        if opened:
            self.opened.set()

    def __call__(self, schema_id: int) -> None:
        with self._lock:
            self.asked.append(schema_id)
        assert self.opened.wait(30)
        if schema_id in self.down:
            raise SchemaUnavailable(f"{schema_id} is down")
        if schema_id % 2:
            raise SchemaError("unknown_schema_id", "no such id")


def join_lookups() -> None:
    """Wait until no look-up runs: the threads end when nothing is left to look up."""
    for thread in threading.enumerate():
        if thread.name.startswith("schema-lookup"):
            thread.join(30)
            assert not thread.is_alive()


def test_lookups_without_a_limit_wait_for_all_ids() -> None:
    gate = Gate()
    ids = list(range(3 * MAX_PENDING))
    assert Lookups(gate).run(ids) is None
    assert sorted(gate.asked) == ids


def test_lookups_are_bounded_in_number_and_go_on_in_the_background() -> None:
    gate = Gate(opened=False)
    subject = Lookups(gate, wait_s=0.0)
    ids = list(range(2 * MAX_PENDING))
    for _ in range(3):
        assert subject.run(ids) is None
        assert len(gate.asked) <= THREADS
    gate.opened.set()
    join_lookups()
    assert sorted(gate.asked) == ids[:MAX_PENDING], "beyond the bound, ids wait for the next call"


def test_lookups_of_an_id_that_is_pending_are_not_repeated() -> None:
    gate = Gate(opened=False)
    subject = Lookups(gate, wait_s=0.01)
    for _ in range(5):
        subject.run([4, 6])
    gate.opened.set()
    join_lookups()
    assert sorted(gate.asked) == [4, 6]


def test_a_failure_cancels_the_lookups_behind_it() -> None:
    gate = Gate(down=frozenset(range(0, 1000, 2)))
    failure = Lookups(gate).run(list(range(MAX_PENDING)))
    assert str(failure).endswith("is down")
    assert len(gate.asked) <= 2 * THREADS


def test_a_failure_is_returned_once_and_the_next_call_asks_again() -> None:
    gate = Gate(down=frozenset({2}))
    subject = Lookups(gate)
    assert str(subject.run([2])) == "2 is down"
    gate.down = frozenset()
    assert subject.run([2]) is None
    assert gate.asked == [2, 2]


def test_a_failure_forgets_what_is_requested_at_the_moment() -> None:
    """Its late failure is of before, and the next call needs a new answer."""
    asked: list[int] = []
    slow, requested = threading.Event(), threading.Event()

    def look_up(schema_id: int) -> None:
        asked.append(schema_id)
        if schema_id == 2:
            assert requested.wait(30)
            raise SchemaUnavailable("first")
        if asked.count(4) == 1:
            requested.set()
            assert slow.wait(30)
            raise SchemaUnavailable("late")

    subject = Lookups(look_up)
    assert str(subject.run([2, 4])) == "first"
    assert subject.run([4]) is None
    assert sorted(asked) == [2, 4, 4]
    slow.set()
    join_lookups()
    assert subject.run([4]) is None


def test_a_failure_in_the_background_is_returned_by_the_next_call() -> None:
    gate = Gate(opened=False, down=frozenset({2}))
    subject = Lookups(gate, wait_s=0.01)
    assert subject.run([2]) is None
    gate.opened.set()
    failure = None
    while failure is None:
        failure = subject.run([2])
    assert str(failure) == "2 is down"


def test_an_unexpected_error_of_a_lookup_is_a_failure_and_no_end(caplog: pytest.LogCaptureFixture) -> None:
    def broken(schema_id: int) -> None:
        raise ZeroDivisionError("no")

    subject = Lookups(broken)
    for _ in range(2):
        assert str(subject.run([7])) == "Schema id 7 could not be looked up (ZeroDivisionError: no)."
    assert caplog.records[0].name == lookups.__name__

"""The feed: every record once, the newest first, and nothing while nobody looks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.exposition.ui.helpers import Following, MemoryLog, at
from tests.harness import NOW_S
from tests.services.workers import wait_for
from tests.spanfactory import span
from tokentrace.exposition.ui.feed import UNWATCHED_S
from tokentrace.exposition.ui.inquiry import Inquiry

HOUR_S = 3600.0


@pytest.fixture
def following() -> Iterator[Following]:
    made = Following(MemoryLog())
    yield made
    made.end()


def write_history(log: MemoryLog, *hours: int) -> None:
    """A commit of two spans in the middle of each hour before the present."""
    for hour in sorted(hours, reverse=True):
        minute = -60 * hour - 30
        log.write(span(**at(minute)), span(**at(minute, model="m")), written_s=NOW_S + 60 * minute)


def test_every_record_is_read_once_and_the_log_is_followed(following: Following) -> None:
    write_history(following.log, 0)
    following.log.write(span(**at(-1)), written_s=NOW_S - 30)
    following.feed.look(HOUR_S)
    assert following.wait_for(3)
    following.log.write(span(**at(0)))
    assert following.wait_for(4)
    assert wait_for(lambda: following.log.open == 1)
    with following.feed.minutes() as (_, state):
        assert (state.from_s, state.reading, state.problem) == (NOW_S - HOUR_S, False, "")
        assert state.replicas == {"r": NOW_S}


def test_a_longer_window_reads_further_back(following: Following) -> None:
    write_history(following.log, 0, 1, 2, 3, 30)
    following.feed.look(HOUR_S)
    assert following.wait_for(2)
    following.feed.look(3 * HOUR_S)
    assert following.wait_for(6)
    following.feed.look(24 * HOUR_S)
    assert following.wait_for(8)
    with following.feed.minutes() as (_, state):
        assert wait_for(lambda: not state.reading or following.log.open == 1)


def test_feed_forgets_everything_once_nobody_looks(following: Following) -> None:
    following.log.write(span(**at(0)))
    following.feed.look(HOUR_S)
    assert following.wait_for(1)
    following.monotonic.now_s += UNWATCHED_S + 1
    assert wait_for(lambda: (following.spans(), following.log.open) == (0, 0))
    following.feed.look(HOUR_S)
    assert following.wait_for(1)


def test_a_log_that_is_created_again_is_read_from_its_beginning(following: Following) -> None:
    for _ in range(5):
        following.log.write(span(**at(0)))
    following.feed.look(HOUR_S)
    assert following.wait_for(5)
    following.log.recreate()
    following.log.write(span(**at(0)))
    assert following.wait_for(1)


def test_kafka_that_is_away_is_said_and_asked_again(following: Following) -> None:
    following.log.available = False
    following.log.write(span(**at(0)))
    following.feed.look(HOUR_S)

    def problem() -> str:
        with following.feed.minutes() as (_, state):
            return state.problem

    assert wait_for(lambda: problem() == "No Kafka broker answers.")
    following.log.available = True
    assert following.wait_for(1)
    assert problem() == ""


def test_a_record_that_cannot_be_read_is_counted(following: Following) -> None:
    following.log.damage()
    following.log.write(span(**at(0)))
    following.feed.look(HOUR_S)
    assert following.wait_for(1)
    with following.feed.minutes() as (_, state):
        assert state.unreadable == 1


def test_an_inquiry_that_fails_says_why_and_leaves_the_rest_alone() -> None:
    def fail() -> None:
        raise RuntimeError("secret detail")

    following = Following(MemoryLog(), inquiries={"good": Inquiry(lambda: 7, 5.0), "bad": Inquiry(fail, 5.0)})
    following.log.write(span(**at(0)))
    following.feed.look(HOUR_S)
    try:
        assert following.wait_for(1)
        expected = {
            "good": {"answer": 7, "problem": ""},
            "bad": {"answer": None, "problem": "unexpected: RuntimeError"},
        }
        assert wait_for(lambda: following.feed.answers == expected, 5.0), following.feed.answers
    finally:
        following.end()

"""The ledger inside workers: one of them keeps it, another one after it, and counting never depends on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.helpers import RollupTopic, follower, recount, sqlite_hours, sqlite_url
from tests.services.workers import wait_for
from tests.spanfactory import NOW_US, span
from tokentrace.errors import FatalError
from tokentrace.ledger import follow, in_worker
from tokentrace.ledger.follow import Progress, Tail
from tokentrace.ledger.in_worker import LedgerThread


class Vote:
    """An election that the test decides."""

    def __init__(self) -> None:
        self.elected = False
        self.closed = False

    def poll(self, timeout_s: float) -> bool:
        return self.elected

    def close(self) -> None:
        self.closed = True


class Connected(RollupTopic):
    """A topic that can be read by several tails, one after the other."""

    def close(self) -> None:
        pass


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Connected:
    monkeypatch.setattr(in_worker, "RETRY_S", 0.05)
    monkeypatch.setattr(follow, "LINGER_S", 0.0)
    return Connected()


def thread(topic: Connected, vote: Vote, folder: Path, elect: Callable[[], Any] | None = None) -> LedgerThread:
    def open_follower(tail: Tail) -> Any:
        return follower(tail, sqlite_url(folder))  # type: ignore[arg-type]

    return LedgerThread(elect=elect or (lambda: vote), open_tail=lambda: topic, follow=open_follower)


def test_only_the_elected_replica_keeps_the_ledger(
    topic: Connected, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    votes = [Vote(), Vote()]
    threads = [thread(topic, vote, tmp_path) for vote in votes]
    produced = []
    for keeper in threads:
        keeper.start()
    for turn in range(4):
        votes[1 - turn % 2].elected = False
        assert wait_for(lambda turn=turn: caplog.text.count("Another replica keeps the ledger now.") == turn)
        votes[turn % 2].elected = True
        spans = [span(caller=str(turn))] * (turn + 1)
        topic.commit(spans, NOW_US + turn)
        produced += spans
        expected = recount(produced)
        assert wait_for(lambda expected=expected: (tmp_path / "ledger.db").exists() and hours(tmp_path) == expected)
        keeper, other = threads[turn % 2], threads[1 - turn % 2]
        assert wait_for(lambda turn=turn, keeper=keeper: keeper.progress == Progress(0, NOW_US + turn, 0))
        assert wait_for(lambda other=other: other.progress is None)
    for keeper in threads:
        keeper.stop()
    assert all(vote.closed for vote in votes)
    assert hours(tmp_path) == recount(produced)


def hours(folder: Path) -> Any:
    try:
        return sqlite_hours(folder)
    except sqlite3.OperationalError:
        return None


def test_a_failure_is_logged_and_tried_again(
    topic: Connected, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vote, tries = Vote(), 0
    vote.elected = True

    def elect() -> Vote:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise FatalError("not allowed")
        if tries == 2:
            raise ValueError("a bug")
        return vote

    topic.commit([span()], NOW_US)
    keeper = thread(topic, vote, tmp_path, elect)
    keeper.start()
    assert wait_for(lambda: hours(tmp_path) == recount([span()]))
    keeper.stop()
    assert "The ledger stopped on this replica; retrying in 0 s: not allowed" in caplog.text
    assert "ValueError('a bug')" in caplog.text
    assert keeper.failures == 2

"""The ledger follows the rollups exactly once, and misses nothing in silence."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.ledger.helpers import (
    DAY_US,
    HOUR_US,
    RollupTopic,
    follower,
    position_of,
    recount,
    sqlite_hours,
    sqlite_url,
)
from tests.services import ROOT
from tests.spanfactory import NOW_US, span, unit_span
from tokentrace.errors import FatalError, UsageError
from tokentrace.ledger import follow
from tokentrace.ledger.database import Database, DatabaseUnavailable
from tokentrace.ledger.follow import Progress
from tokentrace.ledger.store import LedgerStore, read_gaps

Spans = list[dict[str, Any]]


def traffic(seed: str, commits: int, spans: int, first_us: int = NOW_US) -> Iterator[tuple[int, Spans]]:
    """Commits, one an hour: (time, spans), some of which ended hours and days before."""
    rng = random.Random(seed)
    for number in range(commits):
        at_us = first_us + number * HOUR_US
        batch = []
        for _ in range(spans):
            late_us = rng.choice([0, 0, 0, rng.randrange(HOUR_US), rng.randrange(3 * DAY_US)])
            ended_us = at_us - late_us - rng.randrange(60_000_000)
            batch.append({**unit_span(rng), "started_at": ended_us - 1_000_000, "ended_at": ended_us})
        yield at_us, batch


@pytest.fixture
def topic() -> RollupTopic:
    return RollupTopic()


def test_hours_equal_a_recount_of_the_spans(topic: RollupTopic, tmp_path: Path) -> None:
    spans: Spans = []
    for at_us, batch in traffic("hours", 12, 60):
        topic.commit(batch, at_us)
        spans += batch
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    assert sqlite_hours(tmp_path) == recount(spans)
    assert position_of(tmp_path)[3] == topic.end


def test_a_ledger_that_is_run_again_adds_only_what_is_new(topic: RollupTopic, tmp_path: Path) -> None:
    spans: Spans = []
    for at_us, batch in traffic("again", 6, 20):
        topic.commit(batch, at_us)
        spans += batch
        for _ in range(2):
            follower(topic, sqlite_url(tmp_path)).run(until_end=True)
        assert sqlite_hours(tmp_path) == recount(spans)


@pytest.mark.parametrize("when", ["before the cells", "before the commit", "after the commit"])
def test_a_crash_in_a_transaction_counts_nothing_twice(
    topic: RollupTopic, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: Spans = []
    for at_us, batch in traffic("crash", 8, 20):
        topic.commit(batch, at_us)
        spans += batch
    apply, add = LedgerStore.apply, LedgerStore._add
    crashes = iter([True, True, False, True])

    def crashing_apply(self: LedgerStore, *arguments: Any) -> None:
        apply(self, *arguments)
        if when == "after the commit" and next(crashes, False):
            raise DatabaseUnavailable("the answer is lost")

    def crashing_add(self: LedgerStore, *arguments: Any) -> Any:
        crash = when != "after the commit" and next(crashes, False)
        if crash and when == "before the cells":
            raise sa.exc.OperationalError("", None, Exception("gone"))
        new = add(self, *arguments)
        if crash:
            raise sa.exc.OperationalError("", None, Exception("gone"))
        return new

    monkeypatch.setattr(LedgerStore, "apply", crashing_apply)
    monkeypatch.setattr(LedgerStore, "_add", crashing_add)
    monkeypatch.setattr(follow, "RETRY_S", 0.0)
    monkeypatch.setattr(follow, "_POLL", 1)
    follower(topic, sqlite_url(tmp_path), batch_rows=1).run(until_end=True)
    assert next(crashes, None) is None, "the crashes have happened"
    assert sqlite_hours(tmp_path) == recount(spans)


@pytest.mark.parametrize(("batch_rows", "transactions"), [(2, [*[3] * 20, 0]), (4, [3])])
def test_commits_of_the_same_hours_are_written_once(
    topic: RollupTopic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, transactions: list[int]
) -> None:
    """Unless there are more cells than a transaction takes: three are more than two."""
    spans = [span(model=f"m{number % 3}") for number in range(60)]
    for first in range(0, 60, 3):
        topic.commit(spans[first : first + 3], NOW_US + first)
    written: list[int] = []
    apply = LedgerStore.apply

    def counted(self: LedgerStore, cells: Any, *arguments: Any) -> None:
        written.append(0 if cells is None else len(cells.keys))
        apply(self, cells, *arguments)

    monkeypatch.setattr(LedgerStore, "apply", counted)
    monkeypatch.setattr(follow, "_POLL", 1)
    follower(topic, sqlite_url(tmp_path), batch_rows=batch_rows, linger_s=1000.0).run(until_end=True)
    assert written == transactions
    assert sqlite_hours(tmp_path) == recount(spans)


def test_progress_tells_what_is_not_in_the_database_while_it_is_away(
    topic: RollupTopic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = follower(topic, sqlite_url(tmp_path))
    topic.commit([span()], NOW_US)
    subject.run(until_end=True)
    assert subject.progress == Progress(0, NOW_US, 0)
    topic.commit([span()], NOW_US + 5)
    added = topic.end - 2
    seen: list[Progress | None] = []

    def unavailable(self: LedgerStore, *arguments: Any) -> None:
        raise DatabaseUnavailable("the database is away")

    def waiting(timeout_s: float) -> bool:
        seen.append(subject.progress)
        monkeypatch.undo()
        return False

    monkeypatch.setattr(LedgerStore, "apply", unavailable)
    monkeypatch.setattr(subject._stop, "wait", waiting)
    subject.run(until_end=True)
    assert seen == [Progress(topic.end - added, NOW_US, 0, "the database is away")]
    assert subject.progress == Progress(0, NOW_US + 5, 0)
    assert subject.outages == 1


def test_two_ledgers_on_one_database_are_refused(topic: RollupTopic, tmp_path: Path) -> None:
    first = follower(topic, sqlite_url(tmp_path))
    position = first._start()
    topic.commit([span()], NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    with pytest.raises(FatalError, match="Another process has written to this ledger"):
        first._follow(position, until_end=True)
    assert sqlite_hours(tmp_path) == recount([span()])


def test_expired_rollups_stop_the_ledger_and_name_the_hours(topic: RollupTopic, tmp_path: Path) -> None:
    batches = list(traffic("gap", 9, 5))
    for at_us, batch in batches[:3]:
        topic.commit(batch, at_us)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    for at_us, batch in batches[3:]:
        topic.commit(batch, at_us)
    topic.expire(topic.records[5].offset)
    hours = r"hours from 2026-09-21 16:00 to 2026-09-21 19:00 UTC, and late spans of hours before, lack"
    with pytest.raises(FatalError, match=rf"offset 6 to 9 are missing \(expired before they were read\): the {hours}"):
        follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    follower(topic, sqlite_url(tmp_path), accept_gap=True).run(until_end=True)
    kept = [span for _, batch in batches[:3] + batches[5:] for span in batch]
    assert sqlite_hours(tmp_path) == recount(kept)
    (gap,) = read_gaps(Database(sqlite_url(tmp_path)))
    assert (gap.first_offset, gap.next_offset) == (6, 10)
    with pytest.raises(UsageError, match="A rebuild would lose hours"):
        follower(topic, sqlite_url(tmp_path)).rebuild()


def test_records_that_expire_after_they_were_read_are_no_gap(topic: RollupTopic, tmp_path: Path) -> None:
    topic.commit([span()], NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    topic.expire(topic.end)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    topic.commit([span()], NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    assert sqlite_hours(tmp_path) == recount([span(), span()])


def test_a_new_ledger_begins_where_the_topic_does_and_says_so(topic: RollupTopic, tmp_path: Path) -> None:
    for at_us, batch in traffic("new", 4, 5):
        topic.commit(batch, at_us)
    topic.expire(4)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    (gap,) = read_gaps(Database(sqlite_url(tmp_path)))
    assert (gap.first_offset, gap.next_offset, gap.reason) == (0, 4, "counted before the ledger began")


def test_a_recreated_topic_stops_the_ledger(topic: RollupTopic, tmp_path: Path) -> None:
    topic.commit([span()], NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    other = RollupTopic()
    other.id = "two"
    for _ in range(3):
        other.commit([span()], NOW_US)
    with pytest.raises(FatalError, match="the topic was recreated"):
        follower(other, sqlite_url(tmp_path)).run(until_end=True)
    follower(other, sqlite_url(tmp_path), accept_gap=True).run(until_end=True)
    assert sqlite_hours(tmp_path) == recount([span()] * 4)


def test_a_topic_that_lost_its_tail_stops_the_ledger_and_is_not_read_again(topic: RollupTopic, tmp_path: Path) -> None:
    batches = list(traffic("tail", 4, 5))
    for at_us, batch in batches:
        topic.commit(batch, at_us)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    # As after an unclean election of a leader: the last two commits are gone.
    topic.records, topic.end = topic.records[:2], 4
    with pytest.raises(FatalError, match="the topic lost records that the ledger has"):
        follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    follower(topic, sqlite_url(tmp_path), accept_gap=True).run(until_end=True)
    topic.commit([span()], NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    assert sqlite_hours(tmp_path) == recount([*(one for _, batch in batches for one in batch), span()])
    with pytest.raises(UsageError, match="A rebuild would lose hours"):
        follower(topic, sqlite_url(tmp_path)).rebuild()


def test_a_record_that_cannot_be_read_stops_the_ledger(topic: RollupTopic, tmp_path: Path) -> None:
    topic.commit([span()], NOW_US)
    topic.append(b"nothing that tokentrace wrote", NOW_US)
    topic.commit([span()], NOW_US)
    with pytest.raises(FatalError, match=r"rollup at offset 2 of topic 'g\.rollups' cannot be read"):
        follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    assert sqlite_hours(tmp_path) == recount([span()]), "what is before it is in the ledger"
    accepting = follower(topic, sqlite_url(tmp_path), accept_gap=True)
    accepting.run(until_end=True)
    assert accepting.progress is not None
    assert accepting.progress.gaps == 1
    assert sqlite_hours(tmp_path) == recount([span()] * 2)
    assert [gap.reason for gap in read_gaps(Database(sqlite_url(tmp_path)))] == ["a record cannot be read"]


def test_a_rebuild_gives_the_same_ledger(topic: RollupTopic, tmp_path: Path) -> None:
    spans: Spans = []
    for at_us, batch in traffic("rebuild", 5, 30):
        topic.commit(batch, at_us)
        spans += batch
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    with sa.create_engine(sqlite_url(tmp_path)).begin() as connection:
        before = connection.exec_driver_sql("SELECT * FROM ledger_hours").all()
        connection.exec_driver_sql("UPDATE ledger_hours SET spans = spans + 1")
    follower(topic, sqlite_url(tmp_path)).rebuild()
    with sa.create_engine(sqlite_url(tmp_path)).begin() as connection:
        assert connection.exec_driver_sql("SELECT * FROM ledger_hours").all() == before
    assert sqlite_hours(tmp_path) == recount(spans)


def test_rollups_of_the_first_release_are_read(topic: RollupTopic, tmp_path: Path) -> None:
    golden = ROOT / "tests" / "golden" / "0.1.0"
    for _, value in json.loads((golden / "records.json").read_text())["rollups"]:
        topic.append(base64.b64decode(value), NOW_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    hours: dict[Any, Counter[str]] = {}
    for rollup in json.loads((golden / "expected.json").read_text())["rollups"]:
        for minute, *cell, counts in rollup["rows"]:
            hours.setdefault((minute // 60, *cell), Counter()).update(counts["sums"])
    assert sqlite_hours(tmp_path) == {cell: +sums for cell, sums in hours.items()}


def test_another_group_s_topic_is_refused(topic: RollupTopic, tmp_path: Path) -> None:
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    other = RollupTopic()
    other.topic = "h.rollups"
    with pytest.raises(UsageError, match="This ledger is of topic"):
        follower(other, sqlite_url(tmp_path)).run(until_end=True)

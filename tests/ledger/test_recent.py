"""Recent bills: this month and the last one, equal to `tokentrace bill` and to a recount, in a bounded size."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.cli.test_main import run
from tests.ledger.helpers import DAY_US, RollupTopic, follower, sqlite_url
from tests.oracle import cost_of
from tests.spanfactory import random_span
from tokentrace.errors import UsageError
from tokentrace.ledger.database import DatabaseUnavailable
from tokentrace.ledger.recent import MOST_GAPS, MOST_ROWS, _months, recent_bills
from tokentrace.model.dimensions import Dimension
from tokentrace.runtime.live_page import bills

Span = dict[str, Any]
LABELS = ("model", "provider", "caller", "team", "region")
MONTHS = ("2026-11", "2026-10")
NOW_S = datetime(2026, 11, 5, 12, tzinfo=UTC).timestamp()
COMMIT_US = int(NOW_S) * 1_000_000
CONFIG = """\
kafka: {bootstrap_servers: "localhost:9092", topic: spans, group_id: g}
"""


@pytest.fixture(scope="module")
def spans() -> list[Span]:
    """Spans of the last twenty days, by more callers than there are rows; no span has a region."""
    rng = random.Random("recent")
    found = []
    for _ in range(400):
        ended_us = COMMIT_US - rng.randrange(20 * DAY_US)
        more = {"caller": f"caller-{rng.randrange(60)}", "attributes": {"team": rng.choice(["red", "blue"])}}
        found.append({**random_span(rng), **more, "started_at": ended_us - 1_000_000, "ended_at": ended_us})
    return found


@pytest.fixture(scope="module")
def folder(spans: list[Span], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration, and the ledger of the spans."""
    folder = tmp_path_factory.mktemp("recent")
    (folder / "tokentrace.yml").write_text(f"{CONFIG}ledger: {{url: sqlite:///ledger.db}}\n")
    topic = RollupTopic(dimensions=[Dimension("team", "attributes.team")])
    topic.commit(spans, COMMIT_US)
    follower(topic, sqlite_url(folder)).run(until_end=True)
    return folder


def value_of(span: Span, label: str) -> str:
    return str(span["attributes"].get(label, "") if label in ("team", "region") else span[label])


def recount(spans: list[Span], month: str, label: str) -> dict[str, tuple[int, int]]:
    """Value of the label -> (spans, nano-USD), one by one."""
    count, cost = Counter[str](), Counter[str]()
    for span in spans:
        if f"{datetime.fromtimestamp(span['ended_at'] / 1e6, UTC):%Y-%m}" == month:
            count[value_of(span, label)] += 1
            cost[value_of(span, label)] += cost_of(span)[0]
    return {value: (count[value], cost[value]) for value in count}


def figures(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["spans"], int(row["cost_nano_usd"])


def summed(rows: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(spans for spans, _ in rows), sum(cost for _, cost in rows)


def test_months_equal_the_bills_of_the_command_and_a_recount(folder: Path, spans: list[Span]) -> None:
    found = recent_bills(sqlite_url(folder), LABELS, NOW_S)
    assert [month["month"] for month in found["months"]] == list(MONTHS)
    assert found["until_s"] == NOW_S
    for month in found["months"]:
        for label in LABELS:
            rows = recount(spans, month["month"], label)
            assert figures(month) == summed(list(rows.values()))
            shown = {row["value"]: figures(row) for row in month["rows"][label] if row["value"] is not None}
            others = [row for row in month["rows"][label] if row["value"] is None]
            # Those that cost most come first, and the rest is one row.
            order = sorted(rows, key=lambda value: (-rows[value][1], value))
            assert list(shown) == order[:MOST_ROWS]
            assert shown == {value: rows[value] for value in order[:MOST_ROWS]}
            rest = order[MOST_ROWS:]
            assert [(row["others"], figures(row)) for row in others] == (
                [(len(rest), summed([rows[value] for value in rest]))] if rest else []
            )
        assert len(month["rows"]["caller"]) == MOST_ROWS + 1
    for month in found["months"]:
        options = ["--month", month["month"], "--by", "team", "--format", "json"]
        done = run("bill", "--config", str(folder / "tokentrace.yml"), *options)
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout)
        assert figures(month) == figures(printed["total"])
        assert {row["value"]: figures(row) for row in month["rows"]["team"]} == {
            row["team"]: figures(row) for row in printed["rows"]
        }


def test_january_s_last_month_is_december() -> None:
    assert _months(datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp()) == ("2027-01", "2026-12")
    assert _months(datetime(2027, 3, 1, tzinfo=UTC).timestamp()) == ("2027-03", "2027-02")


def test_gaps_are_sentences_and_those_beyond_are_counted(tmp_path: Path) -> None:
    topic = RollupTopic()
    topic.commit([], COMMIT_US)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    with sa.create_engine(sqlite_url(tmp_path)).begin() as connection:
        for number in range(MOST_GAPS + 2):
            until_us = COMMIT_US + number
            connection.exec_driver_sql(
                f"INSERT INTO ledger_gaps VALUES ('one', {number}, {number + 1}, {COMMIT_US}, {until_us}, 'expired', 0)"
            )
    month = recent_bills(sqlite_url(tmp_path), LABELS, NOW_S)["months"][0]
    assert (len(month["gaps"]), month["more_gaps"]) == (MOST_GAPS, 2)
    assert month["gaps"][0].startswith("Incomplete: the hours from 2026-11-05 12:00 to 2026-11-05 12:00 UTC")
    assert (figures(month), month["rows"]) == ((0, 0), {label: [] for label in LABELS})


def test_a_missing_extra_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokentrace.ledger.recent", None)
    with pytest.raises(UsageError, match=r"^The bill requires .*: pip install 'tokentrace\[ledger\]'$"):
        bills("sqlite:///ledger.db", LABELS)()


def test_a_ledger_that_is_missing_or_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no ledger"):
        bills(sqlite_url(tmp_path), LABELS)()
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        bills("postgresql://ledger:secret@127.0.0.1:1/ledger", LABELS)()

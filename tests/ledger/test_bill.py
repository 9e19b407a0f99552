"""Bills: any period, zone and labels, exact; what was booked late; formats; and what cannot be answered is refused."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from tests.ledger.helpers import COLUMN, DAY_US, RollupTopic, follower, sqlite_url
from tests.oracle import cost_of, counted
from tests.spanfactory import random_span, unit_span
from tokentrace.errors import UsageError
from tokentrace.ledger import query
from tokentrace.ledger.database import Database
from tokentrace.ledger.formats import as_csv, as_json, usd, write_parquet
from tokentrace.ledger.period import Period, between, find_zone, last_day, month
from tokentrace.ledger.query import Bill, Billing
from tokentrace.ledger.words import notes
from tokentrace.model.dimensions import Dimension

Span = dict[str, Any]
Labels = Callable[[Span], tuple[str, ...]]
UTC_ZONE = ZoneInfo("UTC")


def at_us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def spans() -> list[tuple[int, Span]]:
    """(time of the commit, span) over the end of October 2026, when Berlin's clocks are set back, and of November."""
    rng = random.Random("bill")
    found = []
    for _ in range(900):
        ended_us = at_us("2026-10-24") + rng.randrange(10 * DAY_US)
        late_us = rng.choice([1_000_000, 1_000_000, 1_000_000, 6 * DAY_US])
        make = rng.choice([random_span, unit_span])
        found.append((ended_us + late_us, {**make(rng), "started_at": ended_us - 1_000_000, "ended_at": ended_us}))
    return sorted(found, key=lambda entry: entry[0])


@pytest.fixture(scope="module")
def ledger(spans: list[tuple[int, Span]], tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder, topic = tmp_path_factory.mktemp("bill"), RollupTopic()
    for first in range(0, len(spans), 20):
        # A commit is after the last of its spans.
        topic.commit([span for _, span in spans[first : first + 20]], spans[min(first + 19, len(spans) - 1)][0])
    follower(topic, sqlite_url(folder)).run(until_end=True)
    return Database(sqlite_url(folder))


def expected(spans: list[tuple[int, Span]], period: Period, labels: Labels) -> dict[tuple[str, ...], Counter[str]]:
    """Sum the spans of a period one by one."""
    rows: dict[tuple[str, ...], Counter[str]] = {}
    for _, span in spans:
        if period.start <= span["ended_at"] // 60_000_000 < period.end:
            sums = rows.setdefault(labels(span), Counter())
            sums["spans"] += 1
            sums["cost_nano_usd"] += cost_of(span)[0]
            for unit, quantity in counted(span).usage.items():
                sums[COLUMN.get(unit, unit)] += round(quantity * (1000 if "second" in unit else 1))
    return {key: +sums for key, sums in rows.items()}


def shown(bill: Bill, names: set[str]) -> dict[tuple[str, ...], Counter[str]]:
    return {
        key: +Counter({name: number for name, number in row.items() if name in names}) for key, row in bill.rows.items()
    }


PERIODS = [
    month("2026-10", UTC_ZONE),
    month("2026-10", ZoneInfo("Europe/Berlin")),
    month("2026-11", ZoneInfo("America/Los_Angeles")),
    between("2026-10-25", "2026-10-26", ZoneInfo("Europe/Berlin")),
    between("2026-10-28T05:30", "2026-10-30T05:30", ZoneInfo("Asia/Kolkata")),
    month("2026-10", ZoneInfo("Asia/Kolkata")),
    month("2026-11", ZoneInfo("Asia/Kathmandu")),
]


@pytest.mark.parametrize("period", PERIODS, ids=str)
def test_bills_equal_a_sum_over_the_spans(ledger: Database, spans: list[tuple[int, Span]], period: Period) -> None:
    by: dict[str, Labels] = {
        "model": lambda span: (span["model"],),
        "caller,model": lambda span: (span["caller"], span["model"]),
        "status,provider": lambda span: (span["status"], span["provider"]),
        "source": lambda span: (cost_of(span)[1],),
    }
    for names, labels in by.items():
        if names == "source":
            continue
        rows = expected(spans, period, labels)
        bill = Billing(ledger).bill(period, names.split(","), units=True)
        sums = {name for row in rows.values() for name in row}
        assert shown(bill, sums) == rows
        assert bill.total["cost_nano_usd"] == sum(row["cost_nano_usd"] for row in rows.values())


def test_days_are_those_of_the_zone_over_the_change_of_its_clocks(
    ledger: Database, spans: list[tuple[int, Span]]
) -> None:
    zone = ZoneInfo("Europe/Berlin")
    period = between("2026-10-24", "2026-10-28", zone)
    assert period.end - period.start == (4 * 24 + 1) * 60
    bill = Billing(ledger).bill(period, ["day", "model"])

    def labels(span: Span) -> tuple[str, ...]:
        return f"{datetime.fromtimestamp(span['ended_at'] / 1e6, zone):%Y-%m-%d}", span["model"]

    rows = expected(spans, period, labels)
    assert {key: row["cost_nano_usd"] for key, row in bill.rows.items() if row["cost_nano_usd"]} == {
        key: row["cost_nano_usd"] for key, row in rows.items() if row["cost_nano_usd"]
    }


def test_a_bill_of_an_earlier_day_has_what_was_booked_until_then(
    ledger: Database, spans: list[tuple[int, Span]]
) -> None:
    october = month("2026-10", UTC_ZONE)
    commits = [spans[min(at // 20 * 20 + 19, len(spans) - 1)][0] for at in range(len(spans))]
    booked = [(commit, span) for commit, (_, span) in zip(commits, spans, strict=True)]
    for day in ("2026-10-26", "2026-11-01", "2026-11-04", "2026-12-01"):
        until_us = at_us(day) + DAY_US
        known = [entry for entry in booked if entry[0] < until_us]
        bill = Billing(ledger, last_day(day)).bill(october, ["model"])
        sums = expected(known, october, lambda span: (span["model"],))
        assert shown(bill, {"spans", "cost_nano_usd"}) == {
            key: +Counter({name: row[name] for name in ("spans", "cost_nano_usd")}) for key, row in sums.items()
        }
    late = [entry for entry in booked if entry[0] >= at_us("2026-11-02")]
    bill = Billing(ledger).bill(october, ["booked"])
    assert bill.late["spans"] == sum(row["spans"] for row in expected(late, october, lambda _: ()).values()) > 0
    assert any(line.startswith("Booked after 2026-11-01 (UTC), when the period was closed") for line in notes(bill))
    assert sum(row["spans"] for (day,), row in bill.rows.items() if day > "2026-11-01") == bill.late["spans"]


def test_formats_have_the_exact_amounts(ledger: Database, tmp_path: Path) -> None:
    from pyarrow import parquet

    bill = Billing(ledger).bill(month("2026-10", UTC_ZONE), ["caller", "model"], units=True)
    rows = sorted(bill.rows.items())
    nano = bill.total["cost_nano_usd"]
    found = list(csv.DictReader(io.StringIO(as_csv(bill, rows))))
    assert sum(int(row["cost_nano_usd"]) for row in found) == nano
    assert sum(int(row["cost_usd"].replace(".", "")) for row in found) == nano
    document = json.loads(json.dumps(as_json(bill, rows)))
    assert sum(row["cost_nano_usd"] for row in document["rows"]) == document["total"]["cost_nano_usd"] == nano
    write_parquet(bill, rows, tmp_path / "bill.parquet")
    table = parquet.read_table(tmp_path / "bill.parquet").to_pydict()
    assert sum(table["cost_nano_usd"]) == nano == int(sum(table["cost_usd"]).scaleb(9))
    assert table["caller"] == [caller for (caller, _), _ in rows]


def test_csv_has_no_formulas() -> None:
    bill = Bill(month("2026-10", UTC_ZONE), ("caller",), {}, {}, {}, 0, 0, [])
    text = as_csv(bill, [(("=HYPERLINK(1)",), {"spans": 1})])
    assert text.splitlines()[1].startswith("'=HYPERLINK")


def test_usd_is_exact_at_any_size() -> None:
    assert [usd(1), usd(-1_500_000_000), usd(2**63)] == ["0.000000001", "-1.500000000", "9223372036.854775808"]


def test_dimensions_are_labels_of_bills(tmp_path: Path) -> None:
    team = Dimension("team", "attributes.team")
    topic = RollupTopic(dimensions=[team])
    rng = random.Random("team")
    made = [{**random_span(rng), "attributes": {"team": name}} for name in ("red", "blue", "red")]
    topic.commit(made, at_us("2026-10-01"))
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    period = between("2026-09-01", "2026-10-01", UTC_ZONE)
    bill = Billing(Database(sqlite_url(tmp_path))).bill(period, ["team"])
    assert {key: row["spans"] for key, row in bill.rows.items()} == {("red",): 2, ("blue",): 1}


@pytest.mark.parametrize(
    ("begin", "end", "zone", "problem"),
    [
        ("2026-10-01T06:00:30", "2026-11-01", "UTC", "begin and end with whole minutes"),
        ("2026-11-01", "2026-10-01", "UTC", "is not after"),
        ("October", "2026-10-01", "UTC", "is not a date"),
        ("2026-10-01", "2026-10-02", "Mars/Olympus", "is not a time zone"),
    ],
)
def test_periods_that_cannot_be_answered_are_refused(begin: str, end: str, zone: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        between(begin, end, find_zone(zone))


def test_unknown_months_and_labels_are_refused(ledger: Database) -> None:
    with pytest.raises(UsageError, match="is not a month"):
        month("2026-13", UTC_ZONE)
    with pytest.raises(UsageError, match="--by team is not a label of the ledger; use any of model, provider"):
        Billing(ledger).bill(month("2026-10", UTC_ZONE), ["team"])
    with pytest.raises(UsageError, match="is not a date"):
        last_day("yesterday")


def test_a_bill_is_complete_until_the_commit_that_its_sums_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, at = RollupTopic(), at_us("2026-10-28")
    topic.commit([random_span(random.Random(1))], at)
    follower(topic, sqlite_url(tmp_path)).run(until_end=True)
    read = query.read_groups

    def read_late(connection: sa.Connection) -> Any:
        """The ledger goes on while the bill is made."""
        with sa.create_engine(sqlite_url(tmp_path)).begin() as other:
            other.exec_driver_sql("UPDATE ledger_position SET committed_at_us = committed_at_us + 1")
        return read(connection)

    monkeypatch.setattr(query, "read_groups", read_late)
    assert Billing(Database(sqlite_url(tmp_path))).bill(PERIODS[0], ["model"]).committed_at_us == at

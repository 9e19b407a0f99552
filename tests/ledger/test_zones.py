"""Bills in zones whose days begin within an hour of UTC: exact, or refused where the ledger has one sum of two days."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from tests.ledger.helpers import DAY_US, RollupTopic, follower, recount, sqlite_hours, sqlite_url
from tests.ledger.test_reprice import linear, prices
from tests.oracle import cost_of
from tests.spanfactory import random_span
from tokentrace.errors import UsageError
from tokentrace.ledger.corrections import correction_of, enter
from tokentrace.ledger.database import Database
from tokentrace.ledger.focus import write_focus
from tokentrace.ledger.parts import Part, Parts
from tokentrace.ledger.period import Period, between, month
from tokentrace.ledger.period_cells import cells_in
from tokentrace.ledger.query import Billing
from tokentrace.ledger.reprice import Repricing

Span = dict[str, Any]
KOLKATA = ZoneInfo("Asia/Kolkata")
#: Offsets of +5:30 and +5:45, and one of +10:30 that is +11 from 4 October 2026 on: that day has half an hour less.
ZONES = ("Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")
FIRST = datetime(2026, 9, 24, tzinfo=UTC)
FIRST_US = int(FIRST.timestamp()) * 1_000_000


def traffic(seed: str, count: int, **fields: Any) -> list[Span]:
    """Calls of two weeks around the turn of a month, a third of them within a minute of a midnight of some zone."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        ended_us = FIRST_US + rng.randrange(14 * DAY_US)
        if rng.random() < 0.3:
            local = datetime.fromtimestamp(ended_us / 1e6, ZoneInfo(rng.choice(ZONES)))
            midnight_us = int(local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()) * 1_000_000
            ended_us = midnight_us + rng.choice([-60_000_000, -1, 0, 59_999_999])
        found.append({**random_span(rng), "started_at": ended_us - 1_000_000, "ended_at": ended_us, **fields})
    return found


def keep(folder: Path, spans: list[Span], zones: Iterable[str] = (), **topic: Any) -> RollupTopic:
    """Add the spans to the ledger in a folder, all of them late."""
    rollups = RollupTopic(**topic)
    for first in range(0, len(spans), 50):
        rollups.commit(spans[first : first + 50], FIRST_US + 15 * DAY_US)
    follower(rollups, sqlite_url(folder), parts=Parts(zones)).run(until_end=True)
    return rollups


def day_of(span: Span, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(span['ended_at'] // 1_000_000, zone):%Y-%m-%d}"


def costs(spans: Iterable[Span], zone: ZoneInfo, first: str, behind: str, *labels: str) -> dict[Any, int]:
    """Sum the calls of days one by one."""
    found: Counter[Any] = Counter()
    for span in spans:
        if first <= (day := day_of(span, zone)) < behind:
            found[tuple(day if label == "day" else span[label] for label in labels)] += cost_of(span)[0]
    return +found


def billed(database: Database, period: Period, *labels: str) -> dict[Any, int]:
    rows = Billing(database).bill(period, labels).rows
    return {key: row["cost_nano_usd"] for key, row in rows.items() if row.get("cost_nano_usd")}


@pytest.mark.parametrize("name", ZONES)
def test_days_and_months_of_the_zone_equal_a_sum_over_the_spans(tmp_path: Path, name: str) -> None:
    spans, zone = traffic("days", 800), ZoneInfo(name)
    keep(tmp_path, spans, ZONES)
    assert sqlite_hours(tmp_path, parts=True) == recount(spans, zones=ZONES)
    database, period = Database(sqlite_url(tmp_path)), between("2026-09-26", "2026-10-07", zone)
    for labels in (("day",), ("caller", "day", "model"), ("status",)):
        assert billed(database, period, *labels) == costs(spans, zone, "2026-09-26", "2026-10-07", *labels)
    for number in ("2026-09", "2026-10"):
        months = costs(spans, zone, f"{number}-01", f"{number}-99", "caller")
        assert billed(database, month(number, zone), "caller") == months
    dataset = io.StringIO()
    write_focus((cell for _, cell in cells_in(database, period)), period, "team", dataset)
    days: Counter[str] = Counter()
    for row in csv.DictReader(io.StringIO(dataset.getvalue())):
        days[f"{datetime.fromisoformat(row['ChargePeriodStart']).astimezone(zone):%Y-%m-%d}"] += int(
            row["x_CostNanoUsd"]
        )
    assert {(day,): cost for day, cost in (+days).items()} == costs(spans, zone, "2026-09-26", "2026-10-07", "day")


@pytest.mark.parametrize("name", ZONES)
def test_months_need_no_setting_and_days_do(tmp_path: Path, name: str) -> None:
    spans, zone = traffic("months", 400), ZoneInfo(name)
    keep(tmp_path, spans)
    database, october = Database(sqlite_url(tmp_path)), month("2026-10", zone)
    assert billed(database, october, "model") == costs(spans, zone, "2026-10-01", "2026-11-01", "model")
    with pytest.raises(UsageError, match=rf"in which the day 2026-09-2. of {name} begins.*`ledger.zones: \[{name}\]`"):
        Billing(database).bill(Period(FIRST_US // 60_000_000, FIRST_US // 60_000_000 + 5 * 1440, zone), ["day"])
    with pytest.raises(UsageError, match=rf"and the period begins at 2026-09-27 00:00 of {name}"):
        list(cells_in(database, between("2026-09-27", "2026-11-01", zone)))


def test_hours_are_those_of_utc_in_the_time_of_the_zone(tmp_path: Path) -> None:
    spans = traffic("hours", 300)
    keep(tmp_path, spans, ZONES)
    hours: Counter[Any] = Counter()
    for span in spans:
        hour = datetime.fromtimestamp(span["ended_at"] // 3_600_000_000 * 3600, KOLKATA)
        hours[f"{hour:%Y-%m-%d %H:%M}",] += cost_of(span)[0]
    period = Period(FIRST_US // 60_000_000 - 1440, FIRST_US // 60_000_000 + 20 * 1440, KOLKATA)
    assert billed(Database(sqlite_url(tmp_path)), period, "hour") == +hours


def test_the_two_hours_with_one_time_where_clocks_go_back_are_told_apart() -> None:
    berlin, first = ZoneInfo("Europe/Berlin"), int(datetime(2026, 10, 25, tzinfo=UTC).timestamp()) // 60
    period = Period(first, first + 240, berlin)
    hours = [Part(hour) for hour in range(first // 60 - 1, first // 60 + 3)]
    assert [period.label("hour", hour) for hour in hours] == [
        "2026-10-25 01:00",
        "2026-10-25 02:00 +0200",
        "2026-10-25 02:00 +0100",
        "2026-10-25 03:00",
    ]


def test_calls_before_and_after_a_zone_is_set_are_told_apart_where_they_can_be(tmp_path: Path) -> None:
    """Half of the calls of every hour came before `ledger.zones` was set; and later it is removed again."""
    spans = traffic("mixed", 600)
    before, after = spans[:300], spans[300:]
    topic = keep(tmp_path, before)
    for zones, some in ((["Asia/Kolkata"], after[:150]), ([], after[150:])):
        topic.commit(some, FIRST_US + 16 * DAY_US)
        follower(topic, sqlite_url(tmp_path), parts=Parts(zones)).run(until_end=True)
    assert sqlite_hours(tmp_path) == recount(spans)
    database = Database(sqlite_url(tmp_path))
    # No day is wrong: it is refused where a sum is of two days, and else exact.
    refused = 0
    for day in range(24, 31):
        period = between(f"2026-09-{day}", f"2026-09-{day + 1}" if day < 30 else "2026-10-01", KOLKATA)
        try:
            found = billed(database, period, "model")
        except UsageError:
            refused += 1
        else:
            assert found == costs(spans, KOLKATA, f"2026-09-{day}", f"2026-09-{day}~", "model")
    assert refused
    october = costs(spans, KOLKATA, "2026-10-01", "2026-11-01", "model")
    assert billed(database, month("2026-10", KOLKATA), "model") == october
    follower(topic, sqlite_url(tmp_path), parts=Parts(["Asia/Kolkata"])).rebuild()
    period = between("2026-09-24", "2026-10-05", KOLKATA)
    assert billed(database, period, "day") == costs(spans, KOLKATA, "2026-09-24", "2026-10-05", "day")


def test_a_correction_outlives_a_rebuild_that_cuts_its_hours(tmp_path: Path) -> None:
    spans = traffic("correct", 300, model="house", provider="vllm", cost_usd=None, status="ok")
    now = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 2, completion_per_1m: 8}}}")
    then = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 1, completion_per_1m: 4}}}")
    topic = keep(tmp_path, spans, pricer=now)
    database, period = Database(sqlite_url(tmp_path)), Period(0, 2**25, KOLKATA)
    repricing = Repricing(now, then)
    correction = correction_of((cell for _, cell in cells_in(database, period)), repricing)
    enter(database, correction, period, "contract", "prices.yml", FIRST_US + 20 * DAY_US)
    follower(topic, sqlite_url(tmp_path), parts=Parts(["Asia/Kolkata"])).rebuild()
    cost = sum(linear(span, "1", "4") for span in spans)
    assert Billing(database).bill(period, []).total["cost_nano_usd"] == cost
    assert repricing.sums(cells_in(database, period))[()].billed == cost
    # The corrections of whole hours cannot be divided, so they move to the parts.
    with pytest.raises(UsageError, match="one sum of the time"):
        Billing(database).bill(period, ["day"])
    again = correction_of((cell for _, cell in cells_in(database, period)), repricing)
    assert again.cost_nano_usd == 0
    enter(database, again, period, "parts", "prices.yml", FIRST_US + 21 * DAY_US)
    assert Billing(database).bill(period, []).total["cost_nano_usd"] == cost
    assert not correction_of((cell for _, cell in cells_in(database, period)), repricing).cells


def test_prices_that_change_at_a_midnight_of_the_zone_are_exact(tmp_path: Path) -> None:
    spans = traffic("dated", 400, model="house", provider="vllm", cost_usd=None, status="ok")
    now = prices(tmp_path, "pricing: {models: {house: {prompt_per_1m: 2, completion_per_1m: 8}}}")
    then = prices(
        tmp_path,
        "pricing:\n  models:\n"
        "    - {model: house, rates: {prompt: 2, completion: 8}, until: 2026-09-27T00:00:00+05:30}\n"
        "    - {model: house, rates: {prompt: 1, completion: 4}}\n",
    )
    keep(tmp_path, spans, ["Asia/Kolkata"], pricer=now)
    found = Repricing(now, then).sums(cells_in(Database(sqlite_url(tmp_path)), Period(0, 2**25, KOLKATA)))[()]
    rates = [("2", "8") if day_of(span, KOLKATA) < "2026-09-27" else ("1", "4") for span in spans]
    assert found.amount.exact
    assert found.amount.likely == sum(linear(span, *rate) for span, rate in zip(spans, rates, strict=True))


def test_the_view_has_the_days_of_the_zone(tmp_path: Path) -> None:
    spans = traffic("view", 300)
    keep(tmp_path, spans, ["Asia/Kolkata"])
    found: Counter[Any] = Counter()
    with sa.create_engine(sqlite_url(tmp_path)).begin() as connection:
        for time, nano_usd in connection.exec_driver_sql("SELECT time, cost_nano_usd FROM ledger_costs"):
            found[f"{datetime.fromtimestamp(time, KOLKATA):%Y-%m-%d}",] += nano_usd
    assert +found == costs(spans, KOLKATA, "2026-01-01", "2027-01-01", "day")

"""Parts of hours: months of every zone are whole, and days of the zones that are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.helpers import part_of
from tokentrace.budgets.calendar import Calendar
from tokentrace.ledger.parts import Part, Parts
from tokentrace.ledger.period import month

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = (int((datetime(year, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) // 60 for year in (2026, 2030))
#: Zones whose days begin within an hour of UTC, for a part of the year at least.
UNEVEN = (
    "Asia/Kolkata", "Asia/Kathmandu", "Asia/Kabul", "Asia/Tehran", "Asia/Yangon", "Australia/Adelaide",
    "Australia/Eucla", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Chatham", "Pacific/Marquesas",
)  # fmt: skip


@given(st.lists(st.sampled_from(UNEVEN), max_size=3), st.lists(st.integers(FIRST, LAST), min_size=1, max_size=50))
def test_a_minute_is_in_the_part_of_a_recount(zones: list[str], minutes: list[int]) -> None:
    parts = Parts(zones)
    found = [parts.part(start) for start in parts.starts(np.array(minutes, np.int64)).tolist()]
    assert found == [part_of(minute * 60_000_000, zones) for minute in minutes]


def test_months_of_every_zone_begin_with_a_part() -> None:
    for name in sorted(available_timezones() - {"localtime"}):
        zone = ZoneInfo(name)
        starts = [month(f"{year}-{number:02}", zone).start for year in range(2026, 2030) for number in range(1, 13)]
        assert Parts().starts(np.array(starts, np.int64)).tolist() == starts, name


def test_days_of_the_chosen_zones_begin_with_a_part() -> None:
    for name in UNEVEN:
        calendar, parts, minute = Calendar("day", ZoneInfo(name)), Parts([name]), FIRST
        for _ in range(400):
            period = calendar.period_of(minute)
            assert parts.starts(np.array([period.start], np.int64)).tolist() == [period.start], (name, period)
            minute = period.end


@pytest.mark.parametrize(
    ("zones", "parts_of_a_month", "parts_of_a_day"),
    [((), 720 + 26 * 3, 24), (("Asia/Kolkata",), 720 + 29 + 26 * 3, 25), (("Europe/Berlin", "UTC"), 720 + 26 * 3, 24)],
)
def test_hours_are_whole_but_for_midnights(zones: tuple[str, ...], parts_of_a_month: int, parts_of_a_day: int) -> None:
    parts = Parts(zones)

    def count(first: datetime, days: int) -> int:
        start = (first - EPOCH) // timedelta(minutes=1)
        return len(np.unique(parts.starts(np.arange(start, start + days * 1440))))

    assert count(datetime(2026, 9, 15, tzinfo=UTC), 1) == parts_of_a_day
    assert count(datetime(2026, 9, 15, tzinfo=UTC), 30) == parts_of_a_month


def test_a_part_knows_its_bounds() -> None:
    part = Parts(["Asia/Kolkata"]).part(29_832_150)
    assert (part, part.start, part.end) == (Part(497_202, 30, 60), 29_832_150, 29_832_180)

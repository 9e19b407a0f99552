"""Periods of calendars: they tile time, and every minute is in the period of its local date."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrace.budgets.calendar import Calendar, Kind, Period

KINDS: tuple[Kind, ...] = ("day", "week", "month")
ZONES = sorted(available_timezones() - {"localtime", "posixrules"})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Spans are from 2020 on: earlier times are taken for a wrong clock.
FIRST, LAST = (int((datetime(year, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) // 60 for year in (2020, 2038))
MINUTES = st.integers(FIRST, LAST)


def local(minute: int, zone: str) -> datetime:
    return (EPOCH + timedelta(minutes=minute)).astimezone(ZoneInfo(zone))


def utc(minute: int) -> str:
    return f"{EPOCH + timedelta(minutes=minute):%Y-%m-%d %H:%M}"


def name_of(kind: Kind, day: date) -> str:
    return {"day": f"{day:%Y-%m-%d}", "week": f"{day:%G-W%V}", "month": f"{day:%Y-%m}"}[kind]


@given(st.sampled_from(ZONES), st.sampled_from(KINDS), MINUTES)
def test_a_minute_is_in_the_period_of_its_local_date(zone: str, kind: Kind, minute: int) -> None:
    period = Calendar(kind, ZoneInfo(zone)).period_of(minute)
    assert period.start <= minute < period.end
    assert period.name == name_of(kind, local(minute, zone).date())
    for edge in (period.start, period.end - 1):
        assert name_of(kind, local(edge, zone).date()) == period.name
    for beyond in (period.start - 1, period.end):
        assert name_of(kind, local(beyond, zone).date()) != period.name


@given(st.sampled_from(ZONES), st.sampled_from(KINDS), MINUTES)
def test_periods_follow_each_other_without_a_gap(zone: str, kind: Kind, minute: int) -> None:
    calendar = Calendar(kind, ZoneInfo(zone))
    period = calendar.period_of(minute)
    assert calendar.period_of(period.start) == calendar.period_of(period.end - 1) == period
    assert calendar.period_of(period.end).start == period.end
    assert calendar.period_of(period.start - 1).end == period.start


@given(st.sampled_from(ZONES), st.sampled_from(KINDS), st.lists(MINUTES, min_size=1, max_size=30))
def test_calendar_remembers_periods_and_gives_the_same(zone: str, kind: Kind, minutes: list[int]) -> None:
    used = Calendar(kind, ZoneInfo(zone))
    assert [used.period_of(minute) for minute in minutes] == [
        Calendar(kind, ZoneInfo(zone)).period_of(minute) for minute in minutes
    ]


def test_every_zone_tiles_every_day_of_a_year_with_its_changes_of_clocks() -> None:
    first = FIRST + 5 * 366 * 1440
    for zone in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"):
        calendar = Calendar("day", ZoneInfo(zone))
        periods = [calendar.period_of(first)]
        while len(periods) < 400:
            periods.append(calendar.period_of(periods[-1].end))
        assert all(left.end == right.start for left, right in itertools.pairwise(periods))
        assert len({period.name for period in periods}) == 400
        dates = [date.fromisoformat(period.name) for period in periods]
        assert all(right - left == timedelta(days=1) for left, right in itertools.pairwise(dates))


@pytest.mark.parametrize(
    ("zone", "kind", "at", "name", "begins", "ends"),
    [
        ("UTC", "month", "2026-11-30 23:59", "2026-11", "2026-11-01 00:00", "2026-12-01 00:00"),
        # The clocks go back on 25 October: the month is an hour longer.
        ("Europe/Berlin", "month", "2026-10-31 22:59", "2026-10", "2026-09-30 22:00", "2026-10-31 23:00"),
        ("Europe/Berlin", "day", "2026-10-25 12:00", "2026-10-25", "2026-10-24 22:00", "2026-10-25 23:00"),
        ("Europe/Berlin", "day", "2026-03-29 12:00", "2026-03-29", "2026-03-28 23:00", "2026-03-29 22:00"),
        # Half an hour from UTC, and a change of clocks by half an hour.
        ("Asia/Kolkata", "day", "2026-11-26 18:30", "2026-11-27", "2026-11-26 18:30", "2026-11-27 18:30"),
        ("Australia/Lord_Howe", "day", "2026-04-04 20:00", "2026-04-05", "2026-04-04 13:00", "2026-04-05 13:30"),
        # Midnight does not exist: the clocks go from 00:00 to 01:00.
        ("America/Havana", "day", "2026-03-08 12:00", "2026-03-08", "2026-03-08 05:00", "2026-03-09 04:00"),
        ("Africa/Cairo", "day", "2026-04-24 12:00", "2026-04-24", "2026-04-23 22:00", "2026-04-24 21:00"),
        # The first week of 2027 begins on 4 January.
        ("UTC", "week", "2027-01-03 23:59", "2026-W53", "2026-12-28 00:00", "2027-01-04 00:00"),
        # Samoa had no 30 December 2011.
        ("Pacific/Apia", "day", "2011-12-30 10:00", "2011-12-31", "2011-12-30 10:00", "2011-12-31 10:00"),
    ],
)  # fmt: skip
def test_periods_that_people_would_write_down(
    zone: str, kind: Kind, at: str, name: str, begins: str, ends: str
) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    period = Calendar(kind, ZoneInfo(zone)).period_of(int((moment - EPOCH).total_seconds()) // 60)
    assert (period.name, utc(period.start), utc(period.end)) == (name, begins, ends)


def test_the_minute_of_a_clock_that_goes_back_over_midnight_is_in_one_period() -> None:
    """St. John's set its clocks back from 00:01 to 23:01 until 2011."""
    calendar = Calendar("day", ZoneInfo("America/St_Johns"))
    change = int((datetime(2010, 11, 7, 2, 31, tzinfo=UTC) - EPOCH).total_seconds()) // 60
    periods = [calendar.period_of(minute) for minute in range(change - 120, change + 120)]
    assert all(left == right or left.end == right.start for left, right in itertools.pairwise(periods))
    assert [*dict.fromkeys(periods)] == [
        Period("2010-11-06", periods[0].start, periods[0].end),
        Period("2010-11-07", periods[0].end, periods[-1].end),
    ]

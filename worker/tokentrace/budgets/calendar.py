"""Calendar: the days, weeks and months of a time zone as intervals of minutes.

A period begins with the first minute whose local date is in it, so periods follow each other without gaps, whatever the
clocks do: days of 23 and 25 hours, offsets of half an hour, clocks that skip midnight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

Kind = Literal["day", "week", "month"]

_DAY_MINUTES: Final = 1440
#: Furthest that a zone's midnight is from midnight in UTC, minutes, and a margin for clocks that skip a day.
_FURTHEST: Final = 2 * _DAY_MINUTES
_EPOCH_DAY: Final = date(1970, 1, 1)
#: Periods that are remembered; a backlog of a year by days fits.
_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class Period:
    """A period. name: `2026-11-27`, `2026-W48` or `2026-11`. start, end: minutes since the epoch; end is not in it."""

    name: str
    start: int
    end: int


class Calendar:
    """The periods of one kind in one time zone."""

    def __init__(self, kind: Kind, zone: ZoneInfo) -> None:
        self.kind = kind
        self.zone = zone
        self._first, self._next, self._name = _RULES[kind]
        self._known: dict[int, Period] = {}

    def period_of(self, minute: int) -> Period:
        """Return the period that a minute is in."""
        # Minutes of one day of UTC are in few periods, which are looked at first.
        day = minute // _DAY_MINUTES
        known = self._known.get(day)
        if known is not None and known.start <= minute < known.end:
            return known
        first = self._first(self._local_date(minute))
        period = self._period(first)
        # A clock that is set back over midnight repeats a part of a day that has begun: it belongs to the new day.
        while minute >= period.end:
            period = self._period(first := self._next(first))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[day] = period
        return period

    def _period(self, first: date) -> Period:
        return Period(self._name(first), self._begin(first), self._begin(self._next(first)))

    def _begin(self, day: date) -> int:
        """Return the first minute whose local date is this one or later."""
        midnight = (day - _EPOCH_DAY).days * _DAY_MINUTES
        before, begun = midnight - _FURTHEST, midnight + _FURTHEST
        while begun - before > 1:
            middle = (before + begun) // 2
            if self._local_date(middle) < day:
                before = middle
            else:
                begun = middle
        return begun

    def _local_date(self, minute: int) -> date:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)).astimezone(self.zone).date()


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _next_month(day: date) -> date:
    return (day + timedelta(days=31)).replace(day=1)


def _week_name(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


#: Kind -> (first day of the period of a date, first day of the next one from a first day, name by a first day).
_RULES: Final[dict[Kind, tuple[Callable[[date], date], Callable[[date], date], Callable[[date], str]]]] = {
    "day": (lambda day: day, lambda day: day + timedelta(days=1), date.isoformat),
    "week": (_monday, lambda day: day + timedelta(days=7), _week_name),
    "month": (lambda day: day.replace(day=1), _next_month, lambda day: f"{day:%Y-%m}"),
}

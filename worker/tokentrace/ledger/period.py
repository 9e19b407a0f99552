"""Periods: a month, or the time between two moments, in any time zone, as minutes since the epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from tokentrace.errors import UsageError
from tokentrace.ledger.parts import Part

_MINUTE_S: Final = 60
#: Labels that are periods of time themselves. Hours are those of UTC, in the zone's time; where clocks go back, the two
#: with one time have their difference from UTC besides.
CALENDAR: Final = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}
#: Labels that are remembered; a year by hours fits.
_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Period:
    """Minutes since the epoch from `start` to before `end`. zone: of its beginning and its end."""

    start: int
    end: int
    zone: ZoneInfo

    @property
    def begins(self) -> datetime:
        """The first moment, in the zone."""
        return _moment(self.start, self.zone)

    @property
    def ends(self) -> datetime:
        """The first moment behind it, in the zone."""
        return _moment(self.end, self.zone)

    def label(self, name: str, part: Part) -> str:
        """Return the hour, day or month of a part, in the zone. Raises UsageError for a part that two of them share."""
        return _label(name, part, self.zone)

    def day(self, part: Part) -> datetime:
        """Return the beginning of a part's day, in the zone. Raises UsageError for a part that two days share."""
        _label("day", part, self.zone)
        return _moment(part.start, self.zone).replace(hour=0, minute=0, fold=0)


@lru_cache(_REMEMBERED)
def _label(name: str, part: Part, zone: ZoneInfo) -> str:
    if name == "hour":
        moment = _moment(part.hour * 60, zone)
        repeated = moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset()
        return f"{moment:{CALENDAR[name]}}" + (f" {moment:%z}" if repeated else "")
    first, last = (f"{_moment(minute, zone):{CALENDAR[name]}}" for minute in (part.start, part.end - 1))
    if first != last:
        raise UsageError(f"{summed(part)}, in which the {name} {last} of {zone.key} begins. {way_out(zone, days=True)}")
    return first


def _moment(minute: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(minute * _MINUTE_S, UTC).astimezone(zone)


def summed(part: Part) -> str:
    """Return the words about a part that cannot be divided."""
    first, last = (_moment(minute, ZoneInfo("UTC")) for minute in (part.start, part.end))
    return f"The ledger has one sum of the time from {first:%Y-%m-%d %H:%M} to {last:%H:%M} UTC"


def way_out(zone: ZoneInfo, *, days: bool) -> str:
    """Return what to do about it. days: whether days of the zone are at stake, or any bounds."""
    kept = (
        f"Days of this zone are kept apart from when `ledger.zones: [{zone.key}]` is set"
        if days
        else f"It keeps the turns of months apart, and with `ledger.zones: [{zone.key}]` the days of this zone"
    )
    return (
        f"{kept}; then, `tokentrace ledger rebuild` also cuts the hours before, while their rollups are in the topic. "
        "Whole hours of UTC can always be billed, such as --from 2026-10-01T05:30 in Asia/Kolkata, or --zone UTC."
    )


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of a name such as Europe/Berlin. Raises UsageError for an unknown one."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        end = name.casefold().replace(" ", "_")
        near = [zone for zone in sorted(available_timezones()) if f"/{zone}".casefold().endswith(f"/{end}")]
        hint = f"did you mean {near[0]}?" if near else "write for example UTC or Europe/Berlin."
        raise UsageError(f"--zone: {name!r} is not a time zone; {hint}") from None


def month(text: str, zone: ZoneInfo) -> Period:
    """Return a calendar month such as 2026-10. Raises UsageError."""
    match = re.fullmatch(r"(\d{4})-(\d{2})", text)
    if match is None or not 1 <= int(match[2]) <= 12 or not 1971 <= int(match[1]) <= 9000:
        raise UsageError(f"--month: {text!r} is not a month; write for example 2026-10.")
    first = date(int(match[1]), int(match[2]), 1)
    after = (first + timedelta(days=31)).replace(day=1)
    return between(first.isoformat(), after.isoformat(), zone)


def between(begin: str, end: str, zone: ZoneInfo) -> Period:
    """Return the time from `begin` to before `end`, dates or times in the zone. Raises UsageError."""
    period = Period(_minute("--from", begin, zone), _minute("--to", end, zone), zone)
    if period.start >= period.end:
        raise UsageError(f"--to {end} is not after --from {begin}; it is the first moment behind the period.")
    return period


def _minute(option: str, text: str, zone: ZoneInfo) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option}: {text!r} is not a date; write for example 2026-10-01 or 2026-10-01T06:00."
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    seconds = moment.timestamp()
    if seconds % _MINUTE_S:
        raise UsageError(f"{option} {text}: bills begin and end with whole minutes, such as 2026-10-01T06:00.")
    return int(seconds) // _MINUTE_S


def last_day(text: str) -> int:
    """Return the day, since the epoch, of `--as-of`. Raises UsageError."""
    try:
        return (date.fromisoformat(text) - date(1970, 1, 1)).days
    except ValueError:
        raise UsageError(f"--as-of: {text!r} is not a date; write for example 2026-11-03.") from None

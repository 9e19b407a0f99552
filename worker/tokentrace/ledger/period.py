"""Periods: a month, or the time between two moments, in any time zone, as whole hours of UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tokentrace.errors import UsageError

HOUR_S: Final = 3600
#: Labels that are periods of time themselves.
CALENDAR: Final = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "month": "%Y-%m"}


@dataclass(frozen=True, slots=True)
class Period:
    """Hours from `from_hour` to before `until_hour`, since the epoch. zone: of its beginning and its end."""

    from_hour: int
    until_hour: int
    zone: ZoneInfo

    @property
    def begins(self) -> datetime:
        """The first moment, in the zone."""
        return self._moment(self.from_hour)

    @property
    def ends(self) -> datetime:
        """The first moment behind it, in the zone."""
        return self._moment(self.until_hour)

    def _moment(self, hour: int) -> datetime:
        return datetime.fromtimestamp(hour * HOUR_S, UTC).astimezone(self.zone)

    def label(self, name: str, hour: int) -> str:
        """Return the hour, day or month of an hour, in the zone. Raises UsageError for an hour that two days share."""
        moment = self._moment(hour)
        if moment.minute:
            raise UsageError(f"--by {name}: {_cut(moment)}")
        return f"{moment:{CALENDAR[name]}}"


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of a name such as Europe/Berlin. Raises UsageError for an unknown one."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--zone: {name!r} is not a time zone; write for example UTC or Europe/Berlin.") from None


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
    period = Period(_hour("--from", begin, zone), _hour("--to", end, zone), zone)
    if period.from_hour >= period.until_hour:
        raise UsageError(f"--to {end} is not after --from {begin}; it is the first moment behind the period.")
    return period


def _hour(option: str, text: str, zone: ZoneInfo) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option}: {text!r} is not a date; write for example 2026-10-01 or 2026-10-01T06:00."
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    seconds = moment.timestamp()
    if seconds % HOUR_S:
        raise UsageError(f"{option} {text}: {_cut(moment)}")
    return int(seconds) // HOUR_S


def _cut(moment: datetime) -> str:
    return (
        f"this is {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC, inside an hour, and the ledger keeps whole hours of "
        "UTC. Zones that are half an hour from them, such as Asia/Kolkata, cannot be billed by their own days: set "
        "--zone UTC, or --from and --to on whole hours of UTC, such as 2026-10-01T05:30 in Asia/Kolkata."
    )


def last_day(text: str) -> int:
    """Return the day, since the epoch, of `--as-of`. Raises UsageError."""
    try:
        return (date.fromisoformat(text) - date(1970, 1, 1)).days
    except ValueError:
        raise UsageError(f"--as-of: {text!r} is not a date; write for example 2026-11-03.") from None

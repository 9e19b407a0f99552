"""Parts: what the ledger keeps apart of an hour (UTC), so that days and months of other time zones can be summed.

An hour is one part, unless a day begins within it somewhere: in a zone whose offset from UTC is not a whole number of
hours. Around the turn of a month, hours are cut into quarters, of which all offsets are multiples, so that months are
whole in every zone. Other days are whole in chosen zones. A row of the ledger says which part it is, so the rows of one
hour may be cut in several ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from tokentrace.model.arrays import Ints

_MINUTES: Final = 60
_QUARTERS: Final = frozenset((0, 15, 30, 45))
#: Midnights of one date are from so many hours before to so many hours after that in UTC.
_EARLIEST_H: Final = 14
_LATEST_H: Final = 12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Hours that are remembered; a year fits.
_REMEMBERED: Final = 10_000


class Part(NamedTuple):
    """Minutes of an hour, `until_minute` not among them. hour: hours since the epoch, UTC."""

    hour: int
    from_minute: int = 0
    until_minute: int = _MINUTES

    @property
    def start(self) -> int:
        """The first minute, since the epoch."""
        return self.hour * _MINUTES + self.from_minute

    @property
    def end(self) -> int:
        """The first minute behind it, since the epoch."""
        return self.hour * _MINUTES + self.until_minute


class Parts:
    """Cuts hours into parts. zones: names of the time zones whose days are kept apart."""

    def __init__(self, zones: Iterable[str] = ()) -> None:
        self._zones = [ZoneInfo(name) for name in dict.fromkeys(zones)]
        self._known: dict[int, tuple[int, ...]] = {}

    def starts(self, minutes: Ints) -> Ints:
        """Return int64[n], the first minute of the part that each minute is in. minutes: int64[n], since the epoch."""
        hours = minutes // _MINUTES
        starts = hours * _MINUTES
        for hour in np.unique(hours).tolist():
            cuts = self._cuts(hour)
            if len(cuts) > 1:
                here = np.flatnonzero(hours == hour)
                within = minutes[here] - hour * _MINUTES
                starts[here] += np.array(cuts)[np.searchsorted(cuts, within, side="right") - 1]
        return starts

    def part(self, start: int) -> Part:
        """Return the part that begins with a minute."""
        hour, minute = divmod(start, _MINUTES)
        return Part(hour, minute, next((cut for cut in self._cuts(hour) if cut > minute), _MINUTES))

    def _cuts(self, hour: int) -> tuple[int, ...]:
        """Return the minutes of an hour with which a part begins, ascending from 0."""
        if hour not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[hour] = tuple(sorted(self._found(hour)))
        return self._known[hour]

    def _found(self, hour: int) -> set[int]:
        found = {0}
        try:
            if _month(hour + _EARLIEST_H) != _month(hour - _LATEST_H):
                found |= _QUARTERS
            for zone in self._zones:
                dates = [(_moment(hour) + timedelta(minutes=at)).astimezone(zone).date() for at in range(_MINUTES)]
                found |= {at for at in range(1, _MINUTES) if dates[at] != dates[at - 1]}
        except OverflowError:
            # Beyond all calendars.
            return {0}
        return found


def _moment(hour: int) -> datetime:
    return _EPOCH + timedelta(hours=hour)


def _month(hour: int) -> int:
    return _moment(hour).month

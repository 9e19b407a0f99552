"""Watermark: the minute up to which all spans of all partitions are counted, as far as can be known.

Each commit tells how far it has brought event time in its partitions. The slowest partition decides, so that a backlog
is evaluated minute by minute as it would have been in time, however unevenly it is worked off. Everything here
is a function of the rollups alone: whoever reads them comes to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MINUTE_US: Final = 60_000_000
#: How long after its end a span may be published, and still be in time.
GRACE_US: Final = 5_000_000
#: A partition of which nothing was heard for so long, while there were commits of others, is not waited for.
SILENT_US: Final = 600_000_000
#: Two commits that are further apart than this have a pause between them.
PAUSE_US: Final = 30_000_000


class Watermark:
    """Follows the commits."""

    def __init__(self, partitions: int = 0, reached_us: Mapping[int, int] | None = None, at_us: int = 0) -> None:
        """partitions: of the source topic, 0 while it is not known. at_us: when this was the state of things."""
        self.partitions = partitions
        self.reached_us = dict(reached_us or {})
        self._now_us = at_us
        # Time during which there were commits: a pause of the whole fleet is nobody's silence.
        self._active_us = 0
        self._heard_us = dict.fromkeys(self.reached_us, 0)

    def hear(self, committed_at_us: int, partitions: int, reached_us: Mapping[int, int]) -> None:
        """A commit of some replica at this moment of its clock."""
        passed_us = max(committed_at_us - self._now_us, 0) if self._now_us else 0
        self._active_us += min(passed_us, PAUSE_US)
        self._now_us = max(self._now_us, committed_at_us)
        self.partitions = max(self.partitions, partitions)
        for partition, time_us in reached_us.items():
            self.reached_us[partition] = max(time_us, self.reached_us.get(partition, 0))
            self._heard_us[partition] = self._active_us

    def silent(self) -> list[int]:
        """Partitions that are not waited for."""
        limit_us = self._active_us - SILENT_US
        every = {*range(self.partitions), *self.reached_us}
        return sorted(each for each in every if self._heard_us.get(each, 0) < limit_us)

    def time_us(self) -> int | None:
        """Event time that all partitions have reached; None while one has to be heard of for the first time."""
        waited_for = {*range(self.partitions), *self.reached_us} - set(self.silent())
        times_us = [self.reached_us.get(partition) for partition in waited_for]
        known = [time_us for time_us in times_us if time_us is not None]
        return min(known) if known and len(known) == len(times_us) else None

    def minute(self) -> int | None:
        """The last minute that is complete."""
        time_us = self.time_us()
        return None if time_us is None else (time_us - GRACE_US) // MINUTE_US - 1

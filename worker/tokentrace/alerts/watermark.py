"""Event-time watermark: the last minute for which every input partition has been fully counted.

Each commit reports the event time that its partitions have reached. The watermark is the minimum over partitions, so a
backlog is evaluated minute by minute regardless of how partitions catch up. It is a function of the rollups alone:
every reader of the same rollups reaches the same minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MINUTE_US: Final = 60_000_000
#: Longest time after its end at which a span may be published and still be on time.
GRACE_US: Final = 5_000_000
#: Partitions without progress for this long, while others commit, are excluded (idle).
IDLE_AFTER_US: Final = 600_000_000
#: A longer gap between two commits is a pause of the whole fleet; only this much of it counts towards idleness.
PAUSE_US: Final = 30_000_000


class Watermark:
    """Follows the commits of all replicas."""

    def __init__(self, partitions: int = 0, reached_us: Mapping[int, int] | None = None, at_us: int = 0) -> None:
        """Start from what an earlier owner committed.

        partitions: of the source topic, 0 while unknown. reached_us: partition -> event time, Unix microseconds.
        at_us: time of the last commit that was observed, by the clock of the replica that made it.
        """
        self.partitions = partitions
        self.reached_us = dict(reached_us or {})
        #: Time of the latest commit observed, Unix microseconds; 0 before the first.
        self.at_us = at_us
        # Time during which replicas committed: a pause of the whole fleet makes no partition idle.
        self._active_us = 0
        self._progressed_us = dict.fromkeys(self.reached_us, 0)

    def observe(self, committed_at_us: int, partitions: int, reached_us: Mapping[int, int]) -> None:
        """Record one replica's commit. committed_at_us: by that replica's clock."""
        passed_us = max(committed_at_us - self.at_us, 0) if self.at_us else 0
        self._active_us += min(passed_us, PAUSE_US)
        self.at_us = max(self.at_us, committed_at_us)
        self.partitions = max(self.partitions, partitions)
        for partition, time_us in reached_us.items():
            self.reached_us[partition] = max(time_us, self.reached_us.get(partition, 0))
            self._progressed_us[partition] = self._active_us

    def idle_partitions(self) -> list[int]:
        """Partitions that the watermark does not wait for."""
        limit_us = self._active_us - IDLE_AFTER_US
        partitions = {*range(self.partitions), *self.reached_us}
        return sorted(partition for partition in partitions if self._progressed_us.get(partition, 0) < limit_us)

    def time_us(self) -> int | None:
        """Event time that all partitions have reached; None until every partition has reported once."""
        partitions = {*range(self.partitions), *self.reached_us} - set(self.idle_partitions())
        times_us = [self.reached_us.get(partition) for partition in partitions]
        known = [time_us for time_us in times_us if time_us is not None]
        return min(known) if known and len(known) == len(times_us) else None

    def minute(self) -> int | None:
        """The last complete minute since the epoch; None while `time_us` is."""
        time_us = self.time_us()
        return None if time_us is None else (time_us - GRACE_US) // MINUTE_US - 1

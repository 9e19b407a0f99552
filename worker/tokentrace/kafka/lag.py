"""Lag: how far the log of each assigned partition is ahead of what is committed, and whether that moves on.

Records are counted from the committed position to the high watermark. So a lag stays while nothing is committed, and
it contains the records behind a transaction of a publisher that is still open. Markers of transactions have offsets
too: a partition whose committed records are all that was read up to its end has no lag, whatever offset that end has.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from tokentrace.model.worker_stats import Lag


@dataclass(slots=True)
class _Partition:
    """read, committed: next offsets. end: where the log ended when that was last reached, -1 before.

    read_s: Unix time at which the last record that was read was produced. uncommitted_s: the same of the first that is
    not committed, None while all are. stalled_s: moment since which records wait and none is committed, 0 while that
    is not so.
    """

    read: int
    committed: int
    end: int = -1
    read_s: float | None = None
    uncommitted_s: float | None = None
    stalled_s: float = 0.0

    @property
    def at_end(self) -> bool:
        return self.end >= self.read

    @property
    def reached(self) -> int:
        """Offset up to which everything is committed."""
        return self.end if self.committed == self.read and self.at_end else self.committed


class LagTracker:
    """The lags of the assigned partitions of one member."""

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """clock: Unix time in seconds. monotonic: the clock of `Lag.stalled_s`."""
        self._clock = clock
        self._monotonic = monotonic
        self._partitions: dict[int, _Partition] = {}

    def begin(self, partition: int, position: int) -> None:
        """Follow a partition that is read from `position`, up to which it is committed, for the first time or again."""
        before = self._partitions.get(partition)
        self._partitions[partition] = _Partition(position, position)
        if before is not None and position <= before.committed:
            # Reading again commits nothing.
            self._partitions[partition].stalled_s = before.stalled_s

    def forget(self, partition: int) -> None:
        """End to follow a partition."""
        self._partitions.pop(partition, None)

    def on_read(self, positions: Mapping[int, int], times_ms: Mapping[int, tuple[int, int]]) -> None:
        """Note a batch. positions: next offsets. times_ms: when the first and last records were produced, Unix time."""
        for partition, position in positions.items():
            found = self._partitions.get(partition)
            if found is not None:
                first_ms, last_ms = times_ms[partition]
                found.read, found.read_s = position, last_ms / 1000
                if found.uncommitted_s is None:
                    found.uncommitted_s = first_ms / 1000

    def on_end(self, partition: int, offset: int) -> None:
        """Note that the readable log ends at this offset, behind all that was read."""
        if partition in self._partitions:
            self._partitions[partition].end = offset

    def at_end(self, partition: int) -> bool:
        """Return whether all that can be read was read, by the last fetch."""
        found = self._partitions.get(partition)
        return found is not None and found.at_end

    def on_committed(self, positions: Mapping[int, int]) -> None:
        """Note a commit of these offsets."""
        for partition, position in positions.items():
            found = self._partitions.get(partition)
            if found is None:
                continue
            if position > found.committed:
                found.stalled_s = 0.0
            found.committed = position
            if position >= found.read:
                found.uncommitted_s = None

    def lags(self, partitions: Iterable[int], ends: Callable[[int], int], held: Container[int] = ()) -> dict[int, Lag]:
        """Return partition -> its lag now, of these that were begun.

        ends: gives the high watermark of a partition, negative where none is known yet. held: partitions that are not
        to be consumed, and so do not stall.
        """
        now_s, tick_s = self._clock(), self._monotonic()
        lags = {}
        for partition in partitions:
            found = self._partitions[partition]
            records = max(ends(partition) - found.reached, 0)
            if not records or partition in held:
                found.stalled_s = 0.0
            elif not found.stalled_s:
                found.stalled_s = tick_s
            if not records:
                lags[partition] = Lag(0, 0.0)
                continue
            oldest_s = found.uncommitted_s if found.uncommitted_s is not None else found.read_s
            lags[partition] = Lag(records, 0.0 if oldest_s is None else max(now_s - oldest_s, 0.0), found.stalled_s)
        return lags

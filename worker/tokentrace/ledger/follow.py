"""Follow: reads the rollups into the ledger, from its position to the end of the topic and on.

The position is in the database, so a crash anywhere leaves the ledger as it was before a transaction or behind it, and
rollups are read again from there. What cannot be in the ledger is never passed over in silence: rollups that retention
removed before they were read, and records that cannot be read, stop it until an operator accepts the gap.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

from tokentrace.alerts.rollup_reader import Rollup, RollupReader
from tokentrace.errors import FatalError, UnreadableRecord, UsageError
from tokentrace.kafka.log_tail import OutOfLog
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.ledger.cells import cells_of, columns_of
from tokentrace.ledger.database import Database, DatabaseUnavailable
from tokentrace.ledger.gaps import RetainedLog, describe, find_gap, first_start
from tokentrace.ledger.parts import Parts
from tokentrace.ledger.store import LedgerStore, Position, RollupGap, read_gaps
from tokentrace.ledger.unwritten import Unwritten
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group
from tokentrace.model.stop import StopSignal
from tokentrace.state.checksums import require_intact

log = logging.getLogger(__name__)

#: Rows of rollups that are summed up together, and cells that one transaction adds, about.
BATCH_ROWS: Final = 100_000
#: Records that are polled at once; each may be most of a megabyte.
_POLL: Final = 100
_POLL_S: Final = 0.2
#: Longest time for which rollups that were read wait for more, once the end of the topic is reached.
LINGER_S: Final = 1.0
#: Pause before a database that did not answer is asked again.
RETRY_S: Final = 2.0


class Tail(Protocol):
    """Reads the rollups; `kafka.log_tail.LogTail` is one."""

    topic: str

    def exists(self) -> bool:
        """Return whether the topic exists."""

    def topic_id(self) -> str:
        """Return what tells the topic from another one of its name."""

    def bounds(self) -> tuple[int, int]:
        """Return (offset of the first record, offset behind the last one)."""

    def known_end(self) -> int:
        """Return the offset behind the last record, as the last fetch saw it, without a request."""

    def seek(self, offset: int) -> None:
        """Continue at this offset."""

    def poll(self, max_records: int, timeout_s: float) -> list[PartitionRecord]:
        """Return the next records; the value None is the end."""


class Progress(NamedTuple):
    """Progress of a ledger.

    lag_records: offsets that are not in the ledger yet, those of transactions' markers too. committed_at_us: when the
    last commit that is in it was made. gaps: recorded ones. problem: why it waits, empty where it does not.
    """

    lag_records: int
    committed_at_us: int
    gaps: int
    problem: str = ""


class Follower:
    """Keeps one ledger.

    parts: what is kept apart of an hour. accept_gap: record what is missing and go on, instead of refusing.
    batch_rows: as BATCH_ROWS. linger_s: as LINGER_S.
    """

    def __init__(
        self,
        *,
        tail: Tail,
        database: Database,
        layout: Layout,
        stop: StopSignal,
        parts: Parts | None = None,
        accept_gap: bool = False,
        batch_rows: int = BATCH_ROWS,
        linger_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tail = tail
        self._database = database
        self._stop = stop
        self._accept_gap = accept_gap
        self._linger_s = LINGER_S if linger_s is None else linger_s
        self._clock = clock
        self._numbers: dict[Group, int] = {}
        groups: list[Group] = []

        def number(group: Group) -> int:
            if group not in self._numbers:
                self._numbers[group] = len(groups)
                groups.append(group)
            return self._numbers[group]

        self._store = LedgerStore(database, groups)
        self._reader = RollupReader(layout, columns_of(layout), number)
        self._unwritten = Unwritten(partial(cells_of, parts=parts or Parts()), batch_rows)
        #: Records and rows that are in the ledger since this process started.
        self.records = self.rows = 0
        #: None before the first start. Replaced whole, so that any thread may read it.
        self.progress: Progress | None = None
        #: Times that the database did not answer, why it does not now, and when the loop last turned.
        self.outages = 0
        self.problem = ""
        self.last_turn_s = stop.clock()
        #: The loop stands still, for as long as the rows of an earlier release take.
        self.migrating = False
        self._position: Position | None = None
        self._gaps = 0

    def run(self, *, until_end: bool = False) -> None:
        """Follow the topic until the stop, or until the end that the topic has now.

        Raises FatalError for a gap that is not accepted, StopRequested. A database that does not answer is waited for.
        """
        while True:
            try:
                self._follow(self._start(), until_end)
                return
            except DatabaseUnavailable as error:
                log.warning("%s Retrying in %.0f s.", error, RETRY_S)
                self.outages += 1
                self._show(self._position, str(error))
                self._stop.wait(RETRY_S)
                self._stop.check()
            except OutOfLog:
                # The next start finds the gap, and names it.
                log.warning("Topic %s has lost the records that come next.", self._tail.topic)
                self._stop.wait(RETRY_S)

    def rebuild(self) -> None:
        """Empty the hours and read the whole topic again. Raises UsageError where that would lose some."""
        position = self._start()
        first, _ = self._tail.bounds()
        if first > position.first_offset:
            raise UsageError(
                f"Topic {self._tail.topic!r} does not retain the first rollups of this ledger any more: it begins at "
                f"offset {first}, the ledger at {position.first_offset}. A rebuild would lose hours."
            )
        self._store.clear(position, position._replace(next_offset=first, committed_at_us=0))
        self.run(until_end=True)

    # -- the beginning -----------------------------------------------------------------------------------------------

    def _start(self) -> Position:
        """Return where to continue, behind a gap that is accepted."""
        self._unwritten.clear()
        self._migrate()
        if not self._tail.exists():
            raise UsageError(f"Topic {self._tail.topic!r} does not exist; an exactly-once worker creates it.")
        position = self._store.position()
        if position is not None and position.topic != self._tail.topic:
            raise UsageError(
                f"This ledger is of topic {position.topic!r}, and the configuration's is {self._tail.topic!r}. Set "
                "another ledger.url for another consumer group."
            )
        retained = self._retained(position)
        if position is None:
            return self._begin(retained)
        gap = find_gap(position, retained)
        if gap is None:
            return position
        self._require_accepted(describe(gap, self._tail.topic))
        after = position._replace(topic_id=retained.topic_id, next_offset=gap.next_offset)
        if gap.next_offset < gap.first_offset or retained.topic_id != position.topic_id:
            # The topic has not all of its rollups any more, so that no rebuild is possible.
            after = after._replace(first_offset=-1)
        self._store.accept(gap, position, after, self._now_us())
        return after

    def _migrate(self) -> None:
        self.migrating = True
        try:
            self._database.migrate()
        finally:
            self.last_turn_s = self._stop.clock()
            self.migrating = False

    def _begin(self, retained: RetainedLog) -> Position:
        position, gap = first_start(self._tail.topic, retained)
        if gap is not None:
            log.warning("%s The ledger begins there.", describe(gap, self._tail.topic))
        self._store.begin(position, gap, self._now_us())
        return position

    def _retained(self, position: Position | None) -> RetainedLog:
        first, end = self._tail.bounds()
        since_us = self._now_us()
        if first and (position is None or position.next_offset < first):
            self._tail.seek(first)
            while not (found := self._tail.poll(1, _POLL_S)):
                pass
            if found[0].value is not None:
                since_us = round(found[0].written_s * 1e6)
        return RetainedLog(self._tail.topic_id(), first, end, since_us)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _follow(self, position: Position, until_end: bool) -> None:
        _, end = self._tail.bounds()
        self._tail.seek(position.next_offset)
        self._gaps = len(read_gaps(self._database))
        after, flushed_s, caught_up = position, self._stop.clock(), False
        while True:
            at_end = False
            for record in self._tail.poll(_POLL, _POLL_S):
                if record.value is None:
                    # Markers of transactions have offsets too: the end is behind them.
                    after = after._replace(next_offset=record.offset)
                    at_end = True
                    continue
                try:
                    rollup = self._read(record)
                except UnreadableRecord as error:
                    position = self._flush(position, after)
                    position = after = self._skip(record, position, error)
                    continue
                many = self._unwritten.add(rollup)
                committed_at_us = max(after.committed_at_us, rollup.committed_at_us)
                after = after._replace(next_offset=record.offset + 1, committed_at_us=committed_at_us)
                at_end = False
                if many:
                    position, flushed_s = self._flush(position, after), self._stop.clock()
            now_s = self._stop.clock()
            finished = until_end and at_end and after.next_offset >= end
            due = finished or now_s - flushed_s >= self._linger_s
            if after != position and due:
                position, flushed_s = self._flush(position, after), now_s
            self._show(position)
            if at_end and not caught_up:
                caught_up = True
                log.info("The ledger has all rollups up to offset %d.", after.next_offset)
            if finished:
                return

    def _read(self, record: PartitionRecord) -> Rollup:
        require_intact(record.key, record.value or b"", record.headers)
        return self._reader.read(record.value or b"", record.headers)

    def _skip(self, record: PartitionRecord, position: Position, error: UnreadableRecord) -> Position:
        """Record the gap of a record that cannot be read. Raises FatalError unless gaps are accepted."""
        self._require_accepted(
            f"The rollup at offset {record.offset} of topic {self._tail.topic!r} cannot be read: {error}"
        )
        after = position._replace(next_offset=record.offset + 1)
        written_us = round(record.written_s * 1e6)
        gap = RollupGap(
            position.topic_id, record.offset, record.offset + 1, written_us, written_us, "a record cannot be read"
        )
        self._store.accept(gap, position, after, self._now_us())
        self._gaps += 1
        return after

    def _flush(self, position: Position, after: Position) -> Position:
        """Add what was read to the ledger. Return the position behind it."""
        if after == position:
            return position
        self._store.apply(self._unwritten.cells(), position, after)
        self.records += self._unwritten.records
        self.rows += self._unwritten.rows
        self._unwritten.clear()
        return after

    def _show(self, position: Position | None, problem: str = "") -> None:
        """Publish the progress. position: what the database has, None before it is known. problem: why it waits."""
        self._position, self.problem, self.last_turn_s = position, problem, self._stop.clock()
        if position is not None and (end := self._tail.known_end()) >= 0:
            lag = max(end - position.next_offset, 0)
            self.progress = Progress(lag, position.committed_at_us, self._gaps, problem)

    def _require_accepted(self, what: str) -> None:
        if not self._accept_gap:
            raise FatalError(f"{what} To go on without it, and have bills say so: tokentrace ledger run --accept-gap")
        log.error("%s The gap is accepted and recorded.", what)

    def _now_us(self) -> int:
        return round(self._clock() * 1e6)

"""The worker: one thread that polls, counts and commits until `stop`.

A turn is: poll a batch, count it into the delta, commit when it is due, publish the stats. Everything that the HTTP
thread shows is an immutable object that a turn published by one assignment. Rebalances arrive inside `poll`, on this
thread: a revoke commits first, a loss drops what was not committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tokentrace.aggregate.pipeline import Pipeline, StageTimer
from tokentrace.commit import Committer, Outcome
from tokentrace.errors import ClientFailed, FatalError, MemberFailed, StopRequested
from tokentrace.kafka.offsets import Start
from tokentrace.kafka.source import KafkaSource
from tokentrace.model.messages import RawBatch
from tokentrace.model.snapshot import Snapshot
from tokentrace.model.stop import StopSignal
from tokentrace.model.worker_stats import WorkerStats
from tokentrace.runtime.batch_size import BatchSize
from tokentrace.runtime.offset_check import OffsetCheck
from tokentrace.runtime.own_topics import OwnTopics
from tokentrace.runtime.recovery import OUTAGES, failure_of, try_until_done
from tokentrace.runtime.waiting_batches import WaitingBatches
from tokentrace.state.replica_state import ReplicaState

log = logging.getLogger(__name__)

#: A delta with this many dead letters is committed early, which bounds their memory.
MAX_DEAD_LETTERS: Final = 2000
#: Time for which a revoke retries its commit before the next owner counts the delta, and the pause between tries.
REVOKE_TIMEOUT_S: Final = 10.0
REVOKE_RETRY_S: Final = 0.1
PUBLISH_INTERVAL_S: Final = 0.25
#: A partition that is read to its end and had no span for this long is idle: spans are published soon after they end,
#: so none that ended earlier is still to come.
IDLE_AFTER_S: Final = 10.0
_JOINING: Final = "joining the consumer group"


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Pace of the loop.

    batch_size: most messages of a poll. batch_wait_s: longest wait of a poll.
    batch_bytes: of the values of a poll together, about. dead_letter_bytes: with so many, a delta is committed early.
    heartbeat_s: longest time without a commit while nothing is published, so that event time advances; None: any.
    """

    commit_interval_s: float
    batch_size: int
    batch_wait_s: float
    heartbeat_s: float | None = None
    batch_bytes: int = 64 << 20
    dead_letter_bytes: int = 64 << 20


class Worker:
    """Runs the loop over its parts. `snapshot` and `stats` may be read from any thread at any time."""

    def __init__(
        self,
        *,
        settings: LoopSettings,
        source: KafkaSource,
        pipeline: Pipeline,
        state: ReplicaState,
        committer: Committer,
        stats: WorkerStats,
        timer: StageTimer,
        stop: StopSignal | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        restoring: Callable[[Callable[[], Snapshot]], object] = lambda publish: publish(),
        own_topics: OwnTopics | None = None,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """stop: the signal of the whole process. clock: for stamps. monotonic: for intervals; nobody can set it.

        restoring: called with what publishes the totals of earlier runs; it calls that once.
        own_topics: those to watch, None to watch none. report: called several times a second, to log what was found.
        """
        self._report = report
        self._settings = settings
        self._restoring = restoring
        self._own_topics = own_topics
        self._source = source
        self._pipeline = pipeline
        self._state = state
        self._delta = state.delta
        self._committer = committer
        self._stats = stats
        self._timer = timer
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._stop = StopSignal() if stop is None else stop
        self._batch_size = BatchSize(settings.batch_size, settings.batch_bytes)
        self._waiting = WaitingBatches(self._count, monotonic)
        #: Partitions that are paused because a message of theirs waits, and the problem shown for it.
        self._paused: set[int] = set()
        self._problem = ""
        self._commit_due_s = self._publish_due_s = 0.0
        self._rewind = self._joined = False
        self._last_span_s: dict[int, float] = {}
        self._heartbeat_due_s = 0.0
        self._offsets = OffsetCheck(committer=committer, own_position=state.position, log_end=source.log_end)
        self.stats = stats.copy()

    @property
    def snapshot(self) -> Snapshot:
        """The last committed totals."""
        return self._state.snapshot

    def stop(self) -> None:
        """End the loop: it commits, leaves the group and returns. Safe from signal handlers and other threads."""
        self._stop.set()

    def run(self) -> None:
        """Run until `stop`; `close` must follow. Raises FatalError or UsageError when this worker cannot continue."""
        try:
            # A wait that the stop cuts short: what is counted is committed all the same.
            with suppress(StopRequested):
                self._count_until_stopped()
            self._stats.not_ready = "draining"
            self._last_commit()
        finally:
            # Closing runs a last revoke, which commits what the commit above could not.
            self._source.close()
            self._stats.lag = {}
            self._publish_stats()

    def show(self) -> bool:
        """Commit that series may be shown in full which every scraper has seen as 0, once `run` has ended.

        Return whether it is worth while to call it again: a commit that fails now is left to the next start.
        """
        if self._delta:
            return False
        try:
            return self._commit() is Outcome.COMMITTED
        except (StopRequested, FatalError) as error:
            log.warning("%s New series are not shown in full before this worker ends.", error)
            return False

    def close(self) -> None:
        """Give up the Kafka clients."""
        self._committer.close()

    def _count_until_stopped(self) -> None:
        try_until_done(self._restore, stop=self._stop, abandon=self._abandon)
        self._stats.not_ready = _JOINING
        self._publish_stats()
        while not self._stop.is_set():
            try:
                if not self._joined:
                    self._join()
                self._turn()
            except OUTAGES as outage:
                self._recover(failure_of(outage))

    def _join(self) -> None:
        self._source.subscribe(self)
        self._joined, self._rewind = True, False
        self._commit_due_s = self._monotonic() + self._settings.commit_interval_s

    def _last_commit(self) -> None:
        try:
            self._commit()
        except (StopRequested, ClientFailed) as given_up:
            log.warning("%s The worker stops without its last commit; the next start counts these records.", given_up)
            self._state.discard()

    def _restore(self) -> None:
        """Start from what this replica has committed in earlier runs."""
        self._stats.not_ready = "restoring the committed totals"
        self._publish_stats()
        began = time.perf_counter()
        totals = self._committer.start()
        if totals is not None:

            def publish() -> Snapshot:
                self._state.restore(totals)
                return self.snapshot

            self._restoring(publish)
            self._stats.last_commit_at_s = totals.committed_at_s
            log.info("Restored the totals of %d groups.", len(self.snapshot.groups) - 1)
        self._stats.restore_seconds = time.perf_counter() - began

    # -- recovery --------------------------------------------------------------------------------------------------

    def _recover(self, failure: ClientFailed) -> None:
        """Replace the Kafka clients, and continue from what is committed; the totals are shown meanwhile.

        A member of the group that works is kept, and so are its partitions. Raises FatalError as the committer, which
        finds out whether another process has this replica id.
        """
        self._stats.recoveries += 1
        waiting_for = self._stats.not_ready
        try_until_done(lambda: self._begin_again(failure), stop=self._stop, abandon=self._abandon, failure=failure)
        assigned = self._source.assigned or self._source.pending
        joining = waiting_for == _JOINING or not assigned
        self._stats.not_ready = _JOINING if joining else self._waiting_for()

    def _abandon(self, problem: ClientFailed) -> None:
        if isinstance(problem, MemberFailed):
            # Its consumer has nothing left to resume.
            self._paused, self._stats.paused = set(), False
            self._remove(self._source.assigned)
            self._source.abandon()
            self._joined = False
        self._drop()
        self._committer.close()
        self._stats.not_ready = f"recovering: {problem}"
        self._publish_stats()

    def _begin_again(self, failure: ClientFailed) -> None:
        if self._own_topics is not None:
            self._own_topics.check_surely()
        totals = self._committer.recover(failure)
        if totals is not None:
            self._state.restart(totals)
        if self._source.abandoned:
            self._source.open()
        self._commit_due_s = self._monotonic() + self._settings.commit_interval_s

    # -- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._timer.start()
        batch = self._source.poll(self._batch_size.messages, self._poll_timeout_s())
        self._timer.mark("poll")
        if self._rewind:
            self._rewind = False
            self._source.rewind()
            batch = None
        if batch is not None:
            self._stats.batch_sizes.observe(len(batch))
            self._batch_size.observe(len(batch), batch.size)
            if self._paused.isdisjoint(batch.positions):
                self._waiting.count(batch)
            else:
                # A paused partition was read on; its messages must not be counted before those that wait.
                self._commit()
                self._drop()
        self._waiting.retry()
        self._pause()
        now_s = self._monotonic()
        if now_s >= self._commit_due_s or self._many_dead_letters():
            # While the commit lasts, these are the stats that are served.
            self._publish_stats()
            self._commit()
            self._commit_due_s = now_s + self._settings.commit_interval_s
            self._state.refresh()
        if now_s >= self._publish_due_s:
            self._publish_due_s = now_s + PUBLISH_INTERVAL_S
            self._check_topics()
            self._report()
            self._publish_stats()

    def _many_dead_letters(self) -> bool:
        delta = self._delta
        return (
            len(delta.dead_letters) >= MAX_DEAD_LETTERS or delta.dead_letter_bytes >= self._settings.dead_letter_bytes
        )

    def _poll_timeout_s(self) -> float:
        """Return how long a poll may wait: never past the next commit, which an idle topic needs as well."""
        until_commit_s = self._commit_due_s - self._monotonic()
        return min(self._settings.batch_wait_s, max(until_commit_s, 0.0))

    def _count(self, batch: RawBatch) -> None:
        """Count a batch, or raise SchemaUnavailable and count nothing of it."""
        counted = {partition: self._delta.counted[partition] for partition in batch.positions}
        before = self._delta.read_spans(batch.positions)
        self._pipeline.count(batch, self._delta)
        self._batch_size.observe_spans(len(batch), self._delta.read_spans(batch.positions) - before)
        now_s = self._monotonic()
        for partition, before in counted.items():
            if self._delta.counted[partition] > before:
                self._last_span_s[partition] = now_s

    def _pause(self) -> None:
        """Pause the partitions of which a message waits for its schema, and no others."""
        partitions = self._waiting.partitions
        if partitions != self._paused:
            if resumed := self._paused - partitions:
                self._source.resume(resumed)
            if paused := partitions - self._paused:
                self._source.pause(paused)
            self._paused = partitions
            self._stats.paused = bool(partitions)
        if self._waiting.problem != self._problem:
            self._problem = self._waiting.problem
            self._stats.not_ready = self._waiting_for()

    def _commit(self) -> Outcome:
        """Commit the delta, and apply, keep or drop it. `ReplicaState` documents the order."""
        self._advance_idle_partitions()
        began = time.perf_counter()
        proposal = self._state.prepare()
        if not proposal:
            return Outcome.COMMITTED
        self._timer.start()
        outcome = self._committer.commit(proposal)
        if outcome is Outcome.COMMITTED:
            self._state.apply(proposal)
            self._source.on_committed(proposal.positions)
            if proposal.expiry:
                expired = int((~proposal.expiry.keep).sum())
                log.info("%d groups expired: idle for longer than metrics.expire_after.", expired)
            self._stats.last_commit_at_s, self._stats.last_commit_s = self._clock(), self._monotonic()
        elif outcome is Outcome.DROPPED:
            self._drop()
        self._stats.commit_seconds.observe(time.perf_counter() - began)
        self._stats.commits[outcome.value] += 1
        self._stats.last_commit_ok = outcome is Outcome.COMMITTED
        self._timer.mark("commit")
        return outcome

    def _advance_idle_partitions(self) -> None:
        """Advance the event time of idle partitions with the clock; published with the next commit or heartbeat."""
        if self._rewind:
            # The source's positions lie beyond what is counted: of records that were dropped.
            return
        now_s = self._monotonic()
        heartbeat_s = self._settings.heartbeat_s
        if not self._delta and (heartbeat_s is None or now_s < self._heartbeat_due_s):
            return
        # The source's positions of paused partitions lie beyond the messages that wait.
        caught_up = self._source.caught_up - self._paused
        idle = [p for p in caught_up if self._last_span_s.get(p, now_s) <= now_s - IDLE_AFTER_S]
        for partition in idle:
            self._delta.advance_event_time(partition, int((self._clock() - IDLE_AFTER_S) * 1e6))
        if idle and not self._delta:
            # Its commit includes offsets, so a replica that has lost the partitions cannot publish an event time.
            positions = self._source.positions
            self._delta.positions.update({p: positions[p] for p in positions if p not in self._paused})
        self._heartbeat_due_s = now_s + (heartbeat_s or 0.0)

    def _check_topics(self) -> None:
        """Look for own topics that were deleted. Raises FatalError where no commit could be trusted any more."""
        if self._own_topics is None:
            return
        before = self._own_topics.problem
        self._own_topics.check(commits_fail=not self._stats.last_commit_ok)
        if self._own_topics.problem != before and self._stats.not_ready != _JOINING:
            self._stats.not_ready = self._waiting_for()

    def _waiting_for(self) -> str:
        """Return why this worker is not ready while it has joined the group, empty when it is."""
        deleted = "" if self._own_topics is None else self._own_topics.problem
        return self._problem or deleted or self._lost_state()

    def _lost_state(self) -> str:
        """Return which partitions are refused, since their state is lost; empty where none is."""
        lost = sorted(self._offsets.lost & self._source.blocked)
        return f"the state that has counted the partitions {lost} is lost; see the log" if lost else ""

    def _drop(self) -> None:
        """Discard uncommitted counts, and rewind to the committed offsets with the next turn.

        Counts whose offsets may be committed are kept: they would not be read again.
        """
        if self._committer.in_doubt:
            log.warning("The answer to the last commit was lost. Its counts are kept; what was not committed repeats.")
            self._state.keep()
            self._committer.in_doubt = False
        else:
            self._state.discard()
        self._waiting.clear()
        self._pause()
        self._rewind = True

    def _publish_stats(self) -> None:
        stats = self._stats
        stats.last_turn_s = self._monotonic()
        if self._source.assigned:
            stats.lag = self._source.lag()
        stats.unreachable = self._source.unreachable
        stats.remembered = self._state.dedup_stats()
        stats.pending_partitions = dict(self._source.pending)
        stats.refused_partitions = tuple(sorted(self._source.blocked))
        self.stats = stats.copy()

    # -- rebalance, called by the source inside poll ---------------------------------------------------------------

    def load_counted(self) -> bool:
        """Load how far any replica has counted, before the group's offsets are compared with it.

        Return whether any has counted anything of the topic.
        """
        return self._offsets.load()

    def refuse_offsets(self, starts: Mapping[int, Start]) -> set[int]:
        """Return the partitions that must not be consumed from the group's offsets; see `OffsetCheck`."""
        checked = self._offsets.check(starts)
        for partition, start in starts.items():
            generation = self._delta.generations[partition] = self._offsets.known(partition).generation
            self._delta.begins[partition] = generation, start.offset
        for partition, records in checked.skipped.items():
            self._delta.gaps["skipped", partition] += records
        if checked.begun:
            self.begin(checked.begun)
        return checked.refused

    def counted(self, partition: int) -> int:
        """Return the offset up to which a partition is known to be counted, committed or not; 0 if none is."""
        known = self._offsets.counted(partition)
        return max(known, self._state.position(partition), self._delta.positions.get(partition, 0))

    def generation(self, partition: int) -> int:
        """Return the generation of a partition's log that this replica has committed, 0 for the first."""
        return self._state.generation(partition)

    def on_removed(self, partition: int, first: int, records: int) -> None:
        """Commit, with this turn, that a partition goes on at `first`, since records before it were removed unread."""
        self._delta.gaps["lost", partition] += records
        self.begin({partition: first})

    def on_truncated(self, partition: int, end: int, records: int) -> None:
        """Commit, with this turn, that a partition's log has ended at `end`, before what is counted of it.

        Everything read of it is counted, with records that are gone. A new generation of the log begins: its offsets
        from here on are uncounted.
        """
        self._delta.gaps["truncated", partition] += records
        self._delta.generations[partition] = self._delta.generations.get(partition, 0) + 1
        self.begin({partition: end})

    def load_state(self, partitions: Sequence[int]) -> None:
        """Load what is committed of partitions before they are read, for the first time or again."""
        self._state.load(partitions, self._committer.dedup_chunks(partitions))

    def begin(self, positions: Mapping[int, int]) -> None:
        """Commit, with this turn, where partitions begin that the group reads for the first time.

        A partition that stays quiet would otherwise begin elsewhere after a restart.
        """
        self._delta.positions.update(positions)
        self._commit_due_s = 0.0

    def on_assign(self, partitions: Sequence[int]) -> None:
        self._stats.rebalances["assign"] += 1
        if partitions:
            log.info("Partitions assigned: %s.", sorted(partitions))
        self._last_span_s.update(dict.fromkeys(partitions, self._monotonic()))
        self._stats.not_ready = self._waiting_for()

    def on_revoke(self, partitions: Sequence[int]) -> None:
        self._stats.rebalances["revoke"] += 1
        log.info("Partitions revoked: %s.", sorted(partitions))
        deadline_s = self._monotonic() + REVOKE_TIMEOUT_S
        try:
            outcome = self._commit()
            while outcome is Outcome.RETRY and self._monotonic() < deadline_s and not self._stop.expired:
                self._sleep(REVOKE_RETRY_S)
                outcome = self._commit()
            if outcome is Outcome.RETRY or self._paused:
                self._drop()
        finally:
            self._remove(partitions)

    def on_lost(self, partitions: Sequence[int]) -> None:
        self._stats.rebalances["lost"] += 1
        log.warning("Partitions lost: %s. Their next owner counts what was not committed.", sorted(partitions))
        self._drop()
        self._remove(partitions)

    def _remove(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._stats.lag.pop(partition, None)
        self._state.revoke(partitions)

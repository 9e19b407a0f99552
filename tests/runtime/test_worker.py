"""The worker's loop over a scripted source and committer, on a clock that only moves when a poll waits or it sleeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness import NOW_S, Clock, Harness, raw_batch
from tests.spanfactory import message, span
from tokentrace.aggregate.delta import Delta
from tokentrace.aggregate.pipeline import StageTimer
from tokentrace.commit import Outcome, StateTopic
from tokentrace.errors import (
    ClientFailed,
    FatalError,
    MemberFailed,
    ReplicaIdTaken,
    SchemaUnavailable,
    StopRequested,
    TokentraceError,
    Unreachable,
    UsageError,
)
from tokentrace.kafka.offsets import Start
from tokentrace.model.messages import RawBatch
from tokentrace.model.snapshot import Gap, Snapshot
from tokentrace.model.worker_stats import Lag, WorkerStats
from tokentrace.runtime import recovery
from tokentrace.runtime.worker import (
    IDLE_AFTER_S,
    MAX_DEAD_LETTERS,
    REVOKE_RETRY_S,
    REVOKE_TIMEOUT_S,
    LoopSettings,
    Worker,
)
from tokentrace.state.log_generations import LogPosition
from tokentrace.state.proposal import Proposal
from tokentrace.state.totals import Totals

COMMITTED, RETRY, DROPPED = Outcome.COMMITTED, Outcome.RETRY, Outcome.DROPPED

#: One poll: it may call the listener, and returns a batch or None.
Step = Callable[[], RawBatch | None]

STATE_ID = "AjqRLwqYRoWmxd"


def spans(count: int, *, offset: int = 0, partition: int = 0) -> RawBatch:
    return raw_batch([message(span(span_id=str(offset + row))) for row in range(count)], partition, offset)


class Source:
    """A group member with partitions 0 and 1. Every poll runs the next step; after the last one the worker stops."""

    unreachable = ""
    abandoned = False

    def __init__(self, rig: Rig, steps: Sequence[Step | RawBatch | None]) -> None:
        self._rig = rig
        self._steps = list(steps)
        self.assigned: list[int] = [0, 1]
        self.positions: dict[int, int] = {0: 0, 1: 0}
        self.caught_up: set[int] = set()
        self.blocked: set[int] = set()
        self.pending: dict[int, str] = {}
        self.ends: dict[int, int] = {}
        self.refusals: list[Exception] = []
        self.committed: list[dict[int, int]] = []
        self.asked: list[int] = []

    def subscribe(self, listener: Worker) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        listener.load_counted()
        listener.load_state(self.assigned)
        listener.on_assign(self.assigned)

    def poll(self, max_messages: int, timeout_s: float) -> RawBatch | None:
        self.asked.append(max_messages)
        if not self._steps:
            self._rig.worker.stop()
            return None
        step = self._steps.pop(0)
        batch = step() if callable(step) else step
        if batch is None:
            self._rig.clock.now_s += timeout_s
        else:
            self.positions.update(batch.positions)
        return batch

    def log_end(self, partition: int) -> int | None:
        return self.ends.get(partition)

    def on_committed(self, positions: Mapping[int, int]) -> None:
        self.committed.append(dict(positions))

    def lag(self) -> dict[int, Lag]:
        return {partition: Lag(0, 0.0) for partition in self.assigned}

    def pause(self, partitions: Collection[int]) -> None:
        self._rig.events.append(f"pause {sorted(partitions)}")

    def resume(self, partitions: Collection[int]) -> None:
        self._rig.events.append(f"resume {sorted(partitions)}")

    def rewind(self) -> None:
        self._rig.events.append("rewind")

    def abandon(self) -> None:
        self._rig.events.append("source abandoned")
        self.positions, self.assigned, self.abandoned = {}, [], True

    def open(self) -> None:
        self._rig.events.append("source opened")
        self.assigned, self.abandoned = [0, 1], False

    def close(self) -> None:
        self._rig.events.append("source closed")
        self.assigned = []


@dataclass
class Committer:
    """Gives the scripted outcomes, then COMMITTED; keeps every proposal, and what was shown and counted meanwhile."""

    rig: Rig
    outcomes: list[Outcome | Exception]
    totals: Totals | None = None
    known: Mapping[int, LogPosition] = field(default_factory=dict)
    starts: list[Exception] = field(default_factory=list)
    recoveries: list[Totals | Exception | None] = field(default_factory=list)
    in_doubt: bool = False
    proposals: list[Proposal] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)

    @property
    def state_topic(self) -> StateTopic | None:
        return StateTopic("spans.state", STATE_ID)

    def start(self) -> Totals | None:
        if self.starts:
            raise self.starts.pop(0)
        return self.totals

    def recover(self, failure: ClientFailed) -> Totals | None:
        self.rig.events.append("recover")
        answer = self.recoveries.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def counted_up_to(self) -> Mapping[int, LogPosition]:
        return self.known

    def dedup_chunks(self, partitions: Sequence[int]) -> Mapping[int, Any]:
        return {}

    def commit(self, proposal: Proposal) -> Outcome:
        self.proposals.append(proposal)
        self.shown.append(counted(self.rig.worker.snapshot))
        self.pending.append(sum(self.rig.harness.delta.counted.values()))
        outcome = self.outcomes.pop(0) if self.outcomes else COMMITTED
        self.rig.events.append("commit" if isinstance(outcome, Exception) else f"commit {outcome.value}")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        self.rig.events.append("committer closed")


class FlakyPipeline:
    """The harness's pipeline, whose schema is unavailable for the first `failures` batches of partition 0."""

    def __init__(self, harness: Harness, failures: int) -> None:
        self._harness = harness
        self.failures = failures

    def count(self, batch: RawBatch, delta: Delta) -> None:
        if self.failures and 0 in batch.positions:
            self.failures -= 1
            raise SchemaUnavailable("The registry does not answer.")
        self._harness.engine.count(batch, delta)


class Rig:
    """A worker whose source, committer and clock are scripted; everything between them is the product's."""

    def __init__(
        self,
        *steps: Step | RawBatch | None,
        outcomes: Sequence[Outcome | Exception] = (),
        unavailable: int = 0,
        heartbeat_s: float | None = None,
        restoring: Callable[[Callable[[], Snapshot]], object] = lambda publish: publish(),
    ) -> None:
        self.events: list[str] = []
        self.slept_s: list[float] = []
        self.harness = Harness()
        self.clock: Clock = self.harness.clock
        #: Seconds by which the wall clock was set.
        self.clock_set_s = 0.0
        self.source = Source(self, steps)
        self.committer = Committer(self, list(outcomes))
        self.worker = Worker(
            settings=LoopSettings(commit_interval_s=1.0, batch_size=100, batch_wait_s=1.0, heartbeat_s=heartbeat_s),
            source=self.source,  # type: ignore[arg-type]
            pipeline=FlakyPipeline(self.harness, unavailable),  # type: ignore[arg-type]
            state=self.harness.state,
            committer=self.committer,
            stats=WorkerStats(replica_id="r0", guarantee="exactly_once", started_at_s=NOW_S),
            timer=StageTimer(self.harness.seconds),
            clock=lambda: self.clock() + self.clock_set_s,
            monotonic=self.clock,
            sleep=self._sleep,
            restoring=restoring,
        )

    def _sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.clock.now_s += seconds

    def run(self) -> Rig:
        try:
            self.worker.run()
        finally:
            self.worker.close()
        return self

    def revoke(self) -> None:
        self.worker.on_revoke([0, 1])
        self.source.assigned, self.source.positions = [], {}

    def lose(self) -> None:
        self.worker.on_lost([0, 1])
        self.source.assigned, self.source.positions = [], {}

    def accepts(self, offset: int | None, metadata: str = "") -> bool:
        """Return whether the worker consumes partition 0 from what the group has committed for it."""
        return 0 not in self.worker.refuse_offsets({0: Start(offset or 0, offset, metadata=metadata)})

    @property
    def counted(self) -> int:
        return counted(self.worker.snapshot)

    @property
    def proposed(self) -> list[int]:
        """Spans in the totals of each proposal."""
        return [
            sum(audit.counted for audit in proposal.totals.partitions.values()) for proposal in self.committer.proposals
        ]


def counted(snapshot: Snapshot) -> int:
    return sum(audit.counted for audit in snapshot.partitions.values())


# -- the order of a commit -------------------------------------------------------------------------------------------


def test_worker_commits_where_partitions_begin_with_the_turn_in_which_they_come() -> None:
    def come() -> RawBatch | None:
        rig.worker.begin({0: 90, 1: 0})
        return None

    rig = Rig(None, come, None)
    rig.run()
    assert [dict(proposal.positions) for proposal in rig.committer.proposals] == [{0: 90, 1: 0}]
    assert rig.events[0] == "commit ok"


def test_worker_commits_and_ends_when_a_stop_cuts_a_wait_short() -> None:
    def interrupted() -> RawBatch | None:
        raise StopRequested("while it waits")

    rig = Rig(spans(3), interrupted).run()
    assert rig.events == ["commit ok", "source closed", "committer closed"]
    assert rig.counted == 3


def test_worker_ends_in_order_without_a_commit_that_a_stop_cuts_short(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(spans(3), outcomes=[StopRequested("Kafka does not finish commit_transaction.")]).run()
    assert rig.events == ["commit", "source closed", "committer closed"]
    assert rig.counted == 0
    assert not rig.harness.delta, "a last revoke commits nothing into a transaction whose outcome is not known"
    assert "The worker stops without its last commit" in caplog.text


def test_worker_shows_and_clears_only_what_is_committed() -> None:
    rig = Rig(spans(3), None, spans(2, offset=3), None).run()
    assert rig.proposed == [3, 5]
    assert rig.committer.shown == [0, 3], "a scrape during a commit sees the totals of the commit before"
    assert rig.committer.pending == [3, 2], "the delta is kept until its commit has ended"
    assert rig.counted == 5
    assert [proposal.positions for proposal in rig.committer.proposals] == [{0: 3}, {0: 5}]
    assert not rig.harness.delta


@pytest.mark.parametrize(("outcome", "noted"), [(RETRY, [{0: 5}]), (DROPPED, [{0: 5}]), (None, [{0: 3}, {0: 5}])])
def test_worker_notes_as_committed_what_is(outcome: Outcome | None, noted: list[dict[int, int]]) -> None:
    """The lag is measured from there."""
    again = None if outcome is DROPPED else spans(2, offset=3)
    rig = Rig(
        spans(3), None, again, spans(5) if outcome is DROPPED else None, None, outcomes=[outcome] if outcome else []
    )
    rig.run()
    assert rig.source.committed == noted


def test_worker_shows_what_waits_for_a_commit_while_it_lasts() -> None:
    rig = Rig(spans(3), None)
    shown: list[dict[int, Lag]] = []
    rig.source.lag = lambda: {0: Lag(len(rig.harness.delta.positions), 0.0, 1.0)}  # type: ignore[method-assign]
    commit = rig.committer.commit

    def during(proposal: Proposal) -> Outcome:
        shown.append(rig.worker.stats.lag)
        return commit(proposal)

    rig.committer.commit = during  # type: ignore[method-assign]
    rig.run()
    assert shown == [{0: Lag(1, 0.0, 1.0)}]


@pytest.mark.parametrize(("commit_s", "interval_s"), [(10.0, 1.0), (0.0, 0.01)])
def test_worker_looks_for_its_topics_however_long_and_frequent_commits_are(commit_s: float, interval_s: float) -> None:
    """A topic that was deleted makes commits last. Each commit shows the stats, too."""
    rig = Rig(spans(3), *[None] * 90, outcomes=[RETRY] * 90)
    rig.worker._settings = replace(rig.worker._settings, commit_interval_s=interval_s)
    looks: list[bool] = []
    rig.worker._own_topics = SimpleNamespace(  # type: ignore[assignment]
        problem="", check=lambda commits_fail: looks.append(commits_fail)
    )
    commit = rig.committer.commit

    def slowly(proposal: Proposal) -> Outcome:
        rig.clock.now_s += commit_s
        return commit(proposal)

    rig.committer.commit = slowly  # type: ignore[method-assign]
    rig.run()
    assert looks.count(True) >= 2


def test_worker_commits_nothing_without_spans_or_expiry() -> None:
    rig = Rig(None, None, None).run()
    assert rig.committer.proposals == []
    assert rig.worker.stats.commits == {"ok": 0, "dropped": 0, "failed": 0}


def test_worker_retry_keeps_the_delta_and_commits_it_with_what_follows() -> None:
    rig = Rig(spans(3), None, spans(2, offset=3), None, outcomes=[RETRY]).run()
    assert rig.proposed == [3, 5]
    assert rig.committer.shown == [0, 0]
    assert (rig.counted, rig.worker.stats.commits) == (5, {"ok": 1, "dropped": 0, "failed": 1})
    assert "rewind" not in rig.events


def test_worker_dropped_commit_discards_the_delta_and_rewinds() -> None:
    """The next poll's batch was fetched before the rewind, so it is not counted."""
    rig = Rig(spans(3), None, spans(2, offset=3), spans(4), None, outcomes=[DROPPED]).run()
    assert rig.events[:3] == ["commit dropped", "rewind", "commit ok"]
    assert (rig.proposed, rig.counted) == ([3, 4], 4)


def test_worker_commits_early_when_dead_letters_pile_up() -> None:
    junk = raw_batch([b"junk"] * MAX_DEAD_LETTERS)
    rig = Rig(junk).run()
    assert rig.clock.now_s == NOW_S, "before the commit interval has passed"
    assert [len(proposal.dead_letters) for proposal in rig.committer.proposals] == [MAX_DEAD_LETTERS]


def test_worker_commits_early_when_dead_letters_come_to_many_bytes() -> None:
    large = raw_batch([b"junk" * 5_000_000] * 4)
    rig = Rig(large).run()
    assert rig.clock.now_s == NOW_S, "before the commit interval has passed"
    assert [len(proposal.dead_letters) for proposal in rig.committer.proposals] == [4]
    assert rig.harness.delta.dead_letter_bytes == 0


def test_worker_asks_for_fewer_messages_when_they_are_large() -> None:
    rig = Rig(*[spans(50, offset=50 * turn) for turn in range(4)], raw_batch([b"junk" * 5_000_000] * 4), None)
    rig.run()
    assert rig.source.asked[:4] == [32, 100, 100, 100]
    assert rig.source.asked[5] == 3


@pytest.mark.parametrize("set_s", [-3600.0, 3600.0])
def test_worker_commits_on_while_the_clock_is_set(set_s: float) -> None:
    def turn_clock() -> None:
        rig.clock_set_s = set_s

    rig = Rig(spans(1), None, turn_clock, spans(2, offset=1), None, spans(3, offset=3), None)
    rig.run()
    assert rig.proposed == [1, 3, 6]
    assert rig.counted == 6
    stats = rig.worker.stats
    assert stats.last_commit_at_s == pytest.approx(NOW_S + set_s, abs=10.0)
    assert 0.0 <= rig.clock.now_s - stats.last_commit_s <= 10.0


def test_worker_stop_commits_then_leaves_the_group_and_closes() -> None:
    rig = Rig(spans(1)).run()
    assert rig.events == ["commit ok", "source closed", "committer closed"]
    assert rig.worker.stats.lag == {}


def test_worker_that_may_not_commit_any_more_ends_with_everything_closed() -> None:
    rig = Rig(spans(1), None, outcomes=[FatalError("fenced")])
    with pytest.raises(FatalError, match="fenced"):
        rig.run()
    assert rig.events == ["commit", "source closed", "committer closed"]
    assert rig.counted == 0


def test_worker_restores_before_it_joins_and_shows_it_when_told_to() -> None:
    seen: list[int] = []

    def restoring(publish: Callable[[], Snapshot]) -> None:
        seen.append(rig.counted)
        seen.append(counted(publish()))

    rig = Rig(spans(2, offset=1), None, restoring=restoring)
    rig.harness.count([message(span())])
    rig.committer.totals = rig.harness.state.prepare().totals
    rig.harness.state.discard()
    rig.run()
    assert seen == [0, 1]
    assert rig.counted == 3


# -- rebalances ------------------------------------------------------------------------------------------------------


def test_worker_revoke_commits_before_the_partitions_are_given_up() -> None:
    def revoke() -> None:
        rig.revoke()
        rig.events.append("revoked")

    rig = Rig(spans(3), revoke, None)
    rig.run()
    assert rig.events[:2] == ["commit ok", "revoked"]
    assert (rig.counted, rig.worker.stats.rebalances["revoke"]) == (3, 1)
    assert "rewind" not in rig.events


def test_worker_revoke_retries_its_commit() -> None:
    rig = Rig(spans(3), lambda: rig.revoke(), outcomes=[RETRY, RETRY])
    rig.run()
    assert rig.slept_s == [REVOKE_RETRY_S] * 2
    assert (rig.proposed, rig.counted) == ([3, 3, 3], 3)


def test_worker_revoke_leaves_the_delta_to_the_next_owner_after_a_time() -> None:
    rig = Rig(spans(3), lambda: rig.revoke(), None, outcomes=[RETRY] * 1000)
    rig.run()
    assert sum(rig.slept_s) == pytest.approx(REVOKE_TIMEOUT_S, abs=2 * REVOKE_RETRY_S)
    assert rig.counted == 0
    assert not rig.harness.delta
    assert "rewind" in rig.events


def test_worker_lost_partitions_drop_the_delta_without_a_commit() -> None:
    rig = Rig(spans(3), lambda: rig.lose(), None)
    rig.run()
    assert (rig.committer.proposals, rig.counted) == ([], 0)
    assert rig.events[:1] == ["rewind"]
    assert rig.worker.stats.rebalances["lost"] == 1


@pytest.mark.parametrize(
    ("offset", "known", "accepted"),
    [
        (5, {}, True),
        (None, {}, True),
        (5, {0: 5}, True),
        (6, {0: 5}, True),
        (4, {0: 5}, False),
        (None, {0: 5}, False),
        (4, {1: 5}, True),
    ],
)
def test_worker_accepts_no_offset_below_what_is_counted(
    offset: int | None, known: dict[int, int], accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    rig.committer.known = {partition: LogPosition(0, known_offset) for partition, known_offset in known.items()}
    rig.worker.load_counted()
    assert rig.accepts(offset) is accepted
    assert ("tokentrace state reset" in caplog.text) is not accepted


@pytest.mark.parametrize(
    ("end", "command", "other"),
    [(3, "--positions", "--offsets"), (5, "--offsets", "--positions"), (None, "--offsets", "--positions")],
)
def test_worker_advises_first_what_counts_all_that_is_new(
    end: int | None, command: str, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    rig.committer.known = {0: LogPosition(0, 5)}
    rig.source.ends = {} if end is None else {0: end}
    rig.worker.load_counted()
    assert not rig.accepts(None)
    first, second = re.findall(r"`tokentrace state reset (--\w+)`", caplog.text)
    assert (first, second) == (command, other)


def test_worker_accepts_no_offset_below_its_own_commits() -> None:
    rig = Rig(spans(3), None).run()
    assert [rig.accepts(offset) for offset in (2, 3)] == [False, True]


def test_worker_commits_what_it_has_read_and_the_end_of_a_log_that_lost_its_tail_in_one_commit() -> None:
    def truncated() -> RawBatch | None:
        rig.worker.on_truncated(0, 1, 2)
        return None

    rig = Rig(spans(3), truncated, spans(2, offset=1), None)
    rig.committer.known = {0: LogPosition(4, 0)}
    rig.worker.load_counted()
    assert rig.accepts(0)
    rig.run()
    first, second = rig.committer.proposals
    assert (dict(first.positions), rig.proposed) == ({0: 1}, [3, 5])
    assert first.totals.generations == second.totals.generations == {0: 5}
    assert dict(second.positions) == {0: 3}
    assert first.totals.gaps == second.totals.gaps == {("truncated", 0): Gap(2, first.totals.committed_at_s)}
    assert rig.worker.counted(0) == 3


def test_worker_begins_the_generation_of_a_log_again_where_its_commit_was_dropped() -> None:
    rig = Rig()
    rig.worker.on_truncated(0, 1, 2)
    rig.worker.on_removed(1, 9, 5)
    assert rig.harness.delta.gaps == {("truncated", 0): 2, ("lost", 1): 5}
    rig.worker.on_lost([0])
    assert rig.accepts(3)
    assert rig.harness.delta.generations == {0: 0}
    assert not rig.harness.delta.gaps, "the source finds them again"


# -- a schema that is unavailable ------------------------------------------------------------------------------------


def test_worker_pauses_for_an_unavailable_schema_and_resumes_with_the_same_batch() -> None:
    ready: list[str] = []

    def look() -> None:
        ready.append(rig.worker.stats.not_ready)

    rig = Rig(spans(3), look, look, look, look, unavailable=3)
    rig.run()
    assert rig.events == ["pause [0]", "resume [0]", "commit ok", "source closed", "committer closed"]
    assert rig.counted == 3
    assert ready[1] == "The registry does not answer."
    assert (rig.worker.stats.paused, rig.worker.stats.not_ready) == (False, "draining")


def test_worker_waits_longer_for_a_schema_each_time(caplog: pytest.LogCaptureFixture) -> None:
    Rig(spans(1), *[None] * 8, unavailable=4).run()
    delays = [record.args[2] for record in caplog.records if "Counting is paused" in record.msg]  # type: ignore[index]
    assert delays == [0.25, 0.5, 1.0, 2.0]


def test_worker_revoked_while_paused_leaves_the_batch_to_the_next_owner() -> None:
    rig = Rig(spans(3), lambda: rig.revoke(), None, unavailable=1)
    rig.run()
    assert rig.events[:3] == ["pause [0]", "resume [0]", "rewind"]
    assert (rig.committer.proposals, rig.counted) == ([], 0)


def test_worker_counts_other_partitions_while_one_waits_for_its_schema() -> None:
    seen: list[tuple[bool, int]] = []

    def look() -> None:
        seen.append((rig.worker.stats.paused, rig.counted))

    other = raw_batch([message(span())] * 4, partition=1)
    rig = Rig(spans(3), other, None, look, unavailable=1000)
    rig.run()
    assert seen == [(True, 4)]
    assert rig.events == ["pause [0]", "commit ok", "source closed", "committer closed"]
    assert [proposal.positions for proposal in rig.committer.proposals] == [{1: 4}]


def test_worker_heartbeat_goes_on_for_partitions_that_do_not_wait() -> None:
    rig = Rig(spans(3), *[None] * 30, heartbeat_s=5.0, unavailable=1000)
    rig.source.caught_up = {0, 1}
    rig.run()
    assert rig.committer.proposals
    for proposal in rig.committer.proposals:
        assert (proposal.positions, set(proposal.event_times_us)) == ({1: 0}, {1})


def test_worker_that_reads_on_behind_a_waiting_message_reads_again_from_what_is_committed() -> None:
    """A paused partition is not read on. Should it be, nothing behind the waiting message is counted before it."""
    rig = Rig(spans(3), spans(2, offset=3), None, spans(5), None, unavailable=1)
    rig.run()
    assert rig.events[:4] == ["pause [0]", "resume [0]", "rewind", "commit ok"]
    assert rig.counted == 5


# -- event time of idle partitions -------------------------------------------------------------------------------------


def test_worker_heartbeat_advances_the_event_time_of_idle_partitions() -> None:
    rig = Rig(*[None] * 20, heartbeat_s=5.0)
    rig.source.caught_up = {0}
    rig.run()
    times = [proposal.event_times_us for proposal in rig.committer.proposals]
    assert times, "without a span, a heartbeat commits"
    assert all(set(time_us) == {0} for time_us in times), "partition 1 may have spans that are not read yet"
    latest_s = [time_us[0] / 1e6 for time_us in times]
    assert latest_s == sorted(set(latest_s))
    assert latest_s[0] >= NOW_S
    assert latest_s[-1] <= rig.clock.now_s - IDLE_AFTER_S
    assert all(proposal.positions == {0: 0, 1: 0} for proposal in rig.committer.proposals)


def test_worker_without_alerts_needs_no_heartbeat() -> None:
    rig = Rig(*[None] * 20)
    rig.source.caught_up = {0, 1}
    assert rig.run().committer.proposals == []


def test_worker_event_time_waits_for_a_partition_that_had_a_span_lately() -> None:
    rig = Rig(spans(1), None, *[None] * 5, heartbeat_s=1.0)
    rig.source.caught_up = {0}
    rig.run()
    (proposal,) = rig.committer.proposals
    assert proposal.event_times_us[0] == span()["ended_at"], "the span's own time"


# -- recovery --------------------------------------------------------------------------------------------------------


def committed(*counts: int) -> Totals:
    """The totals that these batches of spans have committed."""
    harness = Harness()
    for count in counts:
        harness.count(spans(count).values)
        harness.commit()
    return harness.ledger.totals


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (
            ClientFailed("The producer failed."),
            ["committer closed", "recover", "committer closed", "recover", "rewind"],
        ),
        (
            MemberFailed("The member failed."),
            ["source abandoned", "committer closed", "recover", "committer closed", "recover", "source opened"],
        ),
    ],
    ids=["producer", "member"],
)
def test_worker_whose_clients_fail_continues_from_what_is_committed(
    monkeypatch: pytest.MonkeyPatch, lost: ClientFailed, expected: list[str]
) -> None:
    """The commit that failed is part of it, though its answer was lost: nothing is counted twice."""
    monkeypatch.setattr(recovery, "FIRST_S", 0.0)
    rig = Rig(spans(3), None, spans(2, offset=3), None, None, spans(4, offset=5), None)
    rig.committer.outcomes = [COMMITTED, lost]
    rig.committer.recoveries = [Unreachable("No broker answers."), committed(3, 2)]
    rig.run()
    assert rig.proposed == [3, 5, 9]
    assert rig.counted == 9
    assert rig.worker.stats.recoveries == 1
    begun = rig.events.index(expected[0])
    assert rig.events[begun : begun + len(expected)] == expected


#: Errors that no outage explains.
REFUSALS: Sequence[TokentraceError] = (
    ReplicaIdTaken("Another process works with it."),
    FatalError("Kafka does not let this worker commit."),
    UsageError("kafka.properties: no such property."),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_worker_ends_when_its_recovery_is_refused(monkeypatch: pytest.MonkeyPatch, refusal: TokentraceError) -> None:
    monkeypatch.setattr(recovery, "FIRST_S", 0.0)
    rig = Rig(spans(3), None, None)
    rig.committer.outcomes = [ClientFailed("Fenced.")]
    rig.committer.recoveries = [refusal, committed(3)]
    with pytest.raises(type(refusal), match=re.escape(str(refusal))):
        rig.run()
    assert rig.counted == 0


def test_worker_that_recovers_looks_for_its_topics_before_it_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "FIRST_S", 0.0)
    rig = Rig(spans(3), None, None)
    rig.committer.outcomes = [ClientFailed("Fenced.")]

    def check_surely() -> None:
        raise FatalError("Topic 'g.state' was deleted.")

    rig.worker._own_topics = SimpleNamespace(  # type: ignore[assignment]
        problem="", check=lambda commits_fail: None, check_surely=check_surely
    )
    with pytest.raises(FatalError, match="was deleted"):
        rig.run()
    assert "recover" not in rig.events


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_worker_ends_when_its_start_is_refused(refusal: TokentraceError) -> None:
    rig = Rig(spans(3), None)
    rig.committer.starts = [refusal]
    with pytest.raises(type(refusal), match=re.escape(str(refusal))):
        rig.run()


def test_worker_that_meets_an_outage_while_it_starts_starts_again_with_new_clients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovery, "FIRST_S", 0.0)
    seen: list[str] = []
    rig = Rig(spans(3), None, None, lambda: seen.append(rig.worker.stats.not_ready))
    rig.committer.totals = committed(2)
    rig.committer.starts = [ClientFailed("The topic cannot be read."), Unreachable("No broker answers.")]
    rig.source.refusals = [MemberFailed("The member failed.")]
    rig.committer.recoveries = [committed(2)]
    rig.run()
    assert rig.events[:5] == ["committer closed", "committer closed", "source abandoned", "committer closed", "recover"]
    assert rig.counted == 5
    assert seen == [""], "ready once it has joined"
    said = [message for message in caplog.messages if "are replaced in" in message]
    assert [line.split(". ")[0] for line in said] == [
        "The topic cannot be read", "No broker answers", "The member failed",
    ]  # fmt: skip


def test_worker_that_is_stopped_while_it_waits_to_start_ends_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(spans(3), None)
    rig.committer.starts = [Unreachable("No broker answers.")]
    monkeypatch.setattr(rig.worker._stop, "wait", lambda _: rig.worker.stop() or True)  # type: ignore[func-returns-value]
    rig.run()
    assert rig.events == ["committer closed", "source closed", "committer closed"]


def test_worker_whose_totals_are_in_memory_alone_keeps_them_and_drops_what_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "FIRST_S", 0.0)
    rig = Rig(spans(3), None, spans(2, offset=3), None, spans(2, offset=3), None)
    rig.committer.outcomes = [COMMITTED, MemberFailed("Fenced.")]
    rig.committer.recoveries = [None]
    rig.run()
    assert rig.proposed == [3, 5, 5]
    assert rig.counted == 5


@pytest.mark.parametrize("lost", [DROPPED, MemberFailed("Fenced.")], ids=["dropped", "fenced"])
def test_worker_loses_no_counts_whose_offsets_may_be_committed(
    monkeypatch: pytest.MonkeyPatch, lost: Outcome | Exception
) -> None:
    """The answer to a commit was lost. Whether the group is at 3 or at 5, its offset is accepted."""
    monkeypatch.setattr(recovery, "FIRST_S", 0.0)

    def commit_in_doubt() -> None:
        rig.committer.in_doubt = True
        rig.committer.outcomes = [lost]

    rig = Rig(spans(3), None, spans(2, offset=3), commit_in_doubt, None, spans(4, offset=5), None)
    rig.committer.recoveries = [None]
    rig.run()
    assert rig.counted == 9
    assert not rig.committer.in_doubt
    assert rig.harness.state.position(0) == 9


def test_state_keeps_counts_in_doubt_at_the_position_that_is_known() -> None:
    harness = Harness()
    harness.count([message(span())] * 3)
    harness.commit()
    harness.count([message(span())] * 2, offset=3)
    harness.state.keep()
    assert (counted(harness.state.snapshot), harness.state.position(0)) == (5, 3)


def test_worker_heartbeat_commits_no_offset_of_records_that_were_dropped() -> None:
    """Between the drop and the rewind, the source's positions lie beyond what is counted."""

    def read() -> RawBatch:
        rig.committer.outcomes = [DROPPED]
        return spans(3)

    rig = Rig(*[None] * 12, read, None, lambda: rig.revoke(), heartbeat_s=0.0)
    rig.source.caught_up = {1}
    rig.run()
    dropped = rig.proposed.index(3)
    assert rig.committer.proposals[dropped].positions == {0: 3}
    assert all(proposal.positions.get(0, 0) == 0 for proposal in rig.committer.proposals[dropped + 1 :])

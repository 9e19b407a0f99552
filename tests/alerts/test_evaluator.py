"""The evaluator's session with clients that follow a script: what is done in which order.

That the real ones work is proven on a real Kafka: tests/integration/test_alerts.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from tests.alerts.helpers import rule
from tests.alerts.rollups import GROUP_ID, Topics, at_s
from tests.alerts.test_ownership import BUSY, busy_minutes, ended_in, owner_of, silence
from tests.harness import LAYOUT
from tests.kafka.fakes import Scripted, ScriptedClients, ScriptedProducer, failure
from tests.services.workers import wait_for
from tokentrace.alerts import delivery
from tokentrace.alerts.evaluator import Evaluator, EvaluatorSession, EvaluatorSettings
from tokentrace.alerts.ownership import Ownership
from tokentrace.alerts.payload import moment
from tokentrace.alerts.rules import Rule
from tokentrace.alerts.snapshot import EvaluatorSnapshot
from tokentrace.alerts.store import AlertStore, parse_key
from tokentrace.errors import FatalError
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.single_partition import PartitionRecord
from tokentrace.state.checksums import checksum_header
from tokentrace.state.headers import Header

SETTINGS = EvaluatorSettings(group_id=GROUP_ID, replica="r", rollups_topic="rollups", alerts_topic="alerts")


class Stage:
    """A session on topics in memory. `steps` are the calls that it makes, in their order."""

    def __init__(self, topics: Topics, *rules: Rule) -> None:
        self.topics = topics
        self.steps: list[str] = []
        self.shown: list[EvaluatorSnapshot | None] = []
        self.submitted: list[str] = []
        self.outcomes: SimpleQueue[delivery.Outcome] = SimpleQueue()
        #: Outcomes of the next commits, and a hook that runs while deliveries are awaited.
        self.results: list[Outcome] = []
        self.while_draining: Callable[[], None] = lambda: None
        self.silences: list[PartitionRecord] = []
        #: Offset of a rollup -> its headers.
        self.headers: dict[int, list[Header]] = {}
        self.position = 0
        self._rules = rules
        stage: Any = self  # It plays the consumer, the transactions and the deliverer.
        self.session = EvaluatorSession(
            settings=SETTINGS, consumer=stage, transactions=stage, deliverer=stage, read_store=self.read_store,
            read_tail=self.read_tail, take_over=self.take_over, show=self.show, clock=lambda: topics.now_s,
        )  # fmt: skip

    def acquire(self) -> None:
        """The group gives the partition to this member."""
        self.position = self.session.acquire()

    # The consumer.
    def poll(self, *_: Any) -> Any:
        if not _:
            silences, self.silences = self.silences, []
            return silences
        if self.session._owned is None:
            return []
        first, self.position = self.position, self.topics.end
        values = self.topics.rollups[first - self.topics.first :]
        records = [
            PartitionRecord(offset, value, self.headers.get(offset), b"k", written_s)
            for offset, (written_s, value) in enumerate(values, first)
        ]
        return [*records, PartitionRecord(self.topics.end, None)]

    def await_stable_offset(self) -> None:
        self.steps.append("await stable offset")

    def offsets(self) -> tuple[int, int]:
        return self.topics.first, self.topics.end

    def offset_at(self, time_s: float) -> int | None:
        return self.topics._offset_at(time_s)

    def group_metadata(self) -> str:
        return "member"

    # The transactions.
    def commit(self, records: list[Any], offsets: Any) -> Outcome:
        self.steps.append("commit")
        assert {(record.topic, record.partition) for record in records} == {("alerts", 0)}
        assert (offsets.topic, offsets.positions, offsets.member()) == ("rollups", {0: self.topics.end}, "member")
        result = self.results.pop(0) if self.results else Outcome.COMMITTED
        if result is Outcome.COMMITTED:
            self.topics.alerts += [(record.key, record.value) for record in records]
        return result

    # The deliverer.
    def submit(self, alert: Any, _: Any) -> None:
        self.steps.append("deliver")
        self.submitted.append(alert["id"])

    def drain(self, _: float) -> bool:
        self.steps.append("drain")
        self.while_draining()
        return True

    def forget(self) -> None:
        self.steps.append("forget")

    # What else it is given.
    def read_store(self) -> AlertStore:
        self.steps.append("read store")
        store = AlertStore()
        for key, value in self.topics.alerts:
            store.apply(key, value)
        return store

    def read_tail(self, _: int) -> Any:
        return self

    def close(self) -> None:
        self.steps.append("close silences")

    def take_over(self, *_: Any) -> Ownership:
        return self.topics.acquire(*self._rules)

    def show(self, snapshot: EvaluatorSnapshot | None) -> None:
        self.steps.append("show" if snapshot is not None else "hide")
        self.shown.append(snapshot)


def test_session_shows_and_delivers_what_is_committed_and_only_then() -> None:
    stage = Stage(busy_minutes(0, until=0), rule(**BUSY))
    stage.acquire()
    assert stage.steps == ["await stable offset", "read store"]
    stage.steps.clear()
    stage.session.turn()
    assert stage.steps == ["show", "commit", "show", "deliver"]
    before, after = stage.shown
    assert before is not None
    assert after is not None
    assert (before.states["r"].firings, after.states["r"].firings) == (0, 1)


def test_session_without_the_partition_does_nothing() -> None:
    stage = Stage(busy_minutes(0, until=0), rule(**BUSY))
    stage.session.turn()
    stage.session.hand_over()
    assert (stage.steps, stage.shown) == ([], [])


def test_session_continues_the_deliveries_of_the_owner_before_ahead_of_its_own() -> None:
    topics = busy_minutes(0, until=0)
    ((earlier, _),) = topics.drain(owner_of(topics, rule(**BUSY))).deliveries
    topics.commit(1)
    topics.commit(2)
    stage = Stage(topics, rule(**BUSY))
    stage.acquire()
    stage.session.turn()
    assert stage.steps[2:] == ["show", "deliver", "commit", "show", "deliver"]
    assert stage.submitted[0] == earlier["id"]
    assert stage.shown[0] is not None
    assert (stage.shown[0].pending, stage.shown[0].time_s) == (1, at_s(1))


@pytest.mark.parametrize(
    ("result", "said"), [(Outcome.DROPPED, "another replica"), (Outcome.RETRY, "a transaction was aborted")]
)
def test_session_whose_commit_fails_gives_up_and_the_next_finds_the_same(result: Outcome, said: str) -> None:
    topics = busy_minutes(0, until=0)
    stage = Stage(topics, rule(**BUSY))
    stage.results = [result]
    stage.acquire()
    with pytest.raises(FatalError, match=said):
        stage.session.turn()
    assert stage.steps[2:] == ["show", "commit", "hide", "forget", "close silences"]
    assert (stage.shown[-1], stage.submitted, topics.alerts) == (None, [], [])
    again = Stage(topics, rule(**BUSY))
    again.acquire()
    again.session.turn()
    assert next(parse_key(key) for key, _ in topics.alerts) == ("alert", again.submitted[0])


def test_session_waits_for_deliveries_and_commits_their_outcomes_before_it_hands_over() -> None:
    topics = busy_minutes(0, until=0)
    stage = Stage(topics, rule(**BUSY))
    stage.acquire()
    stage.session.turn()
    stage.steps.clear()
    (id_,) = stage.submitted
    stage.while_draining = lambda: stage.outcomes.put(delivery.Outcome(id_, "r", "delivered", 1))
    stage.session.hand_over()
    stage.session.release()
    assert stage.steps == ["drain", "commit", "show", "hide", "forget", "close silences"]
    assert ("delivery", id_) in [parse_key(key) for key, _ in topics.alerts]
    assert owner_of(topics, rule(**BUSY)).undelivered() == []


def test_session_that_lost_the_partition_forgets_what_its_deliveries_came_to() -> None:
    stage = Stage(busy_minutes(0, until=0), rule(**BUSY))
    stage.acquire()
    stage.session.turn()
    stage.outcomes.put(delivery.Outcome(stage.submitted[0], "r", "delivered", 1))
    stage.session.release()
    assert (stage.outcomes.empty(), stage.shown[-1]) == (True, None)


def test_session_shows_a_silence_as_soon_as_it_is_there() -> None:
    topics = busy_minutes(until=0)
    stage = Stage(topics, rule(**BUSY))
    stage.acquire()
    stage.session.turn()
    stage.steps.clear()
    key, value = silence(topics, "r", at_s(9))
    stage.silences = [PartitionRecord(0, value, key=key)]
    stage.session.turn()
    assert stage.steps == ["show"]
    assert stage.shown[-1] is not None
    assert stage.shown[-1].silenced == {"r": at_s(9)}
    topics.commit(1, ended_in(1, 10))
    stage.session.turn()
    assert stage.submitted == []


@pytest.mark.parametrize("value", [b"", b"\xde\xad\xbe\xef garbage", "cut"], ids=["tombstone", "garbage", "cut"])
def test_session_leaves_out_a_rollup_that_cannot_be_read_and_goes_on(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topics = busy_minutes(0, until=0)
    written_s, rollup = topics.rollups[-1]
    topics.rollups.insert(1, (written_s, rollup[:-9] if value == "cut" else value))
    stage = Stage(topics, rule(**BUSY))
    stage.acquire()
    stage.session.turn()
    assert stage.shown[-1] is not None
    assert (stage.shown[-1].states["r"].firings, stage.shown[-1].unreadable) == (1, 1)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("The record at offset 1 of topic 'rollups', partition 0, key 'k' cannot be read: ")
    assert f"at {moment(written_s)}, " in line
    topics.commit(1)
    stage.session.turn()
    assert stage.shown[-1].unreadable == 1, "its position is behind the record"
    assert caplog.text.count("cannot be read") == 1


def test_session_leaves_out_a_rollup_whose_checksum_is_another(caplog: pytest.LogCaptureFixture) -> None:
    """Its bytes are a rollup: without the sum, its spans would be counted in other minutes."""
    topics = busy_minutes(0, until=0)
    stage = Stage(topics, rule(**BUSY))
    written = [value for _, value in topics.rollups]
    stage.headers = {offset: [checksum_header(b"k", value)] for offset, value in enumerate(written)}
    stage.headers[0] = [checksum_header(b"another key", written[0])]
    stage.acquire()
    stage.session.turn()
    assert stage.shown[-1] is not None
    assert (stage.shown[-1].states["r"].firings, stage.shown[-1].unreadable) == (0, 1)
    assert "The record at offset 0 of topic 'rollups', partition 0, key 'k' cannot be read: " in caplog.text


def test_session_leaves_out_a_silence_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    topics = busy_minutes(until=0)
    stage = Stage(topics, rule(**BUSY))
    stage.acquire()
    stage.session.turn()
    key, value = silence(topics, "r", at_s(9))
    stage.silences = [PartitionRecord(17, b"junk", key=key), PartitionRecord(18, value, key=key)]
    stage.session.turn()
    assert stage.shown[-1] is not None
    assert stage.shown[-1].silenced == {"r": at_s(9)}
    assert "The record at offset 17 of topic 'alerts', partition 0, key '[\"silence\",\"r\"]' cannot" in caplog.text
    topics.commit(1, ended_in(1, 10))
    stage.session.turn()
    assert stage.shown[-1].unreadable == 1


class RefusedProducer(ScriptedProducer):
    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        super().__init__(config, logger)
        self.errors["init_transactions"] = [failure(29)]  # TOPIC_AUTHORIZATION_FAILED


def test_evaluator_that_cannot_start_closes_its_clients_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clients = ScriptedClients(producer=RefusedProducer, consumer=Scripted)
    evaluator = Evaluator(settings=SETTINGS, clients=clients, rules=[rule(**BUSY)], layout=LAYOUT)
    with caplog.at_level(logging.ERROR):
        evaluator.start()
        assert wait_for(lambda: bool(caplog.records), 10.0)
        evaluator.stop()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Alert evaluation stopped on this replica; retrying in 2 s: Kafka does not let this worker")
    assert f"write to the topic alerts with the transactional id {GROUP_ID}.r.alerts" in line
    producer, consumer = clients.made
    assert (producer.config["transactional.id"], consumer.config["group.id"]) == (
        f"{GROUP_ID}.r.alerts",
        f"{GROUP_ID}.alerts",
    )
    assert (consumer.calls, evaluator.snapshot) == (["unsubscribe", "consume", "close"], None)

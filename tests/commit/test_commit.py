"""Commits of which the broker refuses a part: errors that a healthy broker does not give on demand.

The producer here is a script of errors. That commits work is proven on a real Kafka: tests/integration, tests/chaos.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.harness import Harness
from tests.spanfactory import message, span
from tokentrace.commit import Outcome
from tokentrace.commit import at_least_once as plain
from tokentrace.commit import exactly_once as transactional
from tokentrace.commit.at_least_once import AtLeastOnce
from tokentrace.commit.exactly_once import ExactlyOnce, ExactlyOnceSettings
from tokentrace.errors import FatalError


def failure(code: int, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    return KafkaException(KafkaError(code, "scripted", fatal, retriable, abort))


class Scripted:
    """A producer that notes its calls and raises what was scripted for them, once each."""

    def __init__(self, config: dict[str, Any], logger: Any = None) -> None:
        self.config = config
        self.calls: list[str] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.produced: list[tuple[str, bytes | None]] = []
        self.deliver: Callable[[Any], Any] = lambda _: None
        self._callbacks: list[Any] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.errors.get(name):
            raise self.errors[name].pop(0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: self._call(name)

    def produce(self, topic: str, **record: Any) -> None:
        self._call("produce")
        self.produced.append((topic, record["key"]))
        if "on_delivery" in record:
            self._callbacks.append(record["on_delivery"])

    def flush(self, *_: Any) -> int:
        callbacks, self._callbacks = self._callbacks, []
        for index, callback in enumerate(callbacks):
            callback(self.deliver(index), None)
        return 0


class Source:
    """A group member whose offset commits are scripted."""

    topic_partitions = 12

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.committed: dict[int, int] = {}

    def commit(self, positions: dict[int, int]) -> None:
        if self.error is not None:
            raise self.error
        self.committed.update(positions)

    def group_metadata(self) -> None:
        return None


@pytest.fixture
def rig() -> Harness:
    rig = Harness()
    rig.count([message(span()), b"junk", b"rubbish"])
    return rig


@pytest.fixture
def exactly(rig: Harness, monkeypatch: pytest.MonkeyPatch) -> tuple[ExactlyOnce, Scripted]:
    monkeypatch.setattr(transactional, "Producer", Scripted)
    settings = ExactlyOnceSettings({"bootstrap.servers": "x"}, "workers", "r0", "spans", "dead", "state", "rollups")
    committer = ExactlyOnce(settings, Source(), rig.groups, rig.ledger._layout)  # type: ignore[arg-type]
    return committer, committer._producer  # type: ignore[return-value]


def commit(committer: Any, rig: Harness) -> Outcome:
    outcome = committer.commit(rig.state.prepare())
    assert isinstance(outcome, Outcome)
    return outcome


STEPS = ["begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction"]


def test_the_steps_come_in_their_order(exactly: tuple[ExactlyOnce, Scripted], rig: Harness) -> None:
    committer, producer = exactly
    assert commit(committer, rig) is Outcome.COMMITTED
    assert list(dict.fromkeys(producer.calls)) == STEPS
    assert [topic for topic, _ in producer.produced] == ["state", "state", "rollups", "dead", "dead"]
    assert producer.config["transactional.id"] == "r0"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_aborts_and_keeps_the_delta(
    exactly: tuple[ExactlyOnce, Scripted], rig: Harness, step: str
) -> None:
    committer, producer = exactly
    producer.errors[step] = [failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)]
    assert commit(committer, rig) is Outcome.RETRY
    assert producer.calls[-1] == "abort_transaction"
    assert commit(committer, rig) is Outcome.COMMITTED


@pytest.mark.parametrize(
    "code", [KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.STALE_MEMBER_EPOCH]
)
def test_a_member_that_the_group_has_left_behind_drops_the_delta(
    exactly: tuple[ExactlyOnce, Scripted], rig: Harness, code: int
) -> None:
    committer, producer = exactly
    producer.errors["send_offsets_to_transaction"] = [failure(code, abort=True)]
    assert commit(committer, rig) is Outcome.DROPPED


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error",
    [
        failure(KafkaError._FENCED, abort=True),
        failure(KafkaError.FENCED_INSTANCE_ID),
        failure(KafkaError.INVALID_PRODUCER_EPOCH),
        failure(KafkaError._STATE, fatal=True),
    ],
    ids=["fenced", "instance", "epoch", "fatal"],
)
def test_a_fenced_worker_ends_whatever_the_flags_say(
    exactly: tuple[ExactlyOnce, Scripted], rig: Harness, step: str, error: KafkaException
) -> None:
    committer, producer = exactly
    producer.errors[step] = [error]
    with pytest.raises(FatalError, match=r"give every worker its own worker\.replica_id"):
        commit(committer, rig)


def test_a_commit_of_which_nothing_is_known_is_asked_for_until_it_is(
    exactly: tuple[ExactlyOnce, Scripted], rig: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer, producer = exactly
    producer.errors["commit_transaction"] = [failure(KafkaError._TIMED_OUT, retriable=True) for _ in range(3)]
    assert commit(committer, rig) is Outcome.COMMITTED
    assert producer.calls.count("commit_transaction") == 4
    assert "abort_transaction" not in producer.calls


def test_a_transaction_that_cannot_even_be_aborted_ends_the_worker(
    exactly: tuple[ExactlyOnce, Scripted], rig: Harness
) -> None:
    committer, producer = exactly
    producer.errors["begin_transaction"] = [failure(KafkaError._STATE)]
    producer.errors["abort_transaction"] = [failure(KafkaError._STATE)]
    with pytest.raises(FatalError, match=r"neither committed .* nor aborted"):
        commit(committer, rig)


def test_a_full_queue_is_waited_for(exactly: tuple[ExactlyOnce, Scripted], rig: Harness) -> None:
    committer, producer = exactly
    producer.errors["produce"] = [BufferError(), BufferError()]
    assert commit(committer, rig) is Outcome.COMMITTED
    assert producer.calls.count("poll") == 2
    committer.close()


def test_a_call_that_never_returns_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(transactional.os, "_exit", ended.append)
    monkeypatch.setattr(transactional.logging, "shutdown", lambda: None)
    with transactional.Watchdog("a call", patience_s=0.01) as _:
        for _ in range(200):
            if ended:
                break
            transactional.time.sleep(0.01)
    assert ended == [1]


# At least once.


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> tuple[AtLeastOnce, Scripted, Source]:
    monkeypatch.setattr(plain, "Producer", Scripted)
    source = Source()
    committer = AtLeastOnce(source, {"bootstrap.servers": "x"}, "dead")  # type: ignore[arg-type]
    assert committer.start() is None
    return committer, committer._producer, source  # type: ignore[return-value]


def test_dead_letters_come_before_the_offsets(plainly: tuple[AtLeastOnce, Scripted, Source], rig: Harness) -> None:
    committer, producer, source = plainly
    assert commit(committer, rig) is Outcome.COMMITTED
    assert [key for _, key in producer.produced] == [b"key-1", b"key-2"]
    assert source.committed == {0: 3}
    committer.close()


def test_only_dead_letters_that_were_not_delivered_are_tried_again(
    plainly: tuple[AtLeastOnce, Scripted, Source], rig: Harness
) -> None:
    committer, producer, source = plainly
    producer.deliver = lambda index: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large") if index == 0 else None
    assert commit(committer, rig) is Outcome.RETRY
    assert source.committed == {}
    producer.deliver = lambda _: None
    assert commit(committer, rig) is Outcome.COMMITTED
    assert [key for _, key in producer.produced] == [b"key-1", b"key-2", b"key-1"]


def test_dead_letters_that_were_delivered_are_not_repeated_when_the_offsets_fail(
    plainly: tuple[AtLeastOnce, Scripted, Source], rig: Harness
) -> None:
    committer, producer, source = plainly
    source.error = failure(KafkaError.REQUEST_TIMED_OUT)
    assert commit(committer, rig) is Outcome.RETRY
    rig.count([b"more"], offset=3)
    source.error = None
    assert commit(committer, rig) is Outcome.COMMITTED
    assert len(producer.produced) == 3


def test_a_dead_letter_that_cannot_be_queued_holds_the_commit_back(
    plainly: tuple[AtLeastOnce, Scripted, Source], rig: Harness
) -> None:
    committer, producer, _ = plainly
    producer.errors["produce"] = [BufferError(), failure(KafkaError.MSG_SIZE_TOO_LARGE)]
    assert commit(committer, rig) is Outcome.RETRY
    assert "poll" in producer.calls


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (failure(KafkaError.ILLEGAL_GENERATION), Outcome.DROPPED),
        (failure(KafkaError._NO_OFFSET), Outcome.DROPPED),
        (failure(KafkaError.REQUEST_TIMED_OUT), Outcome.RETRY),
    ],
)
def test_offsets_that_are_refused(
    plainly: tuple[AtLeastOnce, Scripted, Source], rig: Harness, error: KafkaException, outcome: Outcome
) -> None:
    committer, _, source = plainly
    source.error = error
    assert commit(committer, rig) is outcome


def test_a_fenced_member_ends(plainly: tuple[AtLeastOnce, Scripted, Source], rig: Harness) -> None:
    committer, _, source = plainly
    source.error = failure(KafkaError.FENCED_INSTANCE_ID)
    with pytest.raises(FatalError, match=r"is its worker\.replica_id unique"):
        commit(committer, rig)

"""The transactional producer: the order of a commit's steps, and what becomes of each error in each of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.kafka.fakes import ScriptedClients, ScriptedProducer, failure
from tokentrace.errors import ClientFailed, FatalError, StopRequested
from tokentrace.kafka import transaction as module
from tokentrace.kafka.errors import UNSUPPORTED
from tokentrace.kafka.outcome import Outcome
from tokentrace.kafka.producer import Record
from tokentrace.kafka.transaction import Identity, Offsets, TransactionalProducer, bounded
from tokentrace.model.stop import StopSignal

IDENTITY = Identity(transactional_id="r0.alerts", replica="r0", rights="to write to the topic state")
RECORDS = [Record("state", b"k", b"v", 3), Record("dead", None, None, headers=[("h", b"1")])]
STEPS = ["begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction"]

Parts = tuple[TransactionalProducer, ScriptedProducer]


@pytest.fixture
def parts() -> Parts:
    clients = ScriptedClients(producer=ScriptedProducer)
    transactions = TransactionalProducer(clients, IDENTITY)
    return transactions, clients.made[0]


def offsets(producer: ScriptedProducer) -> Offsets:
    """Offsets whose group metadata tells how many records were produced when it was asked for."""
    return Offsets("spans", {0: 7, 2: 9}, lambda: len(producer.produced))


def commit(parts: Parts) -> Outcome:
    transactions, producer = parts
    return transactions.commit(RECORDS, offsets(producer))


def test_a_transaction_has_its_steps_in_order(parts: Parts) -> None:
    _, producer = parts
    assert commit(parts) is Outcome.COMMITTED
    assert list(dict.fromkeys(producer.calls)) == STEPS
    assert [(r["topic"], r["key"], r["value"], r["partition"], r["headers"]) for r in producer.records] == [
        ("state", b"k", b"v", 3, []),
        ("dead", None, None, -1, [("h", b"1")]),
    ]
    # The group's metadata is that of the moment at which the offsets are sent.
    assert producer.offsets == [([("spans", 0, 7), ("spans", 2, 9)], 2)]


def test_offsets_are_sent_with_the_leader_epochs_that_are_known(parts: Parts) -> None:
    transactions, producer = parts
    sent: list[Any] = []
    producer.send_offsets_to_transaction = lambda offsets, *_: sent.extend(offsets)  # type: ignore[method-assign]
    assert transactions.commit([], Offsets("spans", {0: 7, 2: 9}, lambda: None, {2: 4})) is Outcome.COMMITTED
    assert [(offset.partition, offset.offset, offset.leader_epoch) for offset in sent] == [(0, 7, None), (2, 9, 4)]


def test_a_transaction_without_offsets_sends_none(parts: Parts) -> None:
    transactions, producer = parts
    assert transactions.commit(RECORDS) is Outcome.COMMITTED
    assert "send_offsets_to_transaction" not in producer.calls


def test_a_record_that_a_limited_topic_refuses_for_its_size_is_told_from_one_of_another_topic(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    transactions, producer = parts
    producer.deliver = lambda _: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    advice = "Raise max.message.bytes of the topic to 1,000,000 or more."
    for limits, too_large in (({"dead": 100}, True), ({}, False)):
        caplog.clear()
        producer.errors["commit_transaction"] = [failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)]
        assert transactions.commit(RECORDS, None, limits) is Outcome.RETRY
        assert transactions.too_large is too_large
        assert (advice in caplog.text) is not too_large
    producer.deliver = lambda _: None
    assert transactions.commit(RECORDS, None, {"dead": 100}) is Outcome.COMMITTED
    assert not transactions.too_large


@pytest.mark.parametrize("step", STEPS)
def test_an_error_that_the_library_raises_while_it_reports_deliveries_is_that_error(parts: Parts, step: str) -> None:
    _, producer = parts
    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = failure(KafkaError._FENCED, fatal=True)
    producer.errors[step] = [wrapped]
    with pytest.raises(FatalError, match="no longer accepts this worker's transactions"):
        commit(parts)


@pytest.mark.parametrize("step", STEPS)
def test_another_error_of_the_interpreter_is_raised_as_it_is(parts: Parts, step: str) -> None:
    parts[1].errors[step] = [SystemError("another")]
    with pytest.raises(SystemError, match="another"):
        commit(parts)


def test_a_producer_of_a_command_names_its_rival() -> None:
    identity = Identity(transactional_id="x", replica="x", rights="", rival="Another command has started.")
    clients = ScriptedClients(producer=ScriptedProducer)
    transactions = TransactionalProducer(clients, identity, settings={"compression.type": "zstd"})
    assert clients.made[0].config["compression.type"] == "zstd"
    clients.made[0].errors["produce"] = [failure(KafkaError._FENCED)]
    with pytest.raises(FatalError, match=r"this command's transactions \(scripted\)\. Another command has started\."):
        transactions.commit(RECORDS)


@pytest.mark.parametrize("lost", [False, True], ids=["unanswered", "lost"])
def test_a_command_whose_offsets_have_no_answer_names_its_rival_if_the_abort_finds_one(
    monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """A command does not start again, which would find it; its rival would pass for an outage of Kafka."""

    def unreturned(name: str, call: Any, timeout_s: float) -> None:
        raise ClientFailed(f"The Kafka library does not return from {name}.")

    if lost:
        monkeypatch.setattr(module, "bounded", unreturned)
    identity = Identity(transactional_id="x", replica="x", rights="", rival="Another command has started.")
    for fenced, message in ((True, "Another command has started."), (False, "send_offsets" if lost else "not answer")):
        clients = ScriptedClients(producer=ScriptedProducer)
        transactions = TransactionalProducer(clients, identity)
        producer = clients.made[0]
        producer.errors["send_offsets_to_transaction"] = [failure(KafkaError._TIMED_OUT, retriable=True)]
        code = KafkaError._FENCED if fenced else KafkaError._TIMED_OUT
        producer.errors["abort_transaction"] = [failure(code, retriable=not fenced)]
        with pytest.raises(FatalError, match=message):
            transactions.commit(RECORDS, offsets(producer))
        assert producer.calls.count("abort_transaction") == 1
        with pytest.raises(ClientFailed, match="no known outcome"):
            transactions.commit(RECORDS)


def test_transactions_are_short_and_keep_the_brokers_that_they_know(parts: Parts) -> None:
    _, producer = parts
    config = producer.config
    assert config["transactional.id"] == "r0.alerts"
    assert config["transaction.timeout.ms"] == 10_000
    assert config["metadata.recovery.strategy"] == "none"
    assert config["enable.idempotence"] is True


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_aborts_and_can_be_committed_again(parts: Parts, step: str) -> None:
    _, producer = parts
    producer.errors[step] = [failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)]
    assert commit(parts) is Outcome.RETRY
    assert producer.calls[-1] == "abort_transaction"
    assert commit(parts) is Outcome.COMMITTED


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "code",
    [
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,
    ],
)
def test_a_lost_membership_drops_the_commit_after_an_abort(parts: Parts, step: str, code: int) -> None:
    _, producer = parts
    producer.errors[step] = [failure(code, abort=True)]
    assert commit(parts) is Outcome.DROPPED
    assert producer.calls[-1] == "abort_transaction"


FENCED = {
    "fenced": failure(KafkaError._FENCED, abort=True),
    "fenced, said to be retriable": failure(KafkaError._FENCED, retriable=True),
    "instance": failure(KafkaError.FENCED_INSTANCE_ID),
    "epoch": failure(KafkaError.INVALID_PRODUCER_EPOCH),
    "fatal": failure(KafkaError._STATE, fatal=True),
}


@pytest.mark.parametrize("step", [*STEPS, "abort_transaction"])
@pytest.mark.parametrize("error", FENCED.values(), ids=FENCED.keys())
def test_a_fenced_producer_is_fatal_whatever_the_flags_say(parts: Parts, step: str, error: KafkaException) -> None:
    _, producer = parts
    if step == "abort_transaction":
        producer.errors["produce"] = [failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)]
    producer.errors[step] = [error]
    with pytest.raises(ClientFailed, match=r"is its worker\.replica_id 'r0' unique\?"):
        commit(parts)


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED]
)
def test_missing_rights_are_fatal_and_named(parts: Parts, code: int) -> None:
    _, producer = parts
    producer.errors["commit_transaction"] = [failure(code, abort=True)]
    with pytest.raises(FatalError, match=r"It has to be allowed to write to the topic state\."):
        commit(parts)


def test_a_commit_whose_outcome_is_unknown_is_retried_until_it_is_known(parts: Parts) -> None:
    _, producer = parts
    producer.errors["commit_transaction"] = [failure(KafkaError._TIMED_OUT, retriable=True) for _ in range(3)]
    assert commit(parts) is Outcome.COMMITTED
    assert producer.calls.count("commit_transaction") == 4
    assert "abort_transaction" not in producer.calls


def test_a_retriable_error_that_requires_an_abort_is_not_retried(parts: Parts) -> None:
    _, producer = parts
    producer.errors["commit_transaction"] = [failure(KafkaError._TIMED_OUT, retriable=True, abort=True)]
    assert commit(parts) is Outcome.RETRY
    assert producer.calls.count("commit_transaction") == 1


def test_a_retry_is_logged_now_and_then(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, producer = parts
    ticks = iter(range(0, 120, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))
    producer.errors["commit_transaction"] = [failure(KafkaError._TIMED_OUT, retriable=True) for _ in range(6)]
    assert commit(parts) is Outcome.COMMITTED
    assert [record.getMessage() for record in caplog.records] == [
        "Kafka does not finish commit_transaction (scripted); retrying."
    ] * 2


def stopping(grace_s: float) -> tuple[TransactionalProducer, ScriptedProducer]:
    """A producer of a worker that was asked to stop, and has so long for what is in flight."""
    stop = StopSignal(grace_s)
    clients = ScriptedClients(stop, producer=ScriptedProducer)
    transactions = TransactionalProducer(clients, IDENTITY)
    stop.set()
    return transactions, clients.made[0]


def unanswered() -> list[BaseException]:
    return [failure(KafkaError._TIMED_OUT, retriable=True) for _ in range(1000)]


def test_a_commit_whose_outcome_stays_unknown_is_given_up_when_the_grace_of_a_stop_ends() -> None:
    parts = stopping(grace_s=2.0)
    parts[1].errors["commit_transaction"] = unanswered()
    with pytest.raises(StopRequested, match="Kafka does not finish commit_transaction"):
        commit(parts)
    assert parts[1].calls.count("commit_transaction") > 1, "it is retried until then"


def test_an_abort_that_does_not_end_is_given_up_when_the_grace_of_a_stop_ends() -> None:
    parts = stopping(grace_s=0.0)
    parts[1].errors["produce"] = [failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)]
    parts[1].errors["abort_transaction"] = unanswered()
    with pytest.raises(StopRequested, match="Kafka does not finish abort_transaction"):
        commit(parts)


def test_starting_is_given_up_at_once_when_the_worker_stops() -> None:
    transactions, producer = stopping(grace_s=60.0)
    producer.errors["init_transactions"] = unanswered()
    with pytest.raises(StopRequested):
        transactions.start()
    assert producer.calls == ["init_transactions"]


def test_a_full_queue_is_not_waited_for_once_the_grace_of_a_stop_has_ended() -> None:
    parts = stopping(grace_s=0.0)
    parts[1].errors["produce"] = [BufferError() for _ in range(1000)]
    with pytest.raises(StopRequested, match="queue of records is full"):
        commit(parts)


def test_a_producer_with_a_limit_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = ScriptedClients(producer=ScriptedProducer)
    transactions = TransactionalProducer(clients, IDENTITY, retry_for_s=30.0)
    ticks = iter(range(0, 600, 20))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(ticks)))
    clients.made[0].errors["init_transactions"] = [failure(KafkaError._TIMED_OUT, retriable=True) for _ in range(9)]
    with pytest.raises(FatalError, match=r"cannot start transactions with the transactional id 'r0\.alerts'"):
        transactions.start()
    assert clients.made[0].calls == ["init_transactions"] * 2


def test_a_transaction_that_cannot_be_aborted_is_fatal(parts: Parts) -> None:
    _, producer = parts
    producer.errors["begin_transaction"] = [failure(KafkaError._STATE)]
    producer.errors["abort_transaction"] = [failure(KafkaError._STATE)]
    with pytest.raises(FatalError, match=r"neither committed .* nor aborted"):
        commit(parts)


def test_records_are_made_inside_the_transaction(parts: Parts) -> None:
    transactions, producer = parts

    def records() -> Iterator[Record]:
        assert producer.calls == ["begin_transaction"]
        yield RECORDS[0]

    assert transactions.commit(records()) is Outcome.COMMITTED


def test_starting_retries_while_the_brokers_are_away_and_ends_when_it_is_refused(parts: Parts) -> None:
    transactions, producer = parts
    producer.errors["init_transactions"] = [failure(KafkaError._TIMED_OUT, retriable=True)]
    transactions.start()
    assert producer.calls == ["init_transactions"] * 2
    producer.errors["init_transactions"] = [failure(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)]
    with pytest.raises(FatalError, match="It has to be allowed"):
        transactions.start()
    producer.errors["init_transactions"] = [failure(KafkaError._STATE)]
    with pytest.raises(ClientFailed, match="cannot start transactions"):
        transactions.start()


@pytest.mark.parametrize("code", sorted(UNSUPPORTED))
def test_brokers_and_settings_without_these_transactions_are_no_outage(parts: Parts, code: int) -> None:
    transactions, producer = parts
    producer.errors["init_transactions"] = [failure(code, fatal=True)]
    with pytest.raises(FatalError, match=r"cannot start transactions .* Check the version of the brokers") as raised:
        transactions.start()
    assert not isinstance(raised.value, ClientFailed)


def test_closing_drops_what_is_queued_and_never_raises(parts: Parts) -> None:
    transactions, producer = parts
    producer.errors["flush"] = [failure(KafkaError._FENCED, fatal=True)]
    transactions.close()
    assert producer.calls == ["purge", "flush"]


def test_a_call_that_does_not_return_is_left_behind() -> None:
    released = threading.Event()
    try:
        with pytest.raises(ClientFailed, match="does not return from a call"):
            bounded("a call", lambda: released.wait(60.0), timeout_s=0.01)
    finally:
        released.set()


def test_a_bounded_call_raises_what_the_call_raises() -> None:
    with pytest.raises(KafkaException):
        bounded("a call", lambda: (_ for _ in ()).throw(failure(KafkaError._STATE)), timeout_s=60.0)
    done: list[int] = []
    bounded("a call", lambda: done.append(1), timeout_s=60.0)
    assert done == [1]


def test_offsets_are_sent_by_a_bounded_call(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions, producer = parts

    def lost(name: str, call: Any, timeout_s: float) -> None:
        raise ClientFailed(f"The Kafka library does not return from {name}.")

    monkeypatch.setattr(module, "bounded", lost)
    with pytest.raises(ClientFailed, match="send_offsets_to_transaction"):
        transactions.commit([], offsets(producer))
    assert "send_offsets_to_transaction" not in producer.calls


@pytest.mark.parametrize(
    "code", [KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._CONFLICT, KafkaError._PREV_IN_PROGRESS]
)
def test_a_producer_that_may_still_send_its_offsets_is_not_used_again(code: int) -> None:
    """Its next transaction would contain them."""
    clients = ScriptedClients(producer=ScriptedProducer)
    transactions = TransactionalProducer(clients, IDENTITY)
    parts = transactions, clients.made[0]
    parts[1].errors["send_offsets_to_transaction"] = [failure(code, retriable=True)]
    with pytest.raises(ClientFailed, match="does not answer whether it takes the offsets"):
        commit(parts)
    with pytest.raises(ClientFailed, match="no known outcome"):
        commit(parts)
    assert parts[1].calls.count("begin_transaction") == 1
    assert "commit_transaction" not in parts[1].calls
    transactions.start()
    assert commit((transactions, clients.made[1])) is Outcome.COMMITTED


def test_offsets_of_a_transaction_that_has_failed_before_are_not_sent_and_it_is_committed_again(parts: Parts) -> None:
    """A record that was refused ends the transaction, wherever the next call is."""
    parts[1].errors["send_offsets_to_transaction"] = [failure(KafkaError._STATE, abort=True)]
    assert commit(parts) is Outcome.RETRY
    assert commit(parts) is Outcome.COMMITTED


def test_closing_aborts_what_a_failure_has_left_open_and_a_start_makes_a_new_producer() -> None:
    clients = ScriptedClients(producer=ScriptedProducer)
    transactions = TransactionalProducer(clients, IDENTITY)
    failed = clients.made[0]
    failed.errors["send_offsets_to_transaction"] = [failure(KafkaError.FENCED_INSTANCE_ID)]
    with pytest.raises(ClientFailed):
        transactions.commit([], offsets(failed))
    transactions.close()
    assert failed.calls[-3:] == ["abort_transaction", "purge", "flush"]
    transactions.start()
    assert clients.made[1].calls == ["init_transactions"]
    assert transactions.commit([]) is Outcome.COMMITTED
    transactions.close()
    assert "abort_transaction" not in clients.made[1].calls

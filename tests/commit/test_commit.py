"""Commits of both guarantees when the broker rejects a part: errors that a healthy broker does not give on demand.

The producer here follows a script; tests/kafka/test_transaction.py has every error of a transaction. That commits work
is proven on a real Kafka: tests/integration, tests/chaos.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.commit.test_dead_letters import topic_of
from tests.harness import LAYOUT, Harness
from tests.kafka.fakes import Scripted, ScriptedClients, ScriptedProducer, failure
from tests.spanfactory import message, span
from tests.state.test_wide_totals import wide_schema_travels
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.commit import Outcome
from tokentrace.commit.at_least_once import FENCES, FENCES_WITHIN_S, AtLeastOnce
from tokentrace.commit.exactly_once import ExactlyOnce, ExactlyOnceSettings
from tokentrace.errors import ClientFailed, FatalError, MemberFailed
from tokentrace.model.measures import Layout
from tokentrace.model.snapshot import Group
from tokentrace.state import StateCodec
from tokentrace.state.claim import Process, process_of
from tokentrace.state.schemas import decode_record
from tokentrace.state.totals import Totals

SETTINGS = ExactlyOnceSettings(
    group_id="workers", replica="r0", source_topic="spans", dead_letter_topic="dead", state_topic="state",
    rollups_topic="rollups",
)  # fmt: skip


class Source:
    """A group member whose offset commits are scripted."""

    topic_partitions = 12

    def __init__(self) -> None:
        self.outcome = Outcome.COMMITTED
        self.commit_in_doubt = False
        self.committed: dict[int, int] = {}

    def commit(self, positions: dict[int, int]) -> Outcome:
        if self.outcome is Outcome.COMMITTED:
            self.committed.update(positions)
        return self.outcome

    def group_metadata(self) -> None:
        return None

    def epochs(self, positions: Iterable[int]) -> dict[int, int]:
        return dict.fromkeys(positions, 3)


@pytest.fixture
def rig() -> Harness:
    rig = Harness()
    rig.count([message(span()), b"junk", b"rubbish"])
    return rig


@pytest.fixture
def exactly(rig: Harness) -> tuple[ExactlyOnce, ScriptedProducer]:
    return committer_of(rig, SETTINGS)


def committer_of(rig: Harness, settings: ExactlyOnceSettings) -> tuple[ExactlyOnce, ScriptedProducer]:
    """Return a committer of what the rig has counted, and its producer."""
    clients = ScriptedClients(producer=ScriptedProducer)
    source: Any = Source()
    committer = ExactlyOnce(
        settings,
        clients=clients,
        source=source,
        dead_letters=topic_of(None)[0],
        groups=rig.groups,
        layout=rig.ledger._layout,
    )
    return committer, clients.made[0]


def commit(committer: Any, rig: Harness) -> Outcome:
    outcome = committer.commit(rig.state.prepare())
    assert isinstance(outcome, Outcome)
    return outcome


class Reader:
    """The state topic of one replica, in the place of StateReader. written_by: who wrote what each restore finds."""

    def __init__(self, *written_by: Process | None, found: bool = True) -> None:
        self.restored_from: Process | None = None
        self._written_by = list(written_by)
        self._found = found
        self.restores = 0

    def partitions(self) -> int:
        return 12

    def topic_id(self) -> str:
        return "id"

    def restore(self, replica: str, layout: Layout, groups: GroupIndex, *_: str) -> Totals | None:
        assert len(groups.groups) == 1, "the groups of an earlier restore are gone"
        self.restores += 1
        self.restored_from = self._written_by.pop(0)
        if not self._found:
            return None
        groups.adopt([Group("m", "p", "c")], np.zeros(1, np.uint8))
        return replace(Totals.empty(layout), committed_at_s=1.0)


def started(reader: Reader, producer: type[ScriptedProducer] = ScriptedProducer) -> list[ScriptedProducer]:
    """Start a committer over this state; return its producers."""
    clients = ScriptedClients(producer=producer)
    source: Any = Source()
    committer: Any = ExactlyOnce(
        SETTINGS, clients=clients, source=source, dead_letters=topic_of(None)[0], groups=GroupIndex(9), layout=LAYOUT
    )
    committer._reader, committer._counted = reader, Scripted({})
    committer.start()
    return clients.made


def test_a_start_after_release_0_1_0_fences_its_id_and_then_reads_the_state_again() -> None:
    reader = Reader(None, None)
    new, old = started(reader)
    assert (new.config["transactional.id"], old.config["transactional.id"]) == ("workers.r0", "r0")
    assert (old.calls, old.records) == (["init_transactions", "purge", "flush"], [])
    assert reader.restores == 2
    [claim] = new.records
    assert process_of(claim["headers"]) is not None, "so that the next start does not touch the id"


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(Reader(Process("host", 1, 2)), id="a process of this release wrote it"),
        pytest.param(Reader(None, found=False), id="the state is empty: the id may be another installation's"),
    ],
)
def test_a_start_leaves_the_id_of_release_0_1_0_alone_where(reader: Reader) -> None:
    [new] = started(reader)
    assert new.config["transactional.id"] == "workers.r0"
    assert reader.restores == 1


def test_a_start_that_may_not_fence_release_0_1_0_says_which_right_it_needs() -> None:
    class Refused(ScriptedProducer):
        def init_transactions(self, *_: Any) -> None:
            if self.config["transactional.id"] == "r0":
                raise failure(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)

    with pytest.raises(FatalError, match="allowed to write with the transactional id 'r0' until the upgrade is done"):
        started(Reader(None), Refused)


STEPS = ["begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction"]


def test_the_steps_come_in_their_order(exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness) -> None:
    committer, producer = exactly
    assert commit(committer, rig) is Outcome.COMMITTED
    assert list(dict.fromkeys(producer.calls)) == STEPS
    assert [topic for topic, _ in producer.produced] == ["state", "state", "rollups", "dead", "dead"]
    assert producer.config["transactional.id"] == "workers.r0"


def test_wide_totals_are_committed_whole(exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness) -> None:
    """20,000 spans of 999,999 USD: a wide cell, the schema that it needs, and a rollup for each part of the delta."""
    committer, producer = exactly
    rig.count([message(span(model="dear", cost_usd=999_999.0))] * 20_000, offset=3)
    assert commit(committer, rig) is Outcome.COMMITTED
    state = {record["key"]: record for record in producer.records if record["topic"] == "state"}
    row, _ = StateCodec(LAYOUT).cell(state[b'["r0","dear","openai","","ok"]']["value"])
    assert row[LAYOUT.column("cost_nano_usd")] == 20_000 * 999_999 * 10**9
    assert wide_schema_travels(state[b'["r0"]'])
    rollups = [record["value"] for record in producer.records if record["topic"] == "rollups"]
    parts = [[row for row in decode_record(value, "rollup")["rows"] if row["model"] == "dear"] for value in rollups]
    assert [len(rows) for rows in parts] == [1] * 5
    assert sum(row["counts"]["cost_nano_usd"] for [row] in parts) == 20_000 * 999_999 * 10**9


def test_ordinary_totals_carry_no_schema_of_wide_cells(
    exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness
) -> None:
    committer, producer = exactly
    assert commit(committer, rig) is Outcome.COMMITTED
    [record] = [record for record in producer.records if record["key"] == b'["r0"]' and record["topic"] == "state"]
    assert not wide_schema_travels(record)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_aborts_and_keeps_the_delta(
    exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness, step: str
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
    exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness, code: int
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
def test_a_fenced_producer_fails_whatever_the_flags_say(
    exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness, step: str, error: KafkaException
) -> None:
    committer, producer = exactly
    producer.errors[step] = [error]
    with pytest.raises(ClientFailed, match=r"is its worker\.replica_id '[^']+' unique\?"):
        commit(committer, rig)


def test_a_commit_of_which_nothing_is_known_is_asked_for_until_it_is(
    exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer, producer = exactly
    producer.errors["commit_transaction"] = [failure(KafkaError._TIMED_OUT, retriable=True) for _ in range(3)]
    assert commit(committer, rig) is Outcome.COMMITTED
    assert producer.calls.count("commit_transaction") == 4
    assert "abort_transaction" not in producer.calls


def test_a_transaction_that_cannot_even_be_aborted_fails_the_producer(
    exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness
) -> None:
    committer, producer = exactly
    producer.errors["begin_transaction"] = [failure(KafkaError._STATE)]
    producer.errors["abort_transaction"] = [failure(KafkaError._STATE)]
    with pytest.raises(ClientFailed, match=r"neither committed .* nor aborted"):
        commit(committer, rig)


def test_a_full_queue_is_waited_for(exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness) -> None:
    committer, producer = exactly
    producer.errors["produce"] = [BufferError(), BufferError()]
    assert commit(committer, rig) is Outcome.COMMITTED
    assert producer.calls.count("poll") == 2
    committer.close()


def test_a_dead_letter_that_its_topic_refuses_becomes_a_reference_in_the_next_commit(
    exactly: tuple[ExactlyOnce, ScriptedProducer], rig: Harness
) -> None:
    committer, producer = exactly
    rig.count([b"junk" * 5000], offset=3)
    producer.deliver = lambda _: KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    while True:
        producer.records.clear()
        producer.errors["commit_transaction"] = [failure(KafkaError.MSG_SIZE_TOO_LARGE, abort=True)]
        assert commit(committer, rig) is Outcome.RETRY
        if len(producer.records[-1]["value"]) < 20_000:
            break
    producer.deliver = lambda _: None
    producer.records.clear()
    assert commit(committer, rig) is Outcome.COMMITTED
    values = [record["value"] for record in producer.records if record["topic"] == "dead"]
    assert values == [b"junk", b"rubbish", b"junk" * 256]
    assert committer._dead_letters.truncated == {"unknown_framing": 1}


# At least once.


@pytest.fixture
def plainly() -> tuple[AtLeastOnce, ScriptedProducer, Source]:
    source: Any = Source()
    clients = ScriptedClients(producer=ScriptedProducer)
    committer = AtLeastOnce(clients=clients, source=source, dead_letters=topic_of(None)[0], replica="r0")
    assert committer.start() is None
    return committer, clients.made[0], source


def test_dead_letters_come_before_the_offsets(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, producer, source = plainly
    assert commit(committer, rig) is Outcome.COMMITTED
    assert [key for _, key in producer.produced] == [b"key-1", b"key-2"]
    assert source.committed == {0: 3}
    committer.close()


def test_only_dead_letters_that_were_not_delivered_are_tried_again(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, producer, source = plainly
    producer.deliver = lambda index: KafkaError(KafkaError.NOT_ENOUGH_REPLICAS, "away") if index == 0 else None
    assert commit(committer, rig) is Outcome.RETRY
    assert source.committed == {}
    producer.deliver = lambda _: None
    assert commit(committer, rig) is Outcome.COMMITTED
    assert [key for _, key in producer.produced] == [b"key-1", b"key-2", b"key-1"]


def test_references_are_counted_when_they_are_delivered_whatever_becomes_of_their_commit(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, producer, _ = plainly
    rig.count([b"junk" * 500_000, b"junk" * 500_000], offset=3)
    producer.deliver = lambda index: KafkaError(KafkaError.NOT_ENOUGH_REPLICAS, "away") if index == 1 else None
    assert commit(committer, rig) is Outcome.RETRY
    producer.deliver = lambda _: None
    assert commit(committer, rig) is Outcome.COMMITTED
    assert committer._dead_letters.truncated == {"unknown_framing": 2}


def test_dead_letters_that_were_delivered_are_not_repeated_when_the_offsets_fail(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, producer, source = plainly
    source.outcome = Outcome.RETRY
    assert commit(committer, rig) is Outcome.RETRY
    rig.count([b"more"], offset=3)
    source.outcome = Outcome.COMMITTED
    assert commit(committer, rig) is Outcome.COMMITTED
    assert len(producer.produced) == 3


def test_a_dead_letter_that_cannot_be_queued_holds_the_commit_back(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, producer, _ = plainly
    producer.errors["produce"] = [BufferError(), failure(KafkaError.MSG_SIZE_TOO_LARGE)]
    assert commit(committer, rig) is Outcome.RETRY
    assert "poll" in producer.calls


@pytest.mark.parametrize("outcome", [Outcome.DROPPED, Outcome.RETRY])
def test_offsets_that_are_not_committed_decide_the_outcome(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness, outcome: Outcome
) -> None:
    committer, _, source = plainly
    source.outcome = outcome
    assert commit(committer, rig) is outcome
    assert not committer.in_doubt


def test_offsets_whose_answer_was_lost_are_in_doubt_until_a_commit_succeeds(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, _, source = plainly
    source.outcome, source.commit_in_doubt = Outcome.RETRY, True
    commit(committer, rig)
    source.outcome, source.commit_in_doubt = Outcome.DROPPED, False
    commit(committer, rig)
    assert committer.in_doubt
    source.outcome = Outcome.COMMITTED
    commit(committer, rig)
    assert not committer.in_doubt


def test_offsets_that_were_never_sent_are_not_in_doubt(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, producer, _ = plainly
    producer.errors["produce"] = [failure(KafkaError.MSG_SIZE_TOO_LARGE)]
    assert commit(committer, rig) is Outcome.RETRY
    assert not committer.in_doubt


@pytest.mark.parametrize(("pause_s", "fenced"), [(1.0, FENCES), (FENCES_WITHIN_S, 3 * FENCES)])
def test_a_member_without_state_recovers_unless_it_is_fenced_again_and_again(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], pause_s: float, fenced: int
) -> None:
    """A worker that is fenced now and then goes on for ever, and so does one whose producer fails."""
    committer, _, _ = plainly
    stop = committer._clients.stop
    for number in range(1, fenced + 1):
        failed = MemberFailed("Fenced.")
        if number == FENCES and pause_s == 1.0:
            with pytest.raises(FatalError, match=r"again and again, 5 times .* same worker\.replica_id 'r0' may run"):
                committer.recover(failed)
            return
        for _ in range(3):
            # The tries of one recovery are not fences.
            committer.close()
            assert committer.recover(failed) is None
        assert committer.recover(ClientFailed("The producer failed.")) is None
        stop.wait(pause_s)


def test_a_producer_that_failed_is_replaced(
    plainly: tuple[AtLeastOnce, ScriptedProducer, Source], rig: Harness
) -> None:
    committer, producer, source = plainly
    producer.errors["flush"] = [failure(KafkaError._FENCED, fatal=True)]
    with pytest.raises(ClientFailed, match="no longer accepts records of this producer") as raised:
        commit(committer, rig)
    assert source.committed == {}
    committer.close()
    committer.recover(raised.value)
    assert commit(committer, rig) is Outcome.COMMITTED

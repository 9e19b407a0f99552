"""A replay: what it sends, in which transactions, and what becomes of a letter that cannot be sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from tests.kafka.fakes import ScriptedClients, ScriptedProducer, failure
from tests.kafka.test_topics import Cluster
from tests.tools.test_dlq import letter, letters_of
from tokentrace.errors import FatalError
from tokentrace.tools import replay as module
from tokentrace.tools.dlq import DeadLetterRecord, DeadLetters
from tokentrace.tools.replay import Replay, ReplayReport

LETTERS = [letter(0, 0), letter(0, 1, reason=b"invalid"), letter(1, 4, partition=b"3", offset=b"77")]
TOO_LARGE = KafkaError.MSG_SIZE_TOO_LARGE


class Broker(ScriptedProducer):
    """Takes transactions whole or not at all, and refuses those with a value of `refused`."""

    def __init__(self) -> None:
        super().__init__({})
        self.refused: set[bytes] = set()
        self.sent: list[dict[str, Any]] = []
        self.transactions: list[int] = []
        self.progress: dict[int, int] = {}

    def begin_transaction(self) -> None:
        self._call("begin_transaction")
        self.records, self.offsets, self._callbacks = [], [], []

    def commit_transaction(self, *_: Any) -> None:
        self._call("commit_transaction")
        if refused := [record for record in self.records if record["value"] in self.refused]:
            for record in refused:
                record["on_delivery"](KafkaError(TOO_LARGE, "too large"), None)
            raise failure(TOO_LARGE, abort=True)
        self.sent += self.records
        self.transactions.append(len(self.records))
        for positions, _ in self.offsets:
            self.progress.update({partition: offset for _, partition, offset in positions})

    # As ProgressOffsets.

    def committed(self, partitions: Sequence[int]) -> dict[int, int]:
        assert self.calls[0] == "init_transactions", "an earlier replay is fenced before its progress is read"
        return dict(self.progress)

    def member(self) -> None: ...

    def close(self) -> None: ...


class Parts:
    """A dead-letter topic and a broker, over several replays."""

    def __init__(self, letters: DeadLetters, clients: ScriptedClients, broker: Broker) -> None:
        self.letters, self.clients, self.broker = letters, clients, broker

    def replay(
        self, wanted: Callable[[DeadLetterRecord], bool] = lambda _: True, *, again: bool = False, dry_run: bool = False
    ) -> ReplayReport:
        replay = Replay(self.clients, self.letters, source_topic="spans", group_id="workers")
        return replay.run(wanted, again=again, dry_run=dry_run)

    @property
    def values(self) -> list[bytes]:
        return [record["value"] for record in self.broker.sent]


def parts_of(monkeypatch: pytest.MonkeyPatch, *letters: Message) -> Parts:
    broker = Broker()
    cluster = Cluster({})
    cluster.topics["spans"] = {"max.message.bytes": "1000000"}
    monkeypatch.setattr(module, "ProgressOffsets", lambda *_: broker)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)

    def producer(config: dict[str, Any], **_: Any) -> Broker:
        broker.config = config
        return broker

    clients = ScriptedClients(producer=producer, admin=lambda *_, **__: cluster)
    return Parts(letters_of(monkeypatch, *letters)[0], clients, broker)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    return parts_of(monkeypatch, *LETTERS)


def test_a_replay_sends_the_original_messages_with_its_progress_in_one_transaction(parts: Parts) -> None:
    assert parts.replay() == ReplayReport(3, [])
    headers = [("own", b"1"), ("tokentrace.target_group", b"workers")]
    assert [(r["topic"], r["key"], r["value"], r["headers"]) for r in parts.broker.sent] == [
        ("spans", b"k%d" % number, b"v%d" % number, headers) for number in (0, 1, 4)
    ]
    assert parts.broker.transactions == [3]
    assert parts.broker.progress == {0: 2, 1: 5}
    assert parts.broker.config["transactional.id"] == "workers.dlq-replay"
    assert parts.replay() == ReplayReport(0, [])


def test_a_replay_skips_what_is_not_wanted_for_later_replays_too(parts: Parts) -> None:
    assert parts.replay(lambda record: record.reason == "invalid").sent == 1
    assert parts.values == [b"v1"]
    assert parts.broker.progress == {0: 2, 1: 5}


def test_a_replay_that_includes_everything_again_does_not_set_the_progress_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = parts_of(monkeypatch, *LETTERS)
    monkeypatch.setattr(module, "BATCH_LETTERS", 1)
    parts.broker.progress = {0: 2, 1: 4}
    parts.broker.errors["commit_transaction"] = [failure(KafkaError._FENCED, fatal=True)]
    with pytest.raises(FatalError):
        parts.replay(again=True)
    assert parts.broker.progress == {0: 2, 1: 4}
    assert parts.replay(again=True).sent == 3
    assert parts.broker.progress == {0: 2, 1: 5}


def test_a_dry_run_sends_fences_and_remembers_nothing(parts: Parts) -> None:
    parts.broker.calls.append("init_transactions")
    assert parts.replay(dry_run=True).sent == 3
    assert parts.broker.calls == ["init_transactions"]
    assert parts.broker.progress == {}


@pytest.mark.parametrize("limit", [{"BATCH_LETTERS": 2}, {"TRANSACTION_BYTES": 400}], ids=str)
def test_a_transaction_holds_so_many_letters_and_bytes(monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]) -> None:
    parts = parts_of(monkeypatch, *(letter(0, offset) for offset in range(5)))
    for name, value in limit.items():
        monkeypatch.setattr(module, name, value)
    assert parts.replay().sent == 5
    assert parts.broker.transactions == [2, 2, 1]


@pytest.mark.parametrize("step", ["produce", "send_offsets_to_transaction", "commit_transaction"])
def test_a_replay_that_ends_in_the_middle_continues_behind_what_it_has_sent(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    parts = parts_of(monkeypatch, *(letter(0, offset) for offset in range(9)))
    monkeypatch.setattr(module, "BATCH_LETTERS", 2)
    for _ in range(3):
        # Each of them ends in the second transaction: it is killed there.
        calls = parts.broker.calls.count(step)
        original = parts.broker._call

        def killed(name: str, calls: int = calls, original: Callable[[str], None] = original) -> None:
            original(name)
            if name == step and parts.broker.calls.count(step) > calls + (2 if step == "produce" else 1):
                raise KeyboardInterrupt

        monkeypatch.setattr(parts.broker, "_call", killed)
        with pytest.raises(KeyboardInterrupt):
            parts.replay()
        monkeypatch.setattr(parts.broker, "_call", original)
    parts.replay()
    assert parts.values == [b"v%d" % offset for offset in range(9)]


def test_a_letter_that_the_topic_refuses_is_passed_over_and_its_neighbours_are_sent_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = parts_of(monkeypatch, *(letter(offset % 2, offset) for offset in range(20)))
    parts.broker.refused = {b"v3", b"v17", b"v18"}
    report = parts.replay()
    assert report.sent == 17
    assert [passed.letter.offset for passed in report.passed] == [3, 17, 18]
    assert {passed.reason for passed in report.passed} == {"was refused by topic spans (too large)"}
    assert parts.values == [b"v%d" % offset for offset in range(20) if offset not in (3, 17, 18)]
    assert parts.broker.progress == {0: 19, 1: 20}
    assert parts.replay() == ReplayReport(0, [])


def test_a_transaction_that_fails_for_no_letters_sake_is_tried_again(parts: Parts) -> None:
    parts.broker.errors["commit_transaction"] = [failure(KafkaError.NOT_ENOUGH_REPLICAS, abort=True)] * 3
    assert parts.replay().sent == 3
    assert len(parts.values) == 3


def test_a_group_that_has_members_ends_the_replay(parts: Parts) -> None:
    parts.broker.errors["send_offsets_to_transaction"] = [failure(KafkaError.UNKNOWN_MEMBER_ID, abort=True)]
    with pytest.raises(FatalError, match=r"Stop all members of the group 'workers\.dlq-replay'"):
        parts.replay()


def test_a_replay_that_a_later_one_has_fenced_says_so(parts: Parts) -> None:
    parts.broker.errors["commit_transaction"] = [failure(KafkaError._FENCED, abort=True)]
    with pytest.raises(FatalError, match="Another `tokentrace dlq replay` of the same group has started"):
        parts.replay()


def test_letters_of_other_groups_are_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [b"workers", b"staging", b"staging"]
    parts = parts_of(monkeypatch, letter(0, 0), *(letter(0, 1 + i, group=group) for i, group in enumerate(groups)))
    report = parts.replay(again=True)
    assert parts.values == [b"v0", b"v1"], "one without a group was written by 0.1.0"
    assert report.others == {"staging": 2}
    assert parts.broker.progress == {0: 4}


def test_letters_of_other_topics_and_lost_originals_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = letter(0, 0, topic=b"workers.state")
    lost = letter(0, 1, partition=b"3", offset=b"77", truncated=b"9000", sha256=b"00")
    parts = parts_of(monkeypatch, elsewhere, lost, letter(0, 2))
    monkeypatch.setattr(parts.letters, "original", lambda _: None)
    report = parts.replay()
    assert parts.values == [b"v2"]
    assert [passed.reason for passed in report.passed] == [
        "came from topic 'workers.state', which is not kafka.topic",
        "refers to spans/3@77, which is not retained any more",
    ]
    assert parts.broker.progress == {0: 3}

"""Dead letters: what is listed, and what a replay sends, skips and remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from tests.kafka.fakes import ScriptedClients, ScriptedProducer, failure
from tokentrace.errors import FatalError, UsageError
from tokentrace.tools import dlq
from tokentrace.tools.dlq import DeadLetterRecord, DeadLetters

HEADERS = {
    "own": b"1",
    "tokentrace.reason": b"malformed",
    "tokentrace.error": b"bad \xff",
    "tokentrace.topic": b"spans",
}


def letter(partition: int, offset: int, /, **headers: bytes) -> Message:
    extra = {f"tokentrace.{name}": value for name, value in headers.items()}
    return Message(
        topic="dead", partition=partition, offset=offset, key=b"k%d" % offset, value=b"v%d" % offset,
        headers=list({**HEADERS, **extra}.items()), timestamp=(1, 5000),
    )  # fmt: skip


class Topic:
    """A dead-letter topic, and the offsets that replays have committed."""

    def __init__(self, letters: Sequence[Message]) -> None:
        self.letters = letters
        self.missing = False
        self.offsets: dict[int, int] = {}

    # As TopicReader.

    def exists(self) -> bool:
        return not self.missing

    def partition_count(self) -> int:
        return 2

    def read_to_end(self, starts: Mapping[int, int]) -> Iterator[Message]:
        return (letter for letter in self.letters if (letter.offset() or 0) >= starts[letter.partition() or 0])

    # As CommittedOffsets.

    def committed(self, partitions: Sequence[int]) -> dict[int, int]:
        return self.offsets

    def commit(self, positions: Mapping[int, int]) -> None:
        self.offsets = self.offsets | positions

    def close(self) -> None: ...


Parts = tuple[DeadLetters, Topic, ScriptedClients]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    topic = Topic([letter(0, 0), letter(0, 1, reason=b"invalid"), letter(1, 4, partition=b"3", offset=b"77")])
    monkeypatch.setattr(dlq, "TopicReader", lambda *_: topic)
    monkeypatch.setattr(dlq, "CommittedOffsets", lambda *_: topic)
    clients = ScriptedClients(producer=ScriptedProducer)
    return DeadLetters(clients, "dead", "g"), topic, clients


def sent(clients: ScriptedClients) -> list[tuple[str, bytes, list[Any]]]:
    """Topic, value and headers of every record that a replay has produced."""
    return [(r["topic"], r["value"], r["headers"]) for producer in clients.made for r in producer.records]


def everything(_: DeadLetterRecord) -> bool:
    return True


def test_a_record_tells_where_the_message_came_from_and_why_it_is_here(parts: Parts) -> None:
    letters, _, _ = parts
    first, _, last = letters.read()
    assert (first.reason, first.error, first.source) == ("malformed", "bad �", ("spans", -1, -1))
    assert (last.partition, last.offset, last.source) == (1, 4, ("spans", 3, 77))
    assert (last.key, last.value, last.timestamp_ms) == (b"k4", b"v4", 5000)


def test_a_missing_topic_is_a_usage_error(parts: Parts) -> None:
    letters, topic, _ = parts
    topic.missing = True
    with pytest.raises(UsageError, match=r"Topic 'dead' does not exist at x:1; .*Check kafka.dead_letter_topic"):
        letters.read()


def test_a_replay_sends_the_original_message_and_does_not_repeat_it(parts: Parts) -> None:
    letters, topic, clients = parts
    assert letters.replay(everything, again=False, dry_run=False) == {"spans": 3}
    assert sent(clients) == [("spans", value, [("own", b"1")]) for value in (b"v0", b"v1", b"v4")]
    assert topic.offsets == {0: 2, 1: 5}
    assert letters.replay(everything, again=False, dry_run=False) == {}
    assert letters.replay(everything, again=True, dry_run=False) == {"spans": 3}


def test_a_replay_skips_what_is_not_wanted_for_later_replays_too(parts: Parts) -> None:
    letters, topic, clients = parts
    assert letters.replay(lambda record: record.reason == "invalid", again=False, dry_run=False) == {"spans": 1}
    assert [value for _, value, _ in sent(clients)] == [b"v1"]
    assert topic.offsets == {0: 2, 1: 5}


def test_a_dry_run_sends_and_remembers_nothing(parts: Parts) -> None:
    letters, topic, clients = parts
    assert letters.replay(everything, again=False, dry_run=True) == {"spans": 3}
    assert sent(clients) == []
    assert topic.offsets == {}


def test_a_replay_commits_its_progress_only_behind_what_is_delivered(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters, topic, _ = parts
    monkeypatch.setattr(dlq, "_REPLAY_BATCH", 1)
    deliveries = iter([None, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large")])

    class Refusing(ScriptedProducer):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.deliver = lambda _: next(deliveries)

    letters._clients = ScriptedClients(producer=Refusing)
    with pytest.raises(FatalError, match="A dead letter could not be replayed: too large"):
        letters.replay(everything, again=False, dry_run=False)
    assert topic.offsets == {0: 1}


def test_a_record_that_cannot_be_queued_ends_the_replay(parts: Parts) -> None:
    letters, topic, _ = parts

    class Rejecting(ScriptedProducer):
        def produce(self, *_: Any, **__: Any) -> None:
            raise failure(KafkaError.MSG_SIZE_TOO_LARGE)

    letters._clients = ScriptedClients(producer=Rejecting)
    with pytest.raises(FatalError, match="A dead letter could not be replayed: scripted"):
        letters.replay(everything, again=False, dry_run=False)
    assert topic.offsets == {}

"""Dead letters: what a record tells, and what a reference refers to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import pytest
from confluent_kafka import Message

from tests.kafka.fakes import ScriptedClients
from tests.otlpfactory import OtherSpan, traces
from tokentrace.decode.otlp.parts import one_span
from tokentrace.errors import UsageError
from tokentrace.tools import dlq
from tokentrace.tools.dlq import DeadLetters

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
    """A dead-letter topic, as TopicReader."""

    def __init__(self, letters: Sequence[Message]) -> None:
        self.letters = letters
        self.missing = False

    def exists(self) -> bool:
        return not self.missing

    def partition_count(self) -> int:
        return 2

    def read_to_end(self, starts: Mapping[int, int], *, await_open: bool = True) -> Iterator[Message]:
        return (letter for letter in self.letters if (letter.offset() or 0) >= starts[letter.partition() or 0])


class Originals:
    """The topic of the original messages, as OffsetReader."""

    messages: dict[tuple[int, int], Message]

    def read(self, partition: int, offset: int) -> Message | None:
        return self.messages.get((partition, offset))

    def close(self) -> None:
        self.messages = {}


Parts = tuple[DeadLetters, Topic]


def letters_of(monkeypatch: pytest.MonkeyPatch, *letters: Message) -> Parts:
    topic = Topic(letters)
    monkeypatch.setattr(dlq, "TopicReader", lambda *_: topic)
    return DeadLetters(ScriptedClients(), "dead", "g"), topic


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    return letters_of(
        monkeypatch, letter(0, 0), letter(0, 1, reason=b"invalid"), letter(1, 4, partition=b"3", offset=b"77")
    )


def test_a_record_tells_where_the_message_came_from_and_why_it_is_here(parts: Parts) -> None:
    letters, _ = parts
    first, _, last = letters.read()
    assert (first.reason, first.error, first.source) == ("malformed", "bad �", ("spans", -1, -1))
    assert (last.partition, last.offset, last.source) == (1, 4, ("spans", 3, 77))
    assert (last.key, last.value, last.timestamp_ms, last.length) == (b"k4", b"v4", 5000, None)


def test_reading_begins_where_it_is_told(parts: Parts) -> None:
    letters, _ = parts
    assert [(record.partition, record.offset) for record in letters.read({0: 1, 1: 5})] == [(0, 1)]


def test_a_missing_topic_is_a_usage_error(parts: Parts) -> None:
    letters, topic = parts
    topic.missing = True
    with pytest.raises(UsageError, match=r"Topic 'dead' does not exist at x:1; .*Check kafka.dead_letter_topic"):
        letters.read()


@pytest.mark.parametrize("retained", ["whole", "recreated", "gone"])
def test_a_reference_is_resolved_where_its_message_is_retained(monkeypatch: pytest.MonkeyPatch, retained: str) -> None:
    value = b"v" * 9000
    sha256 = hashlib.sha256(value).hexdigest().encode()
    letters, _ = letters_of(monkeypatch, letter(0, 0, partition=b"3", offset=b"77", truncated=b"9000", sha256=sha256))
    found = {"whole": value, "recreated": b"w" * 9000}.get(retained)
    originals = Originals()
    originals.messages = {} if found is None else {(3, 77): Message(key=b"k", value=found, headers=[("h", b"1")])}
    monkeypatch.setattr(dlq, "OffsetReader", lambda *_: originals)
    (reference,) = letters.read()
    assert (reference.length, reference.sha256) == (9000, sha256.decode())
    original = letters.original(reference)
    if retained == "whole":
        assert original is not None
        assert (original.key, original.value, original.headers) == (b"k", value, (("h", b"1"),))
        assert (original.partition, original.offset, original.reason) == (0, 0, "malformed")
    else:
        assert original is None
    letters.close()


def test_a_reference_to_one_span_of_a_message_is_resolved_to_a_message_of_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = traces([("shop", [OtherSpan({"a": 1}), OtherSpan({"b": 2})])]).SerializeToString()
    alone = one_span(value, 1)
    sha256 = hashlib.sha256(alone).hexdigest().encode()
    given = {"partition": b"3", "offset": b"77", "truncated": b"%d" % len(alone), "sha256": sha256}
    letters, _ = letters_of(monkeypatch, letter(0, 0, span=b"1", **given), letter(0, 1, span=b"7", **given))
    originals = Originals()
    originals.messages = {(3, 77): Message(key=b"k", value=value)}
    monkeypatch.setattr(dlq, "OffsetReader", lambda *_: originals)
    found, lost = letters.read()
    original = letters.original(found)
    assert original is not None
    assert (original.part, original.value) == (1, alone)
    assert letters.original(lost) is None

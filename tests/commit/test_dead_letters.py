"""Dead letters as records: whole where they fit into their topic, a reference where they do not."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

import pytest

from tests.kafka.fakes import ScriptedClients
from tests.kafka.test_topics import Cluster
from tokentrace.commit.dead_letters import SMALLEST_LIMIT, DeadLetterTopic
from tokentrace.kafka.producer import Record, record_bytes
from tokentrace.model.messages import DeadLetter, Envelope


def letter(
    value: bytes, key: bytes | None = b"k", header: bytes = b"1", error: str = "Bad.", offset: int = 77
) -> DeadLetter:
    headers = (("own", header), ("tokentrace.reason", b"older"))
    return DeadLetter(Envelope("spans", 3, offset, key, value, headers, None), "malformed", error)


def topic_of(limit: int | None) -> tuple[DeadLetterTopic, Cluster]:
    """A dead-letter topic that takes so many bytes, and its cluster."""
    cluster = Cluster({})
    cluster.topics["dead"] = {} if limit is None else {"max.message.bytes": str(limit)}
    topic = DeadLetterTopic(ScriptedClients(admin=lambda *_, **__: cluster), "dead", "workers")
    topic.read_limit()
    return topic, cluster


def test_a_letter_that_fits_is_the_message_and_one_byte_more_makes_it_a_reference() -> None:
    whole = topic_of(None)[0].records([letter(b"v" * 5000)])[0]
    assert (whole.key, whole.value) == (b"k", b"v" * 5000)
    size = record_bytes(whole)
    assert topic_of(size)[0].records([letter(b"v" * 5000)]) == [whole]
    (reference,) = topic_of(size - 1)[0].records([letter(b"v" * 5000)])
    assert reference == Record(
        "dead",
        b"k",
        b"v" * 1024,
        headers=[
            ("own", b"1"),
            ("tokentrace.reason", b"malformed"),
            ("tokentrace.error", b"Bad."),
            ("tokentrace.topic", b"spans"),
            ("tokentrace.partition", b"3"),
            ("tokentrace.offset", b"77"),
            ("tokentrace.group", b"workers"),
            ("tokentrace.truncated", b"5000"),
            ("tokentrace.sha256", hashlib.sha256(b"v" * 5000).hexdigest().encode()),
        ],
    )


@pytest.mark.parametrize(
    "large",
    [
        letter(b"v", key=b"k" * 9000),
        letter(b"v", header=b"h" * 9000),
        letter(b"v" * 9000, b"k" * 9000, b"h" * 9000, "e" * 9000),
    ],
    ids=["key", "header", "all"],
)
def test_a_reference_fits_whatever_part_of_its_message_is_large(large: DeadLetter) -> None:
    (reference,) = topic_of(SMALLEST_LIMIT)[0].records([large])
    assert record_bytes(reference) <= SMALLEST_LIMIT
    assert reference.key is None
    headers = dict(reference.headers)
    assert headers["tokentrace.truncated"] == str(len(large.envelope.value or b"")).encode()
    assert (headers["tokentrace.partition"], headers["tokentrace.offset"]) == (b"3", b"77")


def test_references_are_counted_by_reason_once_they_are_committed(caplog: pytest.LogCaptureFixture) -> None:
    topic, _ = topic_of(5000)
    letters = [letter(b"v" * 9000), letter(b"v", offset=78), letter(b"v" * 9000, offset=79)]
    topic.records(letters)
    assert topic.truncated == {}
    topic.records(letters)
    topic.on_written(letters[:2])
    topic.on_written(letters)
    assert topic.truncated == {"malformed": 1}
    assert caplog.messages == [
        "1 rejected messages were too large for topic dead (max.message.bytes=5000): it has references to them, and "
        "the messages remain in their own topic for as long as that retains them. `tokentrace dlq replay` reads them "
        "there."
    ]


def test_a_limit_that_was_lowered_is_read_again_and_halved_where_it_cannot_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic, cluster = topic_of(400_000)
    cluster.topics["dead"] = {"max.message.bytes": "300000"}
    with caplog.at_level(logging.WARNING):
        topic.on_too_large()
        assert topic.batch_bytes == {"dead": 300_000}
        topic.on_too_large()
        assert topic.batch_bytes == {"dead": 150_000}
        for _ in range(10):
            topic.on_too_large()
    assert topic.batch_bytes == {"dead": SMALLEST_LIMIT}
    assert "Topic dead takes less than 400000 bytes. Dead letters of more than 300000 bytes" in caplog.messages[0]
    assert len(caplog.messages) == 8, "said only when something has changed"


def test_batches_of_a_topic_that_takes_large_messages_stay_those_of_the_producer() -> None:
    assert topic_of(8 << 20)[0].batch_bytes == {"dead": 1_000_000}


def test_letters_of_one_message_are_told_apart_by_the_span_that_they_have() -> None:
    letters = [replace(letter(b"v" * size), part=part) for part, size in ((0, 100), (4, 5000))]
    topic, _ = topic_of(SMALLEST_LIMIT)
    records = topic.records(letters)
    spans = [dict(record.headers or [])["tokentrace.span"] for record in records]
    assert spans == [b"0", b"4"]
    topic.on_written(letters)
    assert topic.truncated == {"malformed": 1}

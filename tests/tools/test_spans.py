"""Spans for reading: decoded with the schema that each names, filtered, followed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from confluent_kafka import Message

from tests.decode.helpers import string, zigzag
from tests.decode.test_union import EVENTS, framed
from tests.otlpfactory import OtherSpan, to_json, traces
from tests.spanfactory import datum, message, span
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import UsageError
from tokentrace.model.bundled_schemas import fingerprint_of
from tokentrace.tools.spans import SpanReader, as_json, matches, parse_conditions


class FakeTopic:
    """A topic of one partition in memory."""

    def __init__(self, *values: bytes | None) -> None:
        self.values = list(values)

    def exists(self) -> bool:
        return True

    def partition_count(self) -> int:
        return 1

    def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, len(self.values))

    def read_to_end(self, starts: Mapping[int, int]) -> Iterator[Message]:
        for offset in range(starts[0], len(self.values)):
            yield Message(topic="t", partition=0, offset=offset, value=self.values[offset], timestamp=(1, 5000))


def reader_of(*values: bytes | None) -> tuple[SpanReader, FakeTopic]:
    topic = FakeTopic(*values)
    return SpanReader(topic, WriterSchemas(), "auto"), topic  # type: ignore[arg-type]


def test_spans_are_decoded_and_what_is_not_one_is_named() -> None:
    good = message(span(model="m-1", caller="search"))
    reader, _ = reader_of(good, b"junk", None, good[:-1], good + b"\0")
    starts = reader.newest(None)
    found = list(reader.read(starts))
    assert [bool(one.problem) for one in found] == [False, True, True, True, True]
    assert [one.offset for one in found] == [0, 1, 2, 3, 4]
    assert (found[0].span["model"], found[0].span["caller"], found[0].timestamp_ms) == ("m-1", "search", 5000)
    assert starts == {0: 5}
    json.dumps(as_json(found[0].span))


def test_the_newest_messages_of_each_partition_are_read() -> None:
    reader, _ = reader_of(*(message(span(model=f"m-{number}")) for number in range(5)))
    assert [one.span["model"] for one in reader.read(reader.newest(2))] == ["m-3", "m-4"]
    assert reader.newest(9) == {0: 0}


def test_following_gives_what_is_published_later() -> None:
    reader, topic = reader_of(message(span(model="m-0")))
    following = reader.follow({0: 0}, pause=lambda _: topic.values.append(message(span(model="later"))))
    assert [next(following).span["model"] for _ in range(3)] == ["m-0", "later", "later"]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([], True),
        (["model=gpt-*"], True),
        (["model=gpt-*", "status=error"], False),
        (["caller="], True),
        (["attributes.team=a"], True),
        (["attributes.team=b"], False),
        (["nothing.there=*"], True),
    ],
)
def test_conditions_are_globs_over_fields(conditions: list[str], found: bool) -> None:
    fields: dict[str, Any] = {"model": "gpt-4o", "status": "ok", "caller": None, "attributes": {"team": "a"}}
    assert matches(fields, parse_conditions(conditions)) is found


def test_a_condition_without_a_glob_is_refused() -> None:
    with pytest.raises(UsageError, match="'model' is not field=glob"):
        parse_conditions(["model"])


def test_values_of_avro_become_json() -> None:
    value = {"at": datetime(2026, 1, 1, tzinfo=UTC), "b": b"\1", "d": Decimal("1.5"), "n": float("nan"), "l": [1, None]}
    assert as_json(value) == {"at": "2026-01-01T00:00:00Z", "b": "01", "d": "1.5", "n": "nan", "l": [1, None]}


def test_spans_of_opentelemetry_are_shown_each_by_itself() -> None:
    sent = [OtherSpan({"gen_ai.system": "openai", "list": [1]}, span_id=b"\1\2"), OtherSpan({"a": 1})]
    data = traces([("shop", sent)])
    for value in (data.SerializeToString(), to_json(data)):
        reader, _ = reader_of(value, value[:-1])
        first, second, broken = reader.read({0: 0})
        assert (first.span["span_id"], first.span["attributes"]) == (
            "0102", {"gen_ai.system": "openai", "list": "an array or a map"},
        )  # fmt: skip
        assert (second.span["attributes"], second.span["resource"]["service.name"]) == ({"a": 1}, "shop")
        assert broken.problem


def test_other_events_of_a_union_are_named_and_are_no_spans() -> None:
    values = framed(EVENTS, zigzag(0), zigzag(3) + datum(span(model="m-1")), zigzag(1) + string("ann") + zigzag(2))
    topic: Any = FakeTopic(*values)
    reader = SpanReader(topic, WriterSchemas({fingerprint_of(EVENTS): EVENTS}), "auto")
    found = list(reader.read(reader.newest(None)))
    assert [(one.event, one.problem) for one in found] == [("null", ""), ("", ""), ("shop.Login", "")]
    assert found[1].span["model"] == "m-1"

"""The walker and the plain reader read the same of any bytes, and of valid ones what the official classes read."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.decode.helpers import spans_of
from tests.decode.otlp.differential import assert_as_official, assert_same, damaged
from tests.otlpfactory import OtherSpan, call, key_values, other, to_proto, traces
from tokentrace.decode.otlp import decoder as decoder_module
from tokentrace.decode.otlp.columnar import levels, span_fields
from tokentrace.decode.otlp.columnar.headers import Joined
from tokentrace.decode.otlp.columnar.known_texts import KnownTexts
from tokentrace.decode.otlp.decoder import OtlpDecoder
from tokentrace.decode.otlp.wire import write_bytes


@pytest.fixture(autouse=True, params=["thorough", "as shipped"])
def thresholds(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the columnar way for few spans too, which the plain one would read faster."""
    if request.param == "thorough":
        monkeypatch.setattr(levels.children, "__defaults__", (1,))
        monkeypatch.setattr(span_fields.read_fields, "__defaults__", (1,))


def odd(rng: random.Random) -> OtherSpan:
    """A call with something that is rare."""
    span = call(rng)
    span.attributes["team"] = rng.choice(["a", "", 5, None, [1], "x" * 300])
    name = rng.choice(list(span.attributes))
    change = rng.randrange(6)
    if change == 0:
        span.attributes[name] = rng.choice([None, "", "text", -5, 1.5, True, 2**62, b"raw", [1], {"a": {"b": 1}}])
    elif change == 1:
        span.attributes |= {f"more.{number}": number for number in range(rng.randrange(200))}
    elif change == 2:
        span.attributes["k" * rng.choice([1, 127, 128, 500])] = -1
    elif change == 3:
        span.start_ns, span.end_ns = rng.choice([(0, 5), (5, 0), (2**63, 2**64 - 1), (7, 3)])
    elif change == 4:
        span.events = [("exception", 5, {"a": "gen_ai."}), ("First Token Stream Event", rng.choice([0, 10**18]), {})]
    else:
        span.attributes["service.name"] = rng.choice(["own", "", 3])
    return span


@given(st.integers(0, 2**32))
def test_odd_spans_are_read_as_by_the_plain_reader(seed: int) -> None:
    rng = random.Random(seed)
    values: list[bytes | None] = []
    for _ in range(rng.randrange(1, 5)):
        spans = [rng.choice([odd, odd, call, other])(rng) for _ in range(rng.randrange(1, 9))]
        values.append(traces([(rng.choice(["", "shop"]), spans)]).SerializeToString())
    assert_same(values)


@given(st.integers(0, 2**32))
def test_damaged_messages_are_read_as_by_the_plain_reader(seed: int) -> None:
    rng = random.Random(seed)
    values = [damaged(rng) for _ in range(rng.randrange(1, 5))]
    # What is read of a message that the official classes take, they read too.
    assert_as_official(values, assert_same(values))


def test_forms_that_no_writer_has_are_read_as_the_official_classes_read_them() -> None:
    rng = random.Random(1)
    data = traces([("shop", [call(rng) for _ in range(30)])])
    span = data.resource_spans[0].scope_spans[0].spans[0]
    key = span.attributes[0].SerializeToString()
    swapped = write_bytes(2, span.attributes[0].value.SerializeToString()) + write_bytes(1, b"x")
    ways = [
        span.SerializeToString() + write_bytes(9, swapped),
        span.SerializeToString() + write_bytes(9, key) * 2,
        span.SerializeToString() + write_bytes(15, b"\x18\x81\x00") + write_bytes(999, b"unknown"),
        span.SerializeToString() + write_bytes(9, write_bytes(1, b"only a key")),
        span.SerializeToString() + b"\x50\x80\x80\x80\x80\x00",
    ]
    message = write_bytes(1, write_bytes(2, b"".join(write_bytes(2, way) for way in ways)))
    TracesData().ParseFromString(message)
    assert len(assert_same([message, data.SerializeToString()]).spans) == 35


def test_last_value_of_a_repeated_key_counts_even_if_it_is_absent() -> None:
    sent = call(random.Random(1), "genai")
    sent.attributes["gen_ai.response.model"] = "answered"
    again = write_bytes(9, key_values({"gen_ai.request.model": None})[0].SerializeToString())
    spans = [to_proto(sent).SerializeToString() + more for more in (b"", again)]
    message = write_bytes(1, write_bytes(2, b"".join(write_bytes(2, one) for one in spans)))
    first, second = spans_of(assert_same([message]).spans)
    assert (first["model"], second["model"]) == (sent.attributes["gen_ai.request.model"].encode(), b"answered")


def test_two_resources_of_one_group_are_merged() -> None:
    data = traces([("shop", [call(random.Random(1), "genai")])])
    extra = write_bytes(1, b"".join(write_bytes(1, item.SerializeToString()) for item in key_values({"team": "a"})))
    value = write_bytes(1, data.resource_spans[0].SerializeToString() + extra)
    (span,) = spans_of(assert_same([value]).spans)
    assert span["caller"] == b"shop"


def test_known_texts_are_found_and_no_others() -> None:
    rng = random.Random(2)
    # The last two have the same length, beginning and end.
    texts = [
        b"a",
        b"abcdefgh",
        b"abcdefghi",
        b"gen_ai.usage.input_tokens",
        b"x" * 127,
        b"beginninXending..",
        b"beginninYending..",
    ]
    known = KnownTexts(texts)
    others = [b"", b"b", b"abcdefgx", b"beginninZending..", b"x" * 126, b"x" * 128, b"gen_ai.usage.inputXtokens"]
    asked = [rng.choice([*texts, *others]) for _ in range(500)]
    joined = Joined.of(asked)
    lengths = np.array([len(text) for text in asked])
    found = known.find(joined.words, np.cumsum(lengths) - lengths, lengths)
    assert found.tolist() == [texts.index(text) if text in texts else -1 for text in asked]


def test_walker_reads_usual_calls_without_the_plain_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(4)
    usual = [span for span in (call(rng) for _ in range(200)) if not span.status and not span.events]
    messages = [
        traces(
            [("shop", [OtherSpan({"http.request.method": "GET"})] * 5 + usual[first : first + 5])]
        ).SerializeToString()
        for first in range(0, 150, 5)
    ]

    asked = []
    read_place = decoder_module.read_place
    monkeypatch.setattr(decoder_module, "read_place", lambda *given: asked.append(given) or read_place(*given))
    monkeypatch.delattr(decoder_module, "read_message")
    batch = OtlpDecoder(min_spans=1).decode(messages, as_json=False)
    assert (len(batch.spans), int(batch.counts.ignored.sum())) == (150, 150)
    # The few spans that have more fields than nearly all others.
    assert len(asked) < span_fields.read_fields.__defaults__[0]  # type: ignore[index]

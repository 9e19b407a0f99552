"""Spans of OpenTelemetry: each call is read once, whatever it was written in; what else is there is counted too."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.helpers import ABSENT, spans_of
from tests.otlpfactory import DIALECTS, WRAPPERS, OtherSpan, call, other, random_traces, to_json, traces
from tests.spanfactory import message, span
from tokentrace.decode import Decoded, SpanDecoder
from tokentrace.decode.otlp.options import OtlpOptions
from tokentrace.decode.otlp.parts import one_span
from tokentrace.decode.otlp.wire import Malformed
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.messages import OTHER_GROUP_VALUE


def decoder(framing: Any = "otlp_proto", **options: Any) -> SpanDecoder:
    return SpanDecoder(WriterSchemas(), framing, **options)


def decode(*values: bytes | None, framing: Any = "otlp_proto", **options: Any) -> Decoded:
    return decoder(framing, **options).decode(values)


def calls_of(spans: list[OtherSpan]) -> list[dict[str, Any]]:
    return [{**ABSENT, **span.call} for span in spans if span.call is not None]


def one(attributes: dict[str, Any], service: str = "", **fields: Any) -> bytes:
    """A message with one span."""
    return traces([(service, [OtherSpan(attributes, **fields)])]).SerializeToString()


CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 7}


@pytest.mark.parametrize("framing", ["otlp_proto", "otlp_json", "auto"])
@given(seed=st.integers(0, 2**32))
def test_every_call_of_every_message_is_read_once(framing: str, seed: int) -> None:
    rng = random.Random(seed)
    sent = [random_traces(rng) for _ in range(rng.randrange(1, 6))]
    as_json = [framing == "otlp_json" or (framing == "auto" and rng.random() < 0.5) for _ in sent]
    values = [
        to_json(data) if in_json else data.SerializeToString() for (data, _), in_json in zip(sent, as_json, strict=True)
    ]
    decoded = decode(*values, framing=framing)
    assert spans_of(decoded.spans) == [one for _, spans in sent for one in calls_of(spans)]
    assert decoded.rejects == []
    places = [(row, ordinal) for row, (_, spans) in enumerate(sent) for ordinal, span in enumerate(spans) if span.call]
    assert decoded.spans.part is not None
    assert list(zip(decoded.spans.row.tolist(), decoded.spans.part.tolist(), strict=True)) == places
    assert decoded.counts is not None
    assert decoded.counts.found.tolist() == [len(spans) for _, spans in sent]
    assert decoded.counts.ignored.tolist() == [sum(span.call is None for span in spans) for _, spans in sent]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_is_read(dialect: str) -> None:
    rng = random.Random(7)
    sent = [call(rng, dialect) for _ in range(50)]
    assert spans_of(decode(traces([("", sent)]).SerializeToString()).spans) == calls_of(sent)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_that_repeats_the_usage_is_ignored(wrapper: dict[str, str]) -> None:
    usage = {name: value for name, value in CALL.items() if name != "gen_ai.operation.name"}
    decoded = decode(one({**usage, "gen_ai.system": "openai", **wrapper}))
    assert (len(decoded.spans), decoded.rejects) == (0, [])
    assert decoded.counts is not None
    assert (decoded.counts.found.tolist(), decoded.counts.ignored.tolist()) == ([1], [1])


def test_an_operation_can_be_declared_a_call() -> None:
    value = one({**CALL, "gen_ai.operation.name": "Summarise"})
    assert len(decode(value).spans) == 0
    assert len(decode(value, otlp=OtlpOptions(calls=frozenset({"summarise"}))).spans) == 1


def test_the_caller_is_an_attribute_of_the_span_or_of_its_resource() -> None:
    values = [one(CALL, "shop"), one({**CALL, "service.name": "own", "team": "a"}, "shop")]
    assert [span["caller"] for span in spans_of(decode(*values).spans)] == [b"shop", b"own"]
    options = OtlpOptions(caller="team")
    assert [span["caller"] for span in spans_of(decode(*values, otlp=options).spans)] == [b"", b"a"]


def test_dimensions_come_from_spans_and_from_their_resources() -> None:
    texts = ("attributes.team", "attributes.service.name", "span.name", "attributes.n", "attributes.list")
    value = one({**CALL, "team": "a", "n": 5, "list": ["x"]}, "shop")
    found = decode(value, texts=texts).spans
    got = {
        source: found.buffer[strings.offset[0] : strings.offset[0] + strings.length[0]].tobytes()
        for source, strings in found.texts.items()
    }
    assert got == dict(zip(texts, [b"a", b"shop", b"POST /v1/chat/completions", b"5", b""], strict=True))


def test_a_value_without_a_message_is_rejected_whole_and_counts_as_one() -> None:
    good = one(CALL)
    bad = [good[:-1], b"\x0a", b"\xff" * 11, b"\x00", b"\x0b", b"{", None, b"", OTHER_GROUP_VALUE]
    decoded = decode(good, *bad, good)
    assert decoded.spans.row.tolist() == [0, 10]
    assert [reject.reason for reject in decoded.rejects] == ["malformed"] * 6 + ["tombstone", "empty", "other_group"]
    what = "The value is not a message of OTLP in protobuf: a number ends beyond its message."
    assert decoded.rejects[1].error == what
    assert decoded.counts is not None
    assert decoded.counts.found.tolist() == [1] * 11


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"{", "Expecting property name"),
        (b"\xff", "it is not UTF-8 (byte 0)."),
        (b"[]", "the message is not an object."),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"resourceSpans": 3}', "resourceSpans is not an array of objects."),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [7]}]}]}', "spans is not an array of objects."),
    ],
)
def test_json_that_is_no_message_is_named(value: bytes, why: str) -> None:
    (reject,) = decode(value, framing="otlp_json").rejects
    assert reject.reason == "malformed"
    assert why in reject.error


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"traceId": "xy"}, "traceId is not in hex."),
        ({"startTimeUnixNano": "soon"}, "startTimeUnixNano is not a whole number."),
        ({"endTimeUnixNano": str(2**64)}, "endTimeUnixNano has more than 64 bits."),
        ({"attributes": [{"key": "gen_ai.x", "value": {"intValue": "1.5"}}]}, "intValue is not a whole number."),
        ({"attributes": [{"key": "gen_ai.x", "value": {"stringValue": 5}}]}, "stringValue is not a text."),
        ({"attributes": [{"key": "gen_ai.x", "value": {"bytesValue": "!"}}]}, "bytesValue is not in base64."),
        ({"attributes": [{"key": "gen_ai.x", "value": {"doubleValue": "x"}}]}, "doubleValue is not a number."),
    ],
)
def test_a_field_that_is_wrong_in_json_is_named(change: dict[str, Any], why: str) -> None:
    span = {"attributes": [{"key": "gen_ai.x", "value": {}}], **change}
    value = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    assert [reject.error for reject in decode(value, framing="otlp_json").rejects] == [
        f"The value is not a message of OTLP in JSON: {why}"
    ]


@pytest.mark.parametrize(
    ("attribute", "reason", "error"),
    [
        ({"gen_ai.usage.input_tokens": "7"}, "type_mismatch",
         "Attribute 'gen_ai.usage.input_tokens' is '7'; it takes a whole number."),
        ({"gen_ai.usage.input_tokens": 7.5}, "type_mismatch",
         "Attribute 'gen_ai.usage.input_tokens' is 7.5; it takes a whole number."),
        ({"gen_ai.request.model": [1]}, "type_mismatch",
         "Attribute 'gen_ai.request.model' is an array or a map; it takes a text."),
        ({"gen_ai.response.time_to_first_chunk": True}, "type_mismatch",
         "Attribute 'gen_ai.response.time_to_first_chunk' is True; it takes a number."),
    ],
)  # fmt: skip
def test_a_span_with_a_wrong_value_is_rejected_alone(attribute: dict[str, Any], reason: str, error: str) -> None:
    good = OtherSpan(dict(CALL))
    data = traces([("shop", [good, OtherSpan({**CALL, **attribute}), OtherSpan({"a": 1}), good])])
    for value, framing in ((data.SerializeToString(), "otlp_proto"), (to_json(data), "otlp_json")):
        decoded = decode(value, framing=framing)
        assert [(reject.row, reject.part, reject.reason, reject.error) for reject in decoded.rejects] == [
            (0, 1, reason, error)
        ]
        assert decoded.spans.part is not None
        assert decoded.spans.part.tolist() == [0, 3]
        assert decoded.counts is not None
        assert (decoded.counts.found.tolist(), decoded.counts.ignored.tolist()) == ([4], [1])


@given(st.integers(0, 2**32), st.booleans())
def test_a_message_of_one_span_has_all_that_counts_of_it(seed: int, in_json: bool) -> None:
    data, spans = random_traces(random.Random(seed))
    value = to_json(data) if in_json else data.SerializeToString()
    framing = "otlp_json" if in_json else "otlp_proto"
    alone = [one_span(value, ordinal) for ordinal in range(len(spans))]
    if alone:
        assert spans_of(decode(*alone, framing=framing).spans) == calls_of(spans)
    with pytest.raises((LookupError, Malformed)):
        one_span(value, len(spans))


def test_text_that_is_not_utf8_rejects_the_span_of_which_it_is_a_label() -> None:
    value = one(CALL, "shop").replace(b"shop", b"sh\xffp")
    assert [(r.part, r.reason, r.error) for r in decode(value).rejects] == [
        (0, "invalid_utf8", "The caller is not valid UTF-8.")
    ]
    surrogate = to_json(traces([("shop", [OtherSpan(dict(CALL))])])).replace(b"shop", b"\\ud800")
    assert [r.reason for r in decode(surrogate, framing="otlp_json").rejects] == ["invalid_utf8"]


def test_the_first_token_is_an_event_too() -> None:
    events = [("First Token Stream Event", 1_790_000_000_250_000_000, {})]
    value = one(CALL, start_ns=1_790_000_000_000_000_000, end_ns=1_790_000_001_000_000_000, events=events)
    assert spans_of(decode(value).spans)[0]["ttft_ms"] == 250.0


def test_auto_reads_avro_and_otlp_of_one_batch_in_order() -> None:
    rng = random.Random(3)
    sent = [call(rng) for _ in range(4)]
    for one_call in sent:
        assert one_call.call is not None
        one_call.call["caller"] = b"shop"
    otlp = traces([("shop", [sent[0], other(rng), sent[1]])]).SerializeToString()
    in_json = to_json(traces([("shop", sent[2:])]))
    values = [message(span(model="a")), otlp, b"junk", message(span(model="b")), in_json, None, b'{"model": "m"}']
    decoded = decode(*values, framing="auto")
    assert decoded.spans.row.tolist() == [0, 1, 1, 3, 4, 4]
    found = spans_of(decoded.spans)
    assert [found[0]["model"], found[3]["model"]] == [b"a", b"b"]
    assert [found[index] for index in (1, 2, 4, 5)] == calls_of(sent)
    assert sorted((r.row, r.reason) for r in decoded.rejects) == [
        (2, "unknown_framing"), (5, "tombstone"), (6, "unknown_framing"),
    ]  # fmt: skip
    assert decoded.counts is not None
    assert decoded.counts.found.tolist() == [1, 3, 1, 1, 2, 1, 1]
    assert decoded.counts.ignored.tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_json_that_is_nested_deeply_can_be_cut_into_its_spans() -> None:
    deep: Any = {"stringValue": "x"}
    for _ in range(150):
        deep = {"arrayValue": {"values": [deep]}}
    body = json.dumps(deep)
    text = to_json(traces([("shop", [OtherSpan({**CALL, "deep": "DEEP"})])])).decode()
    value = text.replace('{"stringValue": "DEEP"}', body).encode()
    assert len(decode(value, framing="otlp_json").spans) == 1
    assert spans_of(decode(one_span(value, 0), framing="otlp_json").spans)[0]["caller"] == b"shop"


@pytest.mark.parametrize(
    ("parameters", "model"),
    [('{"model": "m", "n": 1}', b"m"), ("{", b""), ("[1]", b""), ('{"model": 5}', b""), (7, b""), ("[" * 99_999, b"")],
)
def test_a_failed_call_may_name_its_model_in_its_parameters_alone(parameters: Any, model: bytes) -> None:
    attributes = {"openinference.span.kind": "LLM", "llm.system": "openai", "llm.invocation_parameters": parameters}
    values = [one(attributes, status=2), one({**attributes, "llm.model_name": "named"}, status=2)]
    for framing in ("otlp_proto", "auto"):
        assert [span["model"] for span in spans_of(decode(*values, framing=framing).spans)] == [model, b"named"]

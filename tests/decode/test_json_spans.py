"""Spans as plain JSON: the same spans as those in Avro, and a clear sentence for everything that is not one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.helpers import spans_of
from tests.spanfactory import message, random_span, span, unit_span
from tokentrace.decode import SpanDecoder
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.model.messages import OTHER_GROUP_VALUE


def decoder(framing: Any = "json") -> SpanDecoder:
    return SpanDecoder(WriterSchemas(), framing)


def refusal(value: bytes | None) -> tuple[str, str]:
    (reject,) = decoder().decode([value]).rejects
    return reject.reason, reject.error


@given(st.integers(0, 2**32))
def test_json_spans_are_those_of_avro(seed: int) -> None:
    rng = random.Random(seed)
    records = [make(rng) for make in (random_span, unit_span) * 5]
    as_json = decoder().decode([json.dumps(record).encode() for record in records])
    as_avro = decoder("single_object").decode([message(record) for record in records])
    assert as_json.rejects == as_avro.rejects == []
    assert spans_of(as_json.spans) == spans_of(as_avro.spans)


def test_json_rejects_keep_their_rows_among_good_spans() -> None:
    good = json.dumps(span()).encode()
    decoded = decoder().decode([good, b"{", None, b"", OTHER_GROUP_VALUE, good, b"[]"])
    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [
        (1, "malformed"), (2, "tombstone"), (3, "empty"), (4, "other_group"), (6, "malformed"),
    ]  # fmt: skip
    assert decoded.spans.row.tolist() == [0, 5]


@pytest.mark.parametrize(
    ("text", "reason", "error"),
    [
        (b"{", "malformed", "The value is not a JSON object of a span: Expecting property name"),
        (b"\xff{}", "malformed", "it is not UTF-8 (byte 0)."),
        (b"7", "malformed", "it is the number 7, not an object."),
        (b"null", "malformed", "it is null, not an object."),
        (b'"a"', "malformed", "it is a text, not an object."),
        (b"[1]", "malformed", "it is an array, not an object."),
        (b'{"model": "m"} x', "malformed", "Extra data"),
        (b"[" * 100_000, "malformed", "nested too deeply"),
        (b'{"model": "m", "model": "n"}', "malformed", "'model' is there twice."),
        (b'{"cost": 1, "cost_usd": 2}', "malformed", "cost_usd is there twice, once by another name."),
        (b'{"cost_usd": NaN}', "malformed", "NaN is not JSON."),
        (b'{"cost_usd": -Infinity}', "malformed", "-Infinity is not JSON."),
        (b'{"promptTokens": 1}', "unknown_field", "The span has no field 'promptTokens'; docs/publishing.md lists"),
        (b'{"prompt_tokens": "7"}', "type_mismatch", "Field 'prompt_tokens' is a text; it takes a whole number."),
        (b'{"prompt_tokens": 1.5}', "type_mismatch", "is the number 1.5; it takes a whole number."),
        (b'{"prompt_tokens": true}', "type_mismatch", "is true; it takes a whole number."),
        (b'{"prompt_tokens": 9223372036854775808}', "type_mismatch", "the number 9223372036854775808"),
        (b'{"prompt_tokens": 1e30}', "type_mismatch", "the number 1e+30"),
        (b'{"prompt_tokens": [1]}', "type_mismatch", "is an array; it takes a whole number."),
        (b'{"cost_usd": "1"}', "type_mismatch", "is a text; it takes a number."),
        (b'{"cost_usd": false}', "type_mismatch", "is false; it takes a number."),
        (b'{"model": 7}', "type_mismatch", "is the number 7; it takes a text."),
        (b'{"model": {}}', "type_mismatch", "is an object; it takes a text."),
        (b'{"status": 1}', "type_mismatch", "is the number 1; it takes a text."),
        (b'{"status": "OK"}', "unknown_status", "The status is none of ok, error, timeout ('OK')."),
        (b'{"prompt_tokens_include_cache": 1}', "type_mismatch", "is the number 1; it takes true or false."),
        (b'{"attributes": []}', "type_mismatch", "is an array; it takes an object of texts, numbers, true, false"),
        (b'{"attributes": {"a": {}}}', "type_mismatch", "is an object; it takes"),
        (b'{"usage": 3}', "type_mismatch", "it takes an object of numbers."),
        (b'{"usage": {"page": "3"}}', "type_mismatch", "is a text; it takes a number."),
        (b'{"started_at": "2026-11-27T00:00:00Z"}', "type_mismatch", "'started_at' is a text; it takes a whole number"),
        (b'{"caller": "\\ud800"}', "invalid_utf8", "Field caller has half of a surrogate pair"),
        (b'{"prompt_tokens": ' + b"9" * 5000 + b"}", "malformed", "Exceeds the limit"),
    ],
)
def test_json_that_is_not_a_span_is_rejected_in_words(text: bytes, reason: str, error: str) -> None:
    found, sentence = refusal(text)
    assert found == reason
    assert error in sentence
    assert len(sentence) < 300


def test_json_numbers_and_nulls_are_read_as_other_languages_write_them() -> None:
    text = (
        b'{"model": "m", "prompt_tokens": 12.0, "comp_tokens": 3, "cost": 1, "caller": null, "latency_ms": 5,'
        b' "attributes": {"eval.score": 1, "a": null}, "usage": {"page": 2, "unknown": 7, "second": null}}'
    )
    record = span(
        model="m", provider="", trace_id="", span_id="", prompt_tokens=12, completion_tokens=3, cost_usd=1.0,
        latency_ms=5.0, attributes={"eval.score": 1}, usage={"page": 2}, started_at=0, ended_at=0,
    )  # fmt: skip
    as_json = decoder().decode([text])
    assert as_json.rejects == []
    assert spans_of(as_json.spans) == spans_of(decoder("single_object").decode([message(record)]).spans)


def test_json_without_a_model_is_left_to_validation() -> None:
    assert decoder().decode([b"{}"]).rejects == []


@given(st.binary() | st.text().map(str.encode))
def test_json_of_any_bytes_is_a_span_or_a_reject(value: bytes) -> None:
    decoded = decoder().decode([value])
    assert len(decoded.spans) + len(decoded.rejects) == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*span(), "usage", "speed", "x"]), _JSON, max_size=6))
def test_json_of_any_values_is_a_span_or_a_reject(record: dict[str, Any]) -> None:
    decoded = decoder().decode([json.dumps(record).encode()])
    assert len(decoded.spans) + len(decoded.rejects) == 1

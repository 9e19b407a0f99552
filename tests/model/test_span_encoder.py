"""The span's encoder, byte for byte against fastavro."""

from __future__ import annotations

import enum
import random
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.publisher.helpers import decoded
from tests.spanfactory import message, random_span, span, unit_span
from tokentrace.model.span_encoder import span_message


class Status(enum.StrEnum):
    OK = "ok"


@given(st.integers(0, 2**32))
def test_encoded_spans_are_those_of_fastavro(seed: int) -> None:
    rng = random.Random(seed)
    for record in (random_span(rng), unit_span(rng), span()):
        assert span_message(record) == message(record)


@given(
    st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    ),
    st.text(),
    st.integers(-(2**63), 2**63 - 1),
)
def test_encoded_attributes_texts_and_longs_are_those_of_fastavro(
    attributes: dict[str, Any], text: str, number: int
) -> None:
    record = span(attributes=attributes, caller=text, prompt_tokens=number, started_at=number)
    assert span_message(record) == message(record)


def test_encoded_span_needs_a_model_only() -> None:
    assert span_message({"model": "m"}) == message({"model": "m"})
    assert decoded(span_message({"model": "m", "caller": None, "attributes": None}))["caller"] == ""


def test_encoded_values_are_read_as_what_they_are() -> None:
    record = span(prompt_tokens=np.int64(7), cost_usd=Decimal("0.5"), latency_ms=3, status=Status.OK)
    found = decoded(span_message(record))
    assert (found["prompt_tokens"], found["cost_usd"], found["latency_ms"], found["status"]) == (7, 0.5, 3.0, "ok")


def test_encoded_attribute_of_another_type_is_text() -> None:
    found = decoded(span_message(span(attributes={"list": [1, 2], "huge": 2**70, "half": "\ud800"})))
    assert found["attributes"] == {"list": "[1, 2]", "huge": str(2**70), "half": "?"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"prompt_tokens": 1.5}, "'prompt_tokens' does not match (TypeError: 'float' object"),
        ({"prompt_tokens": True}, "'prompt_tokens' is a boolean, not a whole number"),
        ({"prompt_tokens": "7"}, "'prompt_tokens' does not match (TypeError: 'str' object"),
        ({"prompt_tokens": 2**63}, "'prompt_tokens' does not fit in 64 bits"),
        ({"cost_usd": "0.5"}, "'cost_usd' is of type str, not a number"),
        ({"cost_usd": True}, "'cost_usd' is of type bool, not a number"),
        ({"status": "OK"}, "'status' is 'OK', not one of ok, error, timeout"),
        ({"model": 7}, "'model' does not match (AttributeError"),
        ({"attributes": [1]}, "'attributes' does not match (AttributeError"),
        ({"prompt_tokens_include_cache": 1}, "'prompt_tokens_include_cache' is neither true nor false"),
        ({"promt_tokens": 1}, "has no field 'promt_tokens'"),
        ({"model": None}, "'model' is missing"),
    ],
)
def test_encoder_names_the_field_that_does_not_match(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=r"The span does not match schemas/span\.avsc") as raised:
        span_message(span(**fields))
    assert why in str(raised.value)

"""Top-level unions: the span is counted in columns, other events are counted as such, and nothing is lost."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.helpers import record_schema, spans_of, string, write, zigzag
from tests.harness import Harness
from tests.spanfactory import SPAN_SCHEMA, datum, span
from tokentrace.decode import SpanDecoder
from tokentrace.decode.resolve import check_readable, resolve_branches
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import SchemaError
from tokentrace.model.bundled_schemas import fingerprint_of
from tokentrace.model.messages import Reject

STATUS = {"type": "enum", "name": "Status", "symbols": ["ok", "error", "timeout"]}
LOGIN = {**record_schema("Login", user="string", status=STATUS), "namespace": "shop"}
#: Uses a type that another branch defines.
SMALL = {**record_schema("Small", model="string", prompt_tokens="long", status="Status"), "namespace": "shop"}
EVENTS = ["null", LOGIN, SMALL, SPAN_SCHEMA]
NOT_A_SPAN = "The message holds another event than a span; its schema is a union of both ({})."
MALFORMED = "The bytes are not a datum of their writer schema: the index of a union is out of range."


def framed(schema: Any, *datums: bytes) -> list[bytes]:
    return [b"\xc3\x01" + fingerprint_of(schema) + data for data in datums]


def decoder(schema: Any, **how: Any) -> SpanDecoder:
    return SpanDecoder(WriterSchemas({fingerprint_of(schema): schema}), **how)


def small(model: str, tokens: int) -> bytes:
    return zigzag(2) + string(model) + zigzag(tokens) + zigzag(0)


def test_spans_of_each_branch_are_counted_and_other_events_named() -> None:
    values = framed(
        EVENTS,
        zigzag(0),
        zigzag(3) + datum(span(model="m-1")),
        zigzag(1) + string("ann") + zigzag(2),
        small("m-2", 7),
        zigzag(4),
        zigzag(-1),
        b"",
        zigzag(3) + datum(span())[:-1],
    )
    found = decoder(EVENTS).decode(values)
    assert [(one["model"], one["prompt_tokens"]) for one in spans_of(found.spans)] == [
        (b"m-1", span()["prompt_tokens"]), (b"m-2", 7),
    ]  # fmt: skip
    assert found.spans.row.tolist() == [1, 3]
    assert found.rejects[:5] == [
        Reject(0, "other_event", NOT_A_SPAN.format("null")),
        Reject(2, "other_event", NOT_A_SPAN.format("shop.Login")),
        Reject(4, "malformed", MALFORMED),
        Reject(5, "malformed", MALFORMED),
        Reject(6, "malformed", MALFORMED),
    ]
    assert [(reject.row, reject.reason) for reject in found.rejects[5:]] == [(7, "malformed")]


def test_a_union_is_decoded_in_columns() -> None:
    subject = decoder(EVENTS)
    subject.decode(framed(EVENTS, *(zigzag(3) + datum(span()) for _ in range(20))))
    assert list(subject.paths) == [(f"fingerprint:{fingerprint_of(EVENTS).hex()}", "columnar")]


@given(st.integers(0, 2**32))
def test_columns_and_fastavro_agree_on_unions(seed: int) -> None:
    rng = random.Random(seed)
    datums = []
    for _ in range(rng.randrange(60)):
        data = rng.choice([zigzag(3) + datum(span()), small("m", rng.randrange(999)), zigzag(1) + b"\x02x\0", b"\0"])
        if rng.random() < 0.3:
            data = bytearray(data)
            data[rng.randrange(len(data))] = rng.randrange(256)
        datums.append(bytes(data[: rng.choice([None, None, None, 3, 1])]))
    fast, slow = (decoder(EVENTS, columnar=columnar).decode(framed(EVENTS, *datums)) for columnar in (True, False))
    assert (spans_of(fast.spans), fast.rejects) == (spans_of(slow.spans), slow.rejects)
    assert len(fast.spans) + len(fast.rejects) == len(datums)


def test_a_union_of_more_branches_than_a_byte_has_is_read() -> None:
    others = [record_schema(f"Event{number}", x="int") for number in range(100)]
    schema = [*others, SPAN_SCHEMA]
    data = zigzag(100) + datum(span(model="m"))
    cut = b"\xc8"
    found = decoder(schema).decode(framed(schema, data, zigzag(99) + b"\0", cut))
    assert [one["model"] for one in spans_of(found.spans)] == [b"m"]
    assert [reject.reason for reject in found.rejects] == ["other_event", "malformed"]


def test_every_message_of_a_union_is_in_the_audit_and_only_broken_ones_are_dead_letters() -> None:
    rig = Harness(schemas=WriterSchemas({fingerprint_of(EVENTS): EVENTS}))
    kinds = [zigzag(3) + datum(span()), b"\0", zigzag(1) + string("ann") + zigzag(0), zigzag(9)]
    rig.count(framed(EVENTS, *(kinds[row % 4] for row in range(400))))
    assert (rig.delta.polled, rig.delta.counted, rig.delta.rejected) == ({0: 400}, {0: 100}, {0: 300})
    assert rig.delta.reasons == {"other_event": 200, "malformed": 100}
    assert Counter(letter.reason for letter in rig.delta.dead_letters) == {"malformed": 100}


def test_a_branch_that_cannot_be_read_rejects_its_messages_alone() -> None:
    wrong = record_schema("Wrong", model="string", prompt_tokens="string")
    schema = [wrong, SPAN_SCHEMA]
    values = framed(schema, zigzag(0) + write(wrong, {"model": "m", "prompt_tokens": "x"}), zigzag(1) + datum(span()))
    found = decoder(schema).decode(values)
    assert [(reject.row, reject.reason) for reject in found.rejects] == [(0, "schema_unusable")]
    assert len(found.spans) == 1
    with pytest.raises(SchemaError, match="'prompt_tokens' is a string"):
        check_readable(schema)


@pytest.mark.parametrize("schema", [["null", "string"], [LOGIN, "null"], []])
def test_a_union_without_a_span_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaError) as raised:
        resolve_branches(schema)
    assert raised.value.reason == "schema_unusable"


def test_other_schemas_are_not_unions() -> None:
    assert resolve_branches(SPAN_SCHEMA) is None
    check_readable(SPAN_SCHEMA)
    check_readable(EVENTS)

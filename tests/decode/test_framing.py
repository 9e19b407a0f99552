"""Framing: the schema key and the datum of every message of a batch."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrace.decode.framing import RAW, Framing, SchemaKey, frame
from tokentrace.model import reasons
from tokentrace.model.arrays import PADDING
from tokentrace.model.messages import Reject

#: JSON has no header; tests/decode/test_json_spans.py has it.
MODES: tuple[Framing, ...] = tuple(mode for mode in get_args(Framing) if mode != "json")


def confluent(schema_id: int, datum: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + datum


def single_object(fingerprint: bytes, datum: bytes) -> bytes:
    return b"\xc3\x01" + fingerprint + datum


def framed_messages(values: list[bytes | None], mode: Framing = "auto") -> list[Any]:
    """Return (key, datum) of every message, or the reason of its reject."""
    framed = frame(values, mode)
    reason = {reject.row: reject.reason for reject in framed.rejects}
    assert len(framed.start) == len(framed.end) == len(framed.key) == len(values)
    assert list(reason) == [row for row, key in enumerate(framed.key.tolist()) if key < 0]
    return [
        (framed.keys[key], framed.buffer[start:end].tobytes()) if key >= 0 else reason[row]
        for row, (key, start, end) in enumerate(zip(framed.key.tolist(), framed.start, framed.end, strict=True))
    ]


def framed_alone(value: bytes | None, mode: Framing) -> Any:
    """Return the expected result for one message, by the definitions of the formats."""
    if value is None:
        return "tombstone"
    if value == b"":
        return "empty"
    if mode == "raw":
        return RAW, value
    if mode != "single_object" and value[:1] == b"\0" and len(value) >= 5:
        return SchemaKey("id", int.from_bytes(value[1:5], "big")), value[5:]
    if mode != "confluent" and value[:2] == b"\xc3\x01" and len(value) >= 10:
        return SchemaKey("fingerprint", value[2:10]), value[10:]
    return "unknown_framing"


FINGERPRINT = bytes(range(8, 0, -1))
EVERY_KIND: list[bytes | None] = [
    confluent(7, b"first"),
    single_object(FINGERPRINT, b"second"),
    None,
    b"",
    b"\x01neither",
    confluent(7, b"third"),
    confluent(2**32 - 1, b""),
    single_object(b"\xff" * 8, b""),
]


def test_auto_tells_the_framings_apart_within_one_batch() -> None:
    assert framed_messages(EVERY_KIND) == [
        (SchemaKey("id", 7), b"first"),
        (SchemaKey("fingerprint", FINGERPRINT), b"second"),
        "tombstone",
        "empty",
        "unknown_framing",
        (SchemaKey("id", 7), b"third"),
        (SchemaKey("id", 2**32 - 1), b""),
        (SchemaKey("fingerprint", b"\xff" * 8), b""),
    ]


def test_pinned_to_confluent_only_its_header_is_known() -> None:
    kinds = [word if isinstance(word, str) else word[0].kind for word in framed_messages(EVERY_KIND, "confluent")]
    unknown = "unknown_framing"
    assert kinds == ["id", unknown, "tombstone", "empty", unknown, "id", "id", unknown]


def test_pinned_to_single_object_only_its_header_is_known() -> None:
    kinds = [word if isinstance(word, str) else word[0].kind for word in framed_messages(EVERY_KIND, "single_object")]
    unknown = "unknown_framing"
    assert kinds == [unknown, "fingerprint", "tombstone", "empty", unknown, unknown, unknown, "fingerprint"]


def test_pinned_to_raw_every_value_is_a_datum_as_it_stands() -> None:
    expected = [
        (RAW, value) if value else word for value, word in zip(EVERY_KIND, framed_messages(EVERY_KIND), strict=True)
    ]
    assert framed_messages(EVERY_KIND, "raw") == expected


@pytest.mark.parametrize(
    "value",
    [b"\0", b"\0\0\0\0", b"\xc3", b"\xc3\x01", b"\xc3\x01" + bytes(7), b"\xc3\x02" + bytes(20), b"\x01\xc3", b"\xc3\0"],
)
def test_a_header_that_is_cut_short_or_unknown_is_no_framing(value: bytes) -> None:
    neighbours = [confluent(1, b"a"), single_object(FINGERPRINT, b"b")]
    assert framed_messages([neighbours[0], value, neighbours[1]]) == [
        (SchemaKey("id", 1), b"a"),
        "unknown_framing",
        (SchemaKey("fingerprint", FINGERPRINT), b"b"),
    ]


@pytest.mark.parametrize("value", [b"\0\0\0\0", b"\xc3\x01" + bytes(7), b"\xc3", b"\0", b""])
@pytest.mark.parametrize("mode", MODES)
def test_a_short_value_at_the_end_of_the_buffer_is_read_within_it(value: bytes, mode: Framing) -> None:
    assert framed_messages([value], mode) == [framed_alone(value, mode)]


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_has_no_messages(mode: Framing) -> None:
    assert framed_messages([], mode) == []


def test_each_reject_says_what_was_wrong() -> None:
    assert frame([None, b"", b"x"]).rejects == [
        Reject(row, reason, reasons.WHOLE[reason])
        for row, reason in enumerate(["tombstone", "empty", "unknown_framing"])
    ]
    confluent_error = "The value has no Confluent header (00 and a 4-byte schema id), which kafka.framing requires."
    assert frame([b"x"], "confluent").rejects == [Reject(0, "unknown_framing", confluent_error)]
    single_error = "The value has no single-object header (C3 01 and a fingerprint), which kafka.framing requires."
    assert frame([b"x"], "single_object").rejects == [Reject(0, "unknown_framing", single_error)]


def test_a_batch_of_many_schemas_names_each_of_them_once() -> None:
    ids = [row * 37 % 500 for row in range(3000)]
    values: list[bytes | None] = []
    for row, schema_id in enumerate(ids):
        values += [confluent(schema_id, b"%d" % row), single_object(schema_id.to_bytes(8, "little"), b"-%d" % row)]
    framed = frame(values)
    assert len(framed.keys) == len(set(framed.keys)) == 1000
    assert framed_messages(values) == [framed_alone(value, "auto") for value in values]


def test_a_buffer_ends_in_padding_for_loads_beyond_the_last_datum() -> None:
    framed = frame([confluent(1, b"\xff" * 9)])
    assert framed.buffer[framed.end[-1] :].tolist() == [0] * PADDING


def test_a_schema_key_reads_as_what_it_is() -> None:
    keys = (SchemaKey("id", 7), SchemaKey("fingerprint", FINGERPRINT), RAW)
    assert [str(key) for key in keys] == ["id:7", "fingerprint:0807060504030201", "raw"]


VALUE = st.one_of(
    st.none(),
    st.binary(max_size=14),
    st.builds(confluent, st.integers(0, 3) | st.integers(0, 2**32 - 1), st.binary(max_size=5)),
    st.builds(single_object, st.sampled_from([bytes(8), FINGERPRINT]) | st.binary(min_size=8, max_size=8), st.binary()),
    st.binary(max_size=5).map(b"\0".__add__),
    st.binary(max_size=10).map(b"\xc3\x01".__add__),
)


@given(st.lists(VALUE, max_size=12), st.sampled_from(MODES))
def test_a_message_is_framed_as_it_would_be_alone(values: list[bytes | None], mode: Framing) -> None:
    assert framed_messages(values, mode) == [framed_alone(value, mode) for value in values]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b'{"model": "m"}', "It looks like JSON, which kafka.framing: json reads."),
        (b"Obj\x01...", "It is an Avro container file"),
        (
            b"\x03\x05" + bytes(range(16)) + b"datum",
            "AWS Glue's Schema Registry (zlib, schema version 00010203-0405-0607",
        ),
        (b"\x03\x00" + bytes(16), "AWS Glue's Schema Registry (not compressed, schema version 00000000-"),
        (b"\x1f\x8b\x08", "It is compressed; leave compression to Kafka's producer"),
    ],
)
def test_foreign_framing_is_named(value: bytes, words: str) -> None:
    for mode in ("auto", "confluent", "single_object"):
        (reject,) = frame([value], mode).rejects  # type: ignore[arg-type]
        assert reject.reason == "unknown_framing"
        assert words in reject.error
    assert frame([value], "raw").rejects == []


@pytest.mark.parametrize("value", [b"\x03\x05short", b"\x03\x01" + bytes(16), b"Obj", b"x"])
def test_bytes_that_are_nothing_known_are_not_named(value: bytes) -> None:
    (reject,) = frame([value]).rejects
    assert reject.error == reasons.WHOLE["unknown_framing"]

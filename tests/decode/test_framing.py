"""Framing: the schema key and the datum of every message of a batch."""

from __future__ import annotations

import uuid
import zlib
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrace.decode.framing import RAW, Framing, SchemaKey, frame
from tokentrace.decode.glue import FACTOR, FREE
from tokentrace.decode.schema_key import ApicurioId
from tokentrace.model import reasons
from tokentrace.model.arrays import PADDING
from tokentrace.model.messages import Reject

#: JSON has no header; tests/decode/test_json_spans.py has it.
MODES: tuple[Framing, ...] = tuple(mode for mode in get_args(Framing) if mode != "json")


def confluent(schema_id: int, datum: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + datum


def single_object(fingerprint: bytes, datum: bytes) -> bytes:
    return b"\xc3\x01" + fingerprint + datum


def apicurio(number: int, datum: bytes) -> bytes:
    return b"\0" + number.to_bytes(8, "big") + datum


def glue(version: bytes, datum: bytes, *, compressed: bool = False) -> bytes:
    return (b"\x03\x05" if compressed else b"\x03\0") + version + (zlib.compress(datum) if compressed else datum)


def framed_messages(
    values: list[bytes | None], mode: Framing = "auto", headers: dict[str, list[bytes | str | None]] | None = None
) -> list[Any]:
    """Return (key, datum) of every message, or the reason of its reject."""
    framed = frame(values, mode, headers or {})
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
    short = mode == "confluent" or (mode == "auto" and (len(value) < 9 or value[1:5] != bytes(4)))
    if value[:1] == b"\0" and len(value) >= 5 and short:
        return SchemaKey("id", int.from_bytes(value[1:5], "big")), value[5:]
    if value[:1] == b"\0" and len(value) >= 9 and mode in ("auto", "apicurio"):
        return SchemaKey("apicurio", ApicurioId(int.from_bytes(value[1:9], "big"))), value[9:]
    if value[:2] == b"\xc3\x01" and len(value) >= 10 and mode in ("auto", "single_object"):
        return SchemaKey("fingerprint", value[2:10]), value[10:]
    if value[:1] == b"\x03" and len(value) >= 18 and mode in ("auto", "glue"):
        key = SchemaKey("glue", uuid.UUID(bytes=value[2:18]))
        if value[1] == 0:
            return key, value[18:]
        with suppress(zlib.error):
            if value[1] == 5:
                return key, zlib.decompress(value[18:])
    return "unknown_framing"


FINGERPRINT = bytes(range(8, 0, -1))
VERSION = bytes(range(16))
EVERY_KIND: list[bytes | None] = [
    confluent(7, b"first"),
    single_object(FINGERPRINT, b"second"),
    None,
    b"",
    b"\x01neither",
    confluent(7, b"third"),
    confluent(2**32 - 1, b""),
    single_object(b"\xff" * 8, b""),
    apicurio(8, b"fourth"),
    glue(VERSION, b"fifth"),
    glue(VERSION, b"sixth", compressed=True),
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
        (SchemaKey("apicurio", ApicurioId(8)), b"fourth"),
        (SchemaKey("glue", uuid.UUID(bytes=VERSION)), b"fifth"),
        (SchemaKey("glue", uuid.UUID(bytes=VERSION)), b"sixth"),
    ]


def test_pinned_to_confluent_only_its_header_is_known() -> None:
    kinds = [word if isinstance(word, str) else word[0].kind for word in framed_messages(EVERY_KIND, "confluent")]
    unknown = "unknown_framing"
    assert kinds == ["id", unknown, "tombstone", "empty", unknown, "id", "id", unknown, "id", unknown, unknown]


def test_pinned_to_single_object_only_its_header_is_known() -> None:
    kinds = [word if isinstance(word, str) else word[0].kind for word in framed_messages(EVERY_KIND, "single_object")]
    unknown = "unknown_framing"
    assert kinds == [
        unknown,
        "fingerprint",
        "tombstone",
        "empty",
        unknown,
        unknown,
        unknown,
        "fingerprint",
        *[unknown] * 3,
    ]


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
    ids = [row * 37 % 500 + 1 for row in range(3000)]
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
    version = uuid.UUID(bytes=VERSION)
    keys = {
        SchemaKey("id", 7): "id:7",
        SchemaKey("fingerprint", FINGERPRINT): "fingerprint:0807060504030201",
        SchemaKey("apicurio", ApicurioId(8)): "apicurio:id 8",
        SchemaKey("apicurio", ApicurioId(8, "global")): "apicurio:global id 8",
        SchemaKey("guid", version): "guid:00010203-0405-0607-0809-0a0b0c0d0e0f",
        SchemaKey("glue", version): "glue:00010203-0405-0607-0809-0a0b0c0d0e0f",
        RAW: "raw",
    }
    assert {key: str(key) for key in keys} == keys


VALUE = st.one_of(
    st.none(),
    st.binary(max_size=14),
    st.builds(confluent, st.integers(0, 3) | st.integers(0, 2**32 - 1), st.binary(max_size=5)),
    st.builds(single_object, st.sampled_from([bytes(8), FINGERPRINT]) | st.binary(min_size=8, max_size=8), st.binary()),
    st.builds(apicurio, st.integers(0, 3) | st.integers(0, 2**64 - 1), st.binary(max_size=5)),
    st.builds(glue, st.sampled_from([VERSION, bytes(16)]), st.binary(max_size=40), compressed=st.booleans()),
    st.binary(max_size=24).map(b"\x03\x05".__add__),
    st.binary(max_size=10).map(b"\0".__add__),
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
        (b"\x1f\x8b\x08", "It is compressed; leave compression to Kafka's producer"),
    ],
)
def test_foreign_framing_is_named(value: bytes, words: str) -> None:
    for mode in ("auto", "confluent", "single_object", "apicurio", "glue"):
        (reject,) = frame([value], mode).rejects  # type: ignore[arg-type]
        assert reject.reason == "unknown_framing"
        assert words in reject.error
    assert frame([value], "raw").rejects == []


@pytest.mark.parametrize("value", [b"\x03\x05short", b"\x03\x01" + bytes(16), b"Obj", b"x"])
def test_bytes_that_are_nothing_known_are_not_named(value: bytes) -> None:
    (reject,) = frame([value]).rejects
    assert reject.error == reasons.WHOLE["unknown_framing"]


# Headers of records.

GUID = uuid.UUID(bytes=VERSION)
NAMED: dict[tuple[str, bytes], SchemaKey] = {
    ("__value_schema_id", b"\x01" + GUID.bytes): SchemaKey("guid", GUID),
    ("__value_schema_id", b"\0\0\0\1\0"): SchemaKey("id", 256),
    ("apicurio.value.contentId", bytes(7) + b"\x09"): SchemaKey("apicurio", ApicurioId(9, "content")),
    ("apicurio.value.globalId", b"\1" + bytes(7)): SchemaKey("apicurio", ApicurioId(2**56, "global")),
}


@pytest.mark.parametrize(("header", "key"), NAMED.items(), ids=lambda item: item[0] if isinstance(item, tuple) else "")
def test_a_header_names_the_schema_of_the_whole_value_whatever_its_first_bytes_are(
    header: tuple[str, bytes], key: SchemaKey
) -> None:
    name, value = header
    column: list[bytes | str | None] = [value] * len(EVERY_KIND)
    expected = [(key, datum) if datum else framed_alone(datum, "auto") for datum in EVERY_KIND]
    assert framed_messages(EVERY_KIND, "auto", {name: column}) == expected


def test_messages_with_and_without_a_header_are_told_apart_row_by_row() -> None:
    (first, second), guid = list(NAMED)[:2], [None] * len(EVERY_KIND)
    column: list[bytes | str | None] = [*guid]
    column[0], column[5], column[9] = first[1], second[1], first[1]
    expected = [framed_alone(value, "auto") for value in EVERY_KIND]
    expected[0], expected[5], expected[9] = (
        (NAMED[header], EVERY_KIND[row]) for header, row in ((first, 0), (second, 5), (first, 9))
    )
    framed = framed_messages(EVERY_KIND, "auto", {"__value_schema_id": column})
    assert framed == expected


def test_a_schema_that_only_empty_messages_name_is_not_looked_up() -> None:
    headers: dict[str, list[bytes | str | None]] = {"__value_schema_id": [name for _, name in list(NAMED)[:2]] * 2}
    framed = frame([None, b"datum", b"", None], "auto", headers)
    assert (framed.keys, framed.key.tolist()) == ((SchemaKey("id", 256),), [-1, 0, -1, -1])


@pytest.mark.parametrize("mode", ["single_object", "raw", "glue"])
def test_a_pinned_framing_without_headers_does_not_look_at_them(mode: Framing) -> None:
    headers: dict[str, list[bytes | str | None]] = {"__value_schema_id": [b"\x01" + GUID.bytes] * len(EVERY_KIND)}
    assert framed_messages(EVERY_KIND, mode, headers) == framed_messages(EVERY_KIND, mode)


@pytest.mark.parametrize("value", [b"", b"\x01short", b"\x02" + bytes(16), b"\0" + bytes(8), "text"])
def test_a_header_that_names_nothing_rejects_its_message_and_is_shown(value: bytes | str) -> None:
    framed = frame([b"datum", b"datum"], "auto", {"__value_schema_id": [value, b"\x01" + GUID.bytes]})
    (reject,) = framed.rejects
    assert (reject.row, reject.reason) == (0, "unknown_framing")
    assert "header __value_schema_id is neither 00 and 4 bytes nor 01 and 16 bytes" in reject.error
    assert framed.keys == (SchemaKey("guid", GUID),)


# Compression.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not zlib", "cannot be decompressed"),
        (zlib.compress(b"a datum")[:-1], "its compressed data is cut short"),
        (zlib.compress(b"a datum") + b"x", "Bytes follow the end"),
        (zlib.compress(bytes(10 * FREE)), "bytes decompressed"),
    ],
)
def test_data_that_cannot_be_decompressed_says_why(data: bytes, words: str) -> None:
    framed = frame([glue(VERSION, b"ok", compressed=True), b"\x03\x05" + VERSION + data])
    assert [(reject.row, words in reject.error) for reject in framed.rejects] == [(1, True)]


def test_the_longest_datum_that_is_decompressed_has_no_byte_more_than_the_limit() -> None:
    datum = bytes(FREE)
    while (room := FREE + FACTOR * len(glue(VERSION, datum, compressed=True)) - len(datum)) > 0:
        datum += bytes(room)
    assert framed_messages([glue(VERSION, datum, compressed=True)])[0][1] == datum
    assert framed_messages([glue(VERSION, datum + b"\0", compressed=True)]) == ["unknown_framing"]

"""Known entries: maps that are recognised by their bytes have the texts that fastavro reads, and no other map is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.decode import differential
from tests.decode.differential import assert_equal, attribute_combinations, run, try_again
from tests.decode.helpers import record_schema, string, write, zigzag
from tokentrace.decode.columnar import known_entries
from tokentrace.decode.columnar.decoder import ColumnarDecoder
from tokentrace.decode.columnar.segment_table import MOST_WORDS, SegmentTable
from tokentrace.decode.fastavro_decoder import FastavroDecoder
from tokentrace.decode.resolve import resolve
from tokentrace.model.spans import SpanBatch
from tokentrace.model.text_combinations import TextCombinations

VALUE = ["null", "boolean", "long", "double", "string"]
SCHEMA = record_schema(model="string", attributes={"type": "map", "values": VALUE}, prompt_tokens="long")
TEXTS = tuple(f"attributes.{key}" for key in ("team", "tier", "agent", "feature"))
#: Keys of the dimensions, some that resemble them, and some that do not.
KEYS = ("team", "tier", "agent", "feature", "teem", "taem", "retry", "eval.score", "env", "featurf", "x" * 70, "é", "")


class Decoders:
    """Both decoders of a schema, and the combinations that the messages so far had."""

    def __init__(self, schema: Any = SCHEMA, hash_bits: int = 64, **options: int) -> None:
        resolution = resolve(schema, texts=TEXTS)
        self.reference = FastavroDecoder(schema, resolution)
        columnar = ColumnarDecoder.compile(
            schema, resolution, self.reference, **({"min_rows": 0, "sparse_rows": 0} | options)
        )
        assert columnar is not None
        self.columnar = columnar
        self.combinations: TextCombinations = attribute_combinations(TEXTS, hash_bits)

    def compare(self, datums: Sequence[bytes], rows: Sequence[int] | None = None) -> list[int]:
        """Compare a batch with fastavro's. Returns the number of each span's combination."""
        try_again(self.combinations)
        found = run(self.columnar, datums, rows, combinations=self.combinations)
        assert_equal(found, run(self.reference, datums, rows))
        return numbers(found[0])


def numbers(batch: SpanBatch) -> list[int]:
    assert batch.known is not None
    found: list[int] = batch.known.number.tolist()
    return found


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differential, "TEXTS", TEXTS)


def padded(value: int, more: int) -> bytes:
    """Encode a small length with more bytes than it needs."""
    return bytes([2 * value | 0x80]) + b"\x80" * (more - 1) + b"\0" if more else zigzag(value)


def entry(rng: random.Random, key: str, value: Any, odd: bool = False) -> bytes:
    data = key.encode()
    head = padded(len(data), rng.choice((0, 1, 3)) if odd and len(data) < 64 else 0) + data
    if isinstance(value, str):
        text = value.encode()
        return (
            head
            + zigzag(4)
            + (padded(len(text), rng.choice((0, 2))) if odd and len(text) < 64 else zigzag(len(text)))
            + text
        )
    if value is None:
        return head + zigzag(0)
    if isinstance(value, bool):
        return head + zigzag(1) + bytes([value])
    if isinstance(value, int):
        return head + zigzag(2) + zigzag(value)
    return head + zigzag(3) + np.float64(value).tobytes()


def datum(entries: Sequence[bytes], rng: random.Random | None = None) -> bytes:
    """A span with these entries, in blocks of any form where there is a source of randomness."""
    blocks = b""
    left = list(entries)
    while left:
        count = rng.randint(1, len(left)) if rng else len(left)
        body = b"".join(left[:count])
        sized = rng is not None and rng.random() < 0.5
        blocks += (zigzag(-count) + zigzag(len(body)) if sized else zigzag(count)) + body
        left = left[count:]
    return string("m") + blocks + zigzag(0) + zigzag(7)


def any_map(rng: random.Random, odd: bool) -> list[bytes]:
    """Entries in any order, with keys that are missing or repeated, and values of any type."""
    values: list[Any] = ["", "a", "b", "c" * 31, "d" * 32, "e" * 33, "f" * 300, "0", None, True, 0, 7, 0.5, "\0", "a\0"]
    keys = rng.sample(KEYS, rng.randint(0, 8))
    keys += rng.choices(KEYS[:4], k=rng.choice((0, 0, 2)))
    return [entry(rng, key, rng.choice(values), odd) for key in keys]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("hash_bits", [1, 64])
def test_maps_of_any_form_have_the_texts_of_fastavro(
    seed: int, hash_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(known_entries, "BLOCK", rng.choice((3, 20, 4096)))
    decoders = Decoders(hash_bits=hash_bits, chunk_rows=rng.choice((5, 50, 10_000)))
    odd = seed % 2 == 1
    maps = [any_map(rng, odd) for _ in range(60)]
    for _ in range(6):
        some = rng.choices(maps, k=100)
        datums = [datum(entries, rng if odd and rng.random() < 0.3 else None) for entries in some]
        for row in rng.sample(range(100), rng.choice((0, 5))):
            damaged = bytearray(datums[row])
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            datums[row] = bytes(damaged)
        # Rows that are not adjacent, as those of one schema among others.
        decoders.compare(datums, sorted(rng.sample(range(150), 100)) if rng.random() < 0.5 else None)


def usual(rng: random.Random, number: int, **more: Any) -> bytes:
    values = {"env": "prod", "retry": rng.randrange(9), **more, "team": f"team-{number}", "tier": f"{number % 3}"}
    return write(SCHEMA, {"model": "m", "prompt_tokens": 7, "attributes": values})


def test_maps_that_repeat_are_known_and_those_with_the_same_texts_have_one_number() -> None:
    rng = random.Random(1)
    decoders = Decoders()
    batches = [[usual(rng, number % 5, request=rng.random()) for number in range(200)] for _ in range(4)]
    found = [decoders.compare(batch) for batch in batches]
    assert not any(found[0])
    assert found[1] == found[2] == found[3] == [1 + number % 5 for number in range(200)]
    other_order = [
        write(SCHEMA, {"model": "m", "prompt_tokens": 7, "attributes": {"tier": "0", "x": 1, "team": "team-0"}})
    ] * 8
    assert not any(decoders.compare(other_order))
    assert set(decoders.compare(other_order)) == {1}


@pytest.mark.parametrize(("short", "long"), [(1, 9), (9, 30), (30, 200)])
def test_longer_maps_in_a_later_block_leave_those_of_an_earlier_one_to_be_learned(
    short: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of a segment become more while a chunk is looked up."""
    monkeypatch.setattr(known_entries, "BLOCK", 8)
    rng = random.Random(7)
    decoders = Decoders()
    datums = [datum([entry(rng, "team", letter * size)]) for size in (short, long) for letter in "abcdefgh"]
    decoders.compare(datums)
    assert decoders.compare(datums) == list(range(1, 17))


def test_maps_without_a_chosen_key_are_one_combination() -> None:
    decoders = Decoders()
    datums = [datum([]), datum([string("env") + zigzag(4) + string("prod")])] * 8
    found = decoders.compare(datums)
    assert len(set(found)) == 1
    assert decoders.combinations.texts[found[0]] == (b"",) * len(TEXTS)


@pytest.mark.parametrize("others", [0, 20, 21, 22, 23, 24, 40])
@pytest.mark.parametrize("alike", [True, False], ids=["alike", "unlike"])
def test_a_chosen_key_behind_many_others_is_found(others: int, alike: bool) -> None:
    """Also behind the entries that can have marks, where the maps of a batch are all alike and where they are not."""
    decoders = Decoders()
    long = [entry(random.Random(0), f"key-{number:03}", number) for number in range(others)]
    long += [entry(random.Random(0), "team", "last"), *long[: others % 3]]
    datums = [datum(long), datum(long if alike else long[-4:])] * 8
    for _ in range(3):
        found = decoders.compare(datums)
    if others <= 21:
        assert decoders.combinations.texts[found[0]][0] == b"last"


@pytest.mark.parametrize("hash_bits", [1, 64])
def test_one_byte_makes_another_map(hash_bits: int) -> None:
    """Each byte of the entries is compared: of keys, types, lengths and values."""
    decoders = Decoders(hash_bits=hash_bits)
    rng = random.Random(2)
    entries = b"".join(
        entry(rng, key, value) for key, value in (("team", "a-team"), ("agent", 5), ("tier", "gold"), ("feature", "ab"))
    )
    plain = string("m") + zigzag(4) + entries + zigzag(0) + zigzag(7)
    for _ in range(2):
        decoders.compare([plain] * 8)
    assert set(decoders.compare([plain] * 8)) == {1}
    first = len(string("m")) + 1
    for at in range(first, first + len(entries)):
        for bit in (0, 5):
            other = plain[:at] + bytes([plain[at] ^ 1 << bit]) + plain[at + 1 :]
            # The others keep the number, and this one has none.
            found = decoders.compare([plain, other, plain, plain, plain, plain])
            assert len(found) < 6 or found[1] != 1, (at, bit)
            assert found[0] == 1


def test_a_length_of_more_bytes_than_it_needs_does_not_make_one_key_another() -> None:
    """The bytes behind the lengths are alike: `team` with four bytes, or a key of five bytes with three."""
    rest = b"team" + zigzag(4) + zigzag(4) + zigzag(3) + b"abc"
    one, other = (string("m") + zigzag(1) + padded(size, 1) + rest + zigzag(0) + zigzag(7) for size in (4, 5))
    decoders = Decoders()
    for _ in range(3):
        decoders.compare([one] * 8)
    decoders.compare([other, one] * 8)


def test_keys_that_only_resemble_chosen_ones_are_learned_and_left_out() -> None:
    """A key of a chosen one's length, with another value in each span, does not make every map a new one."""
    rng = random.Random(3)
    decoders = Decoders()

    def batch(key: str) -> list[bytes]:
        return [usual(rng, number % 5, **{key: f"{rng.random()}"}) for number in range(200)]

    for key in ("tear", "tiar", "seat"):
        for _ in range(2):
            decoders.compare(batch(key))
        assert all(decoders.compare(batch(key))), key


def test_maps_are_read_alone_where_most_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_entries, "_MOST_NEW", 3)
    rng = random.Random(4)
    decoders = Decoders()
    tries = []
    for batch in range(40):
        datums = [usual(rng, 1000 * batch + number) for number in range(20)]
        before = decoders.combinations.forms
        found = run(decoders.columnar, datums, combinations=decoders.combinations)
        assert_equal(found, run(decoders.reference, datums))
        assert not any(numbers(found[0]))
        if decoders.combinations.forms > before:
            tries.append(batch)
    assert decoders.combinations.forms == 3 * len(tries)
    assert tries == [0, 2, 5, 10, 19, 36]


def test_no_more_forms_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokentrace.model.text_combinations.MOST_FORMS", 10)
    rng = random.Random(5)
    decoders = Decoders()
    for _ in range(3):
        decoders.compare([usual(rng, number) for number in range(40)])
    assert decoders.combinations.forms == 10
    assert decoders.combinations.full


def test_the_values_of_two_schemas_do_not_mix() -> None:
    """The same bytes are a long in one schema, and a string in the other."""
    long_first = record_schema(model="string", attributes={"type": "map", "values": ["long", "string"]})
    string_first = record_schema(model="string", attributes={"type": "map", "values": ["string", "long"]})
    entries = string("team") + zigzag(0) + zigzag(0)
    data = string("m") + zigzag(1) + entries + zigzag(0)
    one, other = Decoders(long_first), Decoders(string_first)
    other.combinations = one.combinations
    for _ in range(3):
        found = [decoders.compare([data] * 8)[0] for decoders in (one, other)]
    assert [one.combinations.texts[number][0] for number in found] == [b"0", b""]


def test_a_table_keeps_its_rows_while_it_grows() -> None:
    rng = np.random.default_rng(6)
    table = SegmentTable(2)
    rows = [rng.integers(1, 1 << 63, (3000, width), np.uint64) for width in (1, 2)]
    # Words that differ in their highest byte alone, which a product moves nowhere.
    rows[0][:1500] = rows[0][0] ^ (np.arange(1500, dtype=np.uint64)[:, None] & 0xFF) << np.uint64(56)
    table.widen([1, 2])
    for row in range(1500):
        table.add(rows, row, row + 1)
    table.arrange()
    table.widen([2, 8])
    wide = [np.hstack([words, np.zeros((3000, more), np.uint64)]) for words, more in zip(rows, (1, 6), strict=True)]
    assert table.find(wide).tolist() == [*range(1, 1501), *[0] * 1500]
    assert table.find([np.zeros((2, 2), np.uint64), np.zeros((2, 8), np.uint64)]).tolist() == [0, 0]
    assert max(table.widths) <= MOST_WORDS

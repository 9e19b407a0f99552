"""Groups and cells: distinct label triples have distinct numbers, whatever their hashes are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import span_batch
from tests.spanfactory import span
from tokentrace.aggregate.groups import GroupIndex
from tokentrace.model.snapshot import OVERFLOW, OVERFLOW_GROUP, Group

HASH_BITS = pytest.mark.parametrize("hash_bits", [0, 5, 64])
Triple = tuple[str, str, str]


def numbers(index: GroupIndex, *triples: Triple) -> list[int]:
    """The group numbers of a batch of spans with these labels."""
    records = [span(model=model, provider=provider, caller=caller) for model, provider, caller in triples]
    return index.lookup(span_batch(*records)).tolist()


def labels(index: GroupIndex, found: list[int]) -> list[Any]:
    return [index.groups[number].base for number in found]


A, B, C = ("gpt-4o", "openai", "search"), ("gpt-4o", "openai", ""), ("claude", "anthropic", "search")


@HASH_BITS
def test_equal_labels_are_one_group_within_and_across_batches(hash_bits: int) -> None:
    index = GroupIndex(10, hash_bits)
    first = numbers(index, A, B, A, C, B)
    assert labels(index, first) == [A, B, A, C, B]
    assert sorted(set(first)) == [1, 2, 3]
    assert numbers(index, C, A) == [first[3], first[0]]
    assert len(index.groups) == 4


def test_new_groups_are_numbered_as_they_come() -> None:
    index = GroupIndex(10)
    assert numbers(index, B, C, B, A) == [1, 2, 1, 3]
    assert index.groups == [Group(OVERFLOW, OVERFLOW, OVERFLOW), Group(*B), Group(*C), Group(*A)]


#: Triples whose joined text is the same, or the same but for zero bytes, or which differ in one place only.
ALIKE: list[Triple] = [
    ("ab", "c", ""),
    ("a", "bc", ""),
    ("a", "b", "c"),
    ("abc", "", ""),
    ("abc", "\0", ""),
    ("abc\0", "", ""),
    ("abc", "", "\0"),
    ("abc\0\0\0\0\0", "", ""),
    ("abc\0\0\0\0\0\0", "", ""),
    *(("m" * 7 + "x" * count, "p", "c") for count in range(20)),
    *(("m" * 40 + tail, "p" * 17, "c" * 9) for tail in ("a", "b", "ab", "ba")),
    *(("m", "p" * 40 + tail, "") for tail in ("a", "b", "ab", "ba")),
    *(("m", "", "c" * 40 + tail) for tail in ("a", "b", "ab", "ba")),
    *(("é" * count, "ü", "日本語" * count) for count in range(1, 9)),
    *(("🤖" * 256, "p" * 1024, "c" * 1023 + tail) for tail in ("a", "b")),
]


@HASH_BITS
def test_labels_that_are_nearly_alike_never_share_a_group(hash_bits: int) -> None:
    index = GroupIndex(1000, hash_bits)
    found = numbers(index, *ALIKE, *reversed(ALIKE))
    assert labels(index, found) == [*ALIKE, *reversed(ALIKE)]
    assert sorted(set(found)) == list(range(1, len(ALIKE) + 1))


@HASH_BITS
def test_a_group_is_found_in_whatever_company_its_span_comes(hash_bits: int) -> None:
    together, apart = GroupIndex(1000, hash_bits), GroupIndex(1000, hash_bits)
    for triple in ALIKE:
        numbers(apart, triple)
    assert labels(apart, numbers(apart, *ALIKE)) == ALIKE
    assert len(apart.groups) == len(ALIKE) + 1
    numbers(together, *ALIKE)
    assert [labels(together, numbers(together, triple)) for triple in ALIKE] == [[triple] for triple in ALIKE]


@pytest.mark.parametrize(("hash_bits", "many"), [(64, 6000), (8, 1100)])
def test_numbers_stay_as_the_table_grows(hash_bits: int, many: int) -> None:
    index = GroupIndex(many, hash_bits)
    triples = [(f"model-{number}", f"p{number % 7}", "caller" * (number % 9)) for number in range(many)]
    found = []
    for start in range(0, many, 500):
        found += numbers(index, *triples[start : start + 500])
    assert sorted(found) == list(range(1, many + 1))
    assert numbers(index, *triples) == found
    assert labels(index, found) == triples


def test_an_empty_batch_finds_nothing() -> None:
    index = GroupIndex(10)
    assert numbers(index) == []
    assert index.cells(np.zeros(0, np.int64), np.zeros(0, np.uint8)).tolist() == []


# Overflow.


@HASH_BITS
def test_beyond_the_limit_new_groups_fold_into_the_overflow(hash_bits: int) -> None:
    index = GroupIndex(2, hash_bits)
    kept = numbers(index, A, B)
    assert numbers(index, C, A, ("new", "", ""), B) == [OVERFLOW_GROUP, kept[0], OVERFLOW_GROUP, kept[1]]
    assert len(index.groups) == 3


def test_a_batch_that_meets_the_limit_fills_it_first() -> None:
    assert numbers(GroupIndex(2), A, B, C, A, C) == [1, 2, 0, 1, 0]


@HASH_BITS
def test_labels_that_spell_the_overflow_are_the_overflow(hash_bits: int) -> None:
    index = GroupIndex(10, hash_bits)
    spelled = (OVERFLOW, OVERFLOW, OVERFLOW)
    assert numbers(index, spelled, A, spelled) == [OVERFLOW_GROUP, 1, OVERFLOW_GROUP]
    assert len(index.groups) == 2
    assert labels(index, numbers(index, (OVERFLOW, OVERFLOW, ""))) == [(OVERFLOW, OVERFLOW, "")]
    many = [(f"model-{number}", "", "") for number in range(300)]
    numbers(big := GroupIndex(1000, hash_bits), *many)
    assert numbers(big, spelled) == [OVERFLOW_GROUP]


# Restored groups.


def adopted(index: GroupIndex, *cells: tuple[tuple[str, str, str], int]) -> list[int]:
    groups = [Group(*triple) for triple, _ in cells]
    return index.adopt(groups, np.array([status for _, status in cells], np.uint8)).tolist()


@HASH_BITS
def test_a_restored_group_is_the_one_that_spans_find(hash_bits: int) -> None:
    index = GroupIndex(10, hash_bits)
    cells = adopted(index, (A, 0), (A, 2), (B, 0), (B, 2))
    assert cells == [0, 1, 2, 3]
    assert adopted(index, (A, 2)) == [1]
    assert numbers(index, B, C, A) == [2, 3, 1]
    assert index.cells(np.array([1, 2]), np.array([2, 0], np.uint8)).tolist() == [1, 2]


def test_restored_groups_are_taken_whatever_the_limit_is() -> None:
    index = GroupIndex(1)
    adopted(index, (A, 0), (B, 0), (C, 0))
    assert numbers(index, C, A, ("new", "", "")) == [3, 1, OVERFLOW_GROUP]


def test_the_restored_overflow_is_the_overflow() -> None:
    index = GroupIndex(1)
    (cell,) = adopted(index, ((OVERFLOW, OVERFLOW, OVERFLOW), 1))
    assert (index.cell_group[cell], index.cell_status[cell], len(index.groups)) == (OVERFLOW_GROUP, 1, 1)


# Cells.


def test_a_cell_is_a_group_with_a_status() -> None:
    index = GroupIndex(10)
    group = np.array(numbers(index, A, B, A, A))
    cell = index.cells(group, np.array([0, 2, 1, 0], np.uint8))
    assert sorted(set(cell.tolist())) == [0, 1, 2]
    assert index.cell_group[cell].tolist() == group.tolist()
    assert index.cell_status[cell].tolist() == [0, 2, 1, 0]


def test_groups_of_a_snapshot_never_change() -> None:
    index = GroupIndex(2000)
    held = []
    for first in range(0, 1000, 50):
        found = numbers(index, *((f"m{number}", "", "") for number in range(first, first + 50)))
        index.cells(np.array(found), np.full(50, first % 3, np.uint8))
        held.append((index.cell_group, index.cell_status, index.cell_group.tolist(), index.cell_status.tolist()))
    for group, status, group_then, status_then in held:
        assert (group.tolist(), status.tolist()) == (group_then, status_then)


# The law: an index is a dictionary.

NAME = st.one_of(
    st.sampled_from(["", "a", "ab", "b", "abcdefgh", "abcdefghi", OVERFLOW, "é", "m" * 1024]),
    st.text(st.characters(codec="utf-8"), max_size=300),
)
TRIPLE = st.tuples(st.sampled_from(["m", "n"]) | NAME, NAME, NAME)
POOL = st.lists(TRIPLE, min_size=1, max_size=12)


@given(st.data(), POOL, st.sampled_from([0, 1, 3, 64]), st.integers(1, 14))
def test_an_index_is_a_dictionary_with_a_limit(
    data: st.DataObject, pool: list[Triple], hash_bits: int, max_groups: int
) -> None:
    index = GroupIndex(max_groups, hash_bits)
    known: dict[Triple, int] = {(OVERFLOW, OVERFLOW, OVERFLOW): OVERFLOW_GROUP}
    known_cells: dict[tuple[int, int], int] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        batch = data.draw(st.lists(st.sampled_from(pool), max_size=10))
        found = numbers(index, *batch)
        new = {triple for triple in batch if triple not in known}
        assert len(index.groups) == min(len(known) + len(new), max(max_groups + 1, len(known)))
        for triple, number in zip(batch, found, strict=True):
            if number != OVERFLOW_GROUP:
                assert index.groups[number].base == triple
                assert known.setdefault(triple, number) == number
        folded = {triple for triple, number in zip(batch, found, strict=True) if number == OVERFLOW_GROUP}
        assert not folded & (known.keys() - {(OVERFLOW, OVERFLOW, OVERFLOW)})
        assert sorted(known.values()) == list(range(len(index.groups)))
        status = data.draw(st.lists(st.integers(0, 2), min_size=len(batch), max_size=len(batch)))
        cells = index.cells(np.array(found, np.int64), np.array(status, np.uint8)).tolist()
        for pair, cell in zip(zip(found, status, strict=True), cells, strict=True):
            assert known_cells.setdefault(pair, cell) == cell
            assert (index.cell_group[cell], index.cell_status[cell]) == pair
        assert sorted(known_cells.values()) == list(range(len(index.cell_group)))

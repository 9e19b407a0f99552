"""Decimals as cost: exact to the nano-dollar, from the bytes to the committed sum."""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.differential import fallback_rows
from tests.decode.helpers import decode, record_schema, string, zigzag
from tests.harness import Harness, cells_of
from tokentrace.decode.resolve import resolve
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import SchemaError
from tokentrace.model.bundled_schemas import fingerprint_of

NANO = Decimal("1e-9")


def decimal_type(scale: int, size: int | None = None) -> dict[str, Any]:
    kind = {"type": "bytes"} if size is None else {"type": "fixed", "name": "Amount", "size": size}
    return {**kind, "logicalType": "decimal", "precision": 60, "scale": scale}


def encoded(unscaled: int, size: int | None = None) -> bytes:
    """Return a decimal of the least bytes, as Java writes it, or of a fixed size."""
    if size is not None:
        return unscaled.to_bytes(size, "big", signed=True)
    data = unscaled.to_bytes(unscaled.bit_length() // 8 + 1, "big", signed=True)
    return zigzag(len(data)) + data


def nano_usd(unscaled: int, scale: int) -> int:
    """Return nano-dollars, by Python's decimals."""
    with localcontext(prec=200):
        amount = Decimal(unscaled).scaleb(-scale).quantize(NANO, ROUND_HALF_EVEN)
        return int(amount.scaleb(9))


def counted(schema: Any, data: list[bytes]) -> tuple[dict[str, int], dict[str, int]]:
    """Return (caller -> nano-dollars of its spans, rejects by reason), as a worker commits them."""
    rig = Harness(schemas=WriterSchemas({fingerprint_of(schema): schema}))
    header = b"\xc3\x01" + fingerprint_of(schema)
    rig.count([header + datum for datum in data])
    rejects = dict(rig.delta.reasons)
    cells = cells_of(rig.commit())
    return {
        caller: cell["cost_nano_usd"] for (_, _, caller, _), cell in cells.items() if "cost_nano_usd" in cell
    }, rejects


AMOUNTS = st.integers(-(10**7), 10**17) | st.integers(0, 2**70)


@given(st.lists(AMOUNTS, min_size=1, max_size=20), st.sampled_from([0, 2, 6, 9, 10, 12, 18, 27, 28, 50]))
def test_each_amount_is_the_nano_dollars_that_pythons_decimals_give(amounts: list[int], scale: int) -> None:
    schema = record_schema(model="string", cost_usd=["null", decimal_type(scale)])
    spans, rejects = decode(schema, *(string("m") + zigzag(1) + encoded(amount) for amount in amounts))
    assert rejects == []
    for span, amount in zip(spans, amounts, strict=True):
        nano = nano_usd(amount, scale)
        if abs(nano) <= 10**15:
            assert round(span["cost_usd"] * 1e9) == nano
            assert span["cost_usd"] == nano / 10**9
        else:
            assert abs(span["cost_usd"]) > 1e6


@pytest.mark.parametrize("size", [None, 8, 20])
def test_half_a_nano_dollar_is_rounded_to_even(size: int | None) -> None:
    """Of 20 bytes a decimal leaves the columns."""
    amounts = {5: 0, 6: 1, 15: 2, 25: 2, 35: 4, -5: 0, -15: -2, -25: -2, -26: -3}
    assert {amount: nano_usd(amount, 10) for amount in amounts} == amounts
    schema = record_schema(model="string", cost_usd=decimal_type(10, size))
    spans, _ = decode(schema, *(string("m") + encoded(amount, size) for amount in amounts))
    assert [span["cost_usd"] for span in spans] == [nano / 10**9 for nano in amounts.values()]


@given(st.lists(AMOUNTS, min_size=1, max_size=9), st.sampled_from([0, 9, 13]), st.sampled_from([10, 12, 16, 20]))
def test_fixed_decimals_are_the_same_amounts(amounts: list[int], scale: int, size: int) -> None:
    spans = [
        decode(record_schema(model="string", cost_usd=type_), *(string("m") + data for data in datums))
        for type_, datums in (
            (decimal_type(scale), [encoded(amount) for amount in amounts]),
            (decimal_type(scale, size), [encoded(amount, size) for amount in amounts]),
        )
    ]
    assert spans[0] == spans[1]


def test_usual_decimals_are_decoded_in_columns_and_only_unusual_ones_alone() -> None:
    amounts = [0, 1, 127, 128, -1, 12_345_678, 10**15, 2**53 // 1000, 2**80]
    for size in (None, 8, 16):
        usual = [amount for amount in amounts if size is None or amount.bit_length() < 8 * size]
        schema = record_schema(model="string", cost_usd=decimal_type(6, size))
        rows = fallback_rows(schema, [string("m") + encoded(amount, size) for amount in usual])
        assert rows == [row for row, amount in enumerate(usual) if amount > 2**53 // 1000]


def test_a_decimal_without_bytes_is_no_cost() -> None:
    schema = record_schema(model="string", cost_usd=decimal_type(2), prompt_tokens="long")
    good, empty = (string("m") + data + zigzag(3) for data in (encoded(5), zigzag(0)))
    assert counted(schema, [good, empty])[1] == {"cost_invalid": 1}


@pytest.mark.parametrize("size", [None, 200])
@pytest.mark.parametrize("scale", [0, 9, 50])
def test_a_decimal_beyond_every_double_is_no_cost(scale: int, size: int | None) -> None:
    """Of one with more than 400 digits not even the sign has a double."""
    schema = record_schema(model="string", cost_usd=decimal_type(scale, size), prompt_tokens="long")
    amounts = [10**450, -(10**450), 5 * 10**scale]
    data = [string("m") + encoded(amount, size) + zigzag(3) for amount in amounts]
    assert counted(schema, data) == ({"": 5 * 10**9}, {"cost_invalid": 2})


@pytest.mark.parametrize(
    "broken",
    [{"precision": 0}, {"precision": 4, "scale": 5}, {"precision": 4, "scale": -1}, {"scale": 2}, {"precision": "4"}],
)
def test_a_decimal_that_avro_ignores_is_bytes_and_no_cost(broken: dict[str, Any]) -> None:
    schema = record_schema(model="string", cost_usd={"type": "bytes", "logicalType": "decimal", **broken})
    with pytest.raises(SchemaError, match="cost_usd takes decimal or double or float or int or long"):
        resolve(schema)


def test_the_committed_cost_of_decimals_is_the_sum_of_the_invoice() -> None:
    """A hundred callers, each with amounts that no double has exactly."""
    schema = record_schema(model="string", caller="string", cost_usd=["null", decimal_type(9)], prompt_tokens="long")
    amounts = [(f"caller-{number % 100}", 10 ** (number % 16) + number) for number in range(2000)]
    data = [string("m") + string(caller) + zigzag(1) + encoded(amount) + zigzag(1) for caller, amount in amounts]
    sums: Counter[str] = Counter()
    for caller, amount in amounts:
        sums[caller] += amount if amount <= 10**15 else 0
    over = sum(amount > 10**15 for _, amount in amounts)
    assert over > 0
    assert counted(schema, data) == (dict(+sums), {"cost_out_of_range": over})

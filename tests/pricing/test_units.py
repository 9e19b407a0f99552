"""Every unit that genai-prices knows: tokentrace has each, and charges for it what genai-prices does."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import numpy as np
import pytest
from genai_prices import Usage
from genai_prices.data import providers
from genai_prices.types import ModelInfo, Provider
from genai_prices.units import UnitDef, _get_registry

from tests.pricing.test_genai_prices import MODELS, bounds_of, moments_of, prices_of
from tokentrace.model.units import PARTS, UNITS, WHOLES
from tokentrace.pricing.genai_prices import plan_of
from tokentrace.pricing.table import RateTable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KNOWN: dict[str, UnitDef] = dict(_get_registry().units)
#: The library's own names, wholes and scales: a unit is part of another if its dimensions include the other's.
OWNER = {provider.id: provider for provider in providers}
#: Without requests: the library counts each call as one, whatever its usage says.
REPORTED = [unit for unit in UNITS if unit.name != "request"]


def test_every_unit_of_the_price_table_is_in_ours_and_no_other() -> None:
    assert {unit.usage: unit.price for unit in UNITS} == {name: unit.price_key for name, unit in KNOWN.items()}
    assert len({unit.name for unit in UNITS}) == len(UNITS)


def test_every_price_of_every_model_is_of_a_unit() -> None:
    prices = {name for _, info in MODELS for prices in prices_of(info) for name in vars(prices)}
    assert prices <= {unit.price for unit in UNITS}
    assert len(prices) > 20


def test_a_unit_is_part_of_what_the_library_says() -> None:
    ours = {(unit.usage, other.usage) for unit in UNITS for other in UNITS if other.name in WHOLES[unit.name]}
    theirs = {
        (name, other)
        for name, part in KNOWN.items()
        for other, whole in KNOWN.items()
        if whole.dimensions.items() < part.dimensions.items()
    }
    assert ours == theirs
    assert {(part, whole) for part, wholes in WHOLES.items() for whole in wholes} == {
        (part, whole) for whole, parts in PARTS.items() for part in parts
    }


def random_usage(rng: random.Random, info: ModelInfo) -> dict[str, int]:
    """Quantities of some of the units that a model prices and of some others, in the columns' units.

    Each whole holds its parts, as the library demands.
    """
    priced = {name for prices in prices_of(info) for name in vars(prices)}
    chosen = [unit for unit in REPORTED if rng.random() < (0.7 if unit.price in priced else 0.03)]
    usage: dict[str, int] = dict.fromkeys((unit.name for unit in UNITS), 0)
    for unit in chosen:
        most = unit.most // len(UNITS) // 4
        quantity = rng.choice([1, rng.randrange(1, 2000), rng.randrange(1, most)])
        for name in (unit.name, *WHOLES[unit.name]):
            usage[name] += quantity
    if bounds := bounds_of(info):
        usage["prompt"] = max(usage["prompt"], rng.choice(bounds) + rng.choice([-1, 0, 1]))
    return usage


def charged(info: ModelInfo, provider: Provider, usage: dict[str, int], moment_us: int) -> int:
    """Nano-USD by genai-prices, without a digit lost."""
    with localcontext() as context:
        context.prec = 80
        theirs = Usage(
            **{unit.usage: Decimal(usage[unit.name]) / unit.scale if unit.scale > 1 else usage[unit.name]
               for unit in REPORTED}
        )  # fmt: skip
        moment = EPOCH + timedelta(microseconds=moment_us)
        total = info.calc_price(theirs, provider, genai_request_timestamp=moment).total_price
        return int((total * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


def test_every_unit_of_every_model_costs_its_listed_price() -> None:
    rng = random.Random(1)
    table = RateTable()
    numbers, usages, moments, expected = [], [], [], []
    seen: set[str] = set()
    for provider, info in MODELS * 3:
        plan = plan_of(info, OWNER[provider])
        if plan is None:
            continue
        usage, moment_us = random_usage(rng, info), rng.choice(moments_of(info))
        priced = {name for prices in prices_of(info) for name in vars(prices)}
        seen |= {unit.price for unit in UNITS if unit.price in priced and usage[unit.name]}
        numbers.append(table.add(plan))
        usages.append(usage)
        moments.append(moment_us)
        expected.append((info.id, usage, charged(info, OWNER[provider], usage, moment_us)))
    columns = {unit.name: np.array([usage[unit.name] for usage in usages]) for unit in UNITS}
    at = np.array(moments)
    found = table.charge(np.array(numbers, np.int32), columns, lambda rows: at[rows]).nano_usd.tolist()
    wrong = [(row, nano) for row, nano in zip(expected, found, strict=True) if row[2] != nano]
    assert wrong == []
    assert len(found) > 6000
    assert seen == {name for _, info in MODELS for prices in prices_of(info) for name in vars(prices)} - {
        "requests_kcount"
    }


@pytest.mark.parametrize(("milliseconds", "billed"), [(0, 0), (1, 10_000), (9_999, 10_000), (10_000, 10_000),
                                                       (10_001, 10_001), (3_600_000, 3_600_000)])  # fmt: skip
def test_a_transcription_is_charged_for_its_shortest_time(milliseconds: int, billed: int) -> None:
    info = next(info for provider, info in MODELS if provider == "groq" and info.id == "whisper-large-v3")
    plan = plan_of(info, OWNER["groq"])
    assert plan is not None
    table = RateTable()
    usage = {unit: np.array([milliseconds if "second" in unit else 0]) for unit in ("prompt", "completion", "second")}
    found = table.charge(np.array([table.add(plan)], np.int32), usage, lambda at: at)
    assert found.nano_usd.tolist() == [round(Decimal("0.111") * 10**9 * billed / 3_600_000)]
    assert found.billed.tolist() == [milliseconds > 0]
